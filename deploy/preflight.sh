#!/bin/sh
# Is everything there that the platform needs? Prints one message and exits 1 at the first thing that is not.
set -eu
die() { echo "$*" >&2; exit 1; }

command -v docker >/dev/null ||
    die "No Docker here. Install Docker's engine with Compose (https://docs.docker.com/engine/install/), or on Debian run: sudo deploy/airgap/engine.sh"
said=$(docker info --format '{{.ServerVersion}}' 2>&1) || case $said in
    *"permission denied"*) die "Docker's engine refuses this user. Add yourself to the group docker and log in again: sudo usermod -aG docker $(id -un)" ;;
    *) die "Docker's engine does not answer. Start it: sudo systemctl start docker, or on a machine without systemd: sudo deploy/airgap/engine.sh" ;;
esac
version=$(docker compose version --short 2>/dev/null) ||
    die "Docker has no Compose v2 (docker compose). Install the plugin docker-compose-plugin, or on Debian run: sudo deploy/airgap/engine.sh"
version=${version#v}
major=${version%%.*}
rest=${version#*.}
minor=${rest%%.*}
if [ "$major" -lt 2 ] || { [ "$major" -eq 2 ] && [ "$minor" -lt 24 ]; }; then
    die "Expected Docker Compose 2.24 or newer, but found $version. Update the plugin docker-compose-plugin."
fi
docker buildx version >/dev/null 2>&1 ||
    die "Docker has no buildx. Install the plugin docker-buildx-plugin, or on Debian run: sudo deploy/airgap/engine.sh"

# A proxy that is set but gone makes every download of a build hang or fail in an obscure way.
for proxy in "${https_proxy:-${HTTPS_PROXY:-}}" "${http_proxy:-${HTTP_PROXY:-}}"; do
    [ -n "$proxy" ] || continue
    place=${proxy#*://}
    place=${place##*@}
    place=${place%%/*}
    port=${place##*:}
    [ "$port" != "$place" ] || port=80
    timeout 5 bash -c ">/dev/tcp/${place%%:*}/$port" 2>/dev/null ||
        die "The proxy of this network, ${place%%:*}:$port, gives no answer. Correct or unset http_proxy and https_proxy."
done
