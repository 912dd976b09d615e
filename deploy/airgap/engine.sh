#!/bin/sh
# Puts a running Docker engine with Compose v2 and buildx on a Debian machine, from Debian's packages alone.
#
# For machines that reach a mirror of Debian and nothing else. Safe to repeat: what is there already is kept,
# and nothing is installed where `docker compose` and `docker buildx` work.
# Needs root and apt sources with Debian's main archive; prints one message and exits 1 when something is missing.
set -eu

suite=${FERRY_PLUGINS_SUITE:-trixie}   # Compose v2 and buildx are packages since Debian 13
plugins=/usr/libexec/docker/cli-plugins
log=${FERRY_DOCKERD_LOG:-/var/log/dockerd.log}

die() { echo "engine.sh: $*" >&2; exit 1; }
quietly() {   # runs a command, shows what it said only when it fails
    said=$("$@" 2>&1) || { echo "$said" >&2; die "'$*' failed, see above. Is Debian's archive reachable (apt-get update)?"; }
}

[ "$(id -u)" = 0 ] || die "needs root: sudo $0"
command -v apt-get >/dev/null || die "is for Debian. Elsewhere install Docker's engine, Compose v2 and buildx your own way."

missing=""
command -v dockerd >/dev/null || missing="$missing docker.io"
command -v iptables >/dev/null || missing="$missing iptables"
command -v debootstrap >/dev/null || missing="$missing debootstrap"
if [ -n "$missing" ]; then
    quietly apt-get update -q
    # shellcheck disable=SC2086  # the list is meant to split
    DEBIAN_FRONTEND=noninteractive quietly apt-get install -y -q --no-install-recommends $missing
fi

if ! docker compose version >/dev/null 2>&1 || ! docker buildx version >/dev/null 2>&1; then
    # The machine's own source of Debian packages, under the name of the newer suite, in a set of apt
    # directories of its own: the machine's own package lists and choices stay as they are.
    mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "main" && $3 !~ /security/ { print $3; exit }')
    [ -n "$mirror" ] || die "no apt source of Debian's main archive found. Add one and run apt-get update."
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root" "$work/parts"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" >"$work/sources.list"
    apt_private() {
        apt-get -q -oDir::Etc::sourcelist="$work/sources.list" -oDir::Etc::sourceparts="$work/parts" \
            -oDir::State::lists="$work/lists" -oDir::Cache="$work/cache" -oAPT::Sandbox::User=root "$@"
    }
    quietly apt_private update
    (cd "$work/debs" && quietly apt_private download "docker-compose/$suite" "docker-buildx/$suite")
    for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
    mkdir -p "$plugins"
    cp "$work"/root/usr/libexec/docker/cli-plugins/* "$plugins/"
    docker compose version >/dev/null || die "Compose from $suite does not start here."
fi

if ! docker info >/dev/null 2>&1; then
    if [ -d /run/systemd/system ]; then
        quietly systemctl enable --now docker
    else
        # No init system (a container, a CI machine): the engine runs in the background until the machine stops.
        pid=$(cat /var/run/docker.pid 2>/dev/null || echo 0)
        grep -qs dockerd "/proc/$pid/comm" || rm -f /var/run/docker.pid   # left by a machine that lost power
        setsid dockerd >"$log" 2>&1 </dev/null &
        engine=$!
        tries=0
        until docker info >/dev/null 2>&1; do
            kill -0 "$engine" 2>/dev/null || { tail -5 "$log" >&2; die "dockerd ended at once; its log is $log."; }
            tries=$((tries + 1))
            [ "$tries" -lt 120 ] || { tail -5 "$log" >&2; die "dockerd gives no answer after 60 s; its log is $log."; }
            sleep 0.5
        done
    fi
fi
echo "engine $(docker version --format '{{.Server.Version}}'), compose $(docker compose version --short), $(docker buildx version | cut -d' ' -f2) buildx"
