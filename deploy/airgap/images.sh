#!/bin/sh
# Makes the base image of every Dockerfile here from Debian's packages, under the name that a registry gives it.
#
#   deploy/airgap/images.sh [--again]
#
# Every image of this project starts FROM debian:trixie-slim and takes all else from Debian's packages and
# Python wheels, so this one image is what a network without an image registry lacks. Kept when present.
# Needs root (debootstrap), a running engine, and apt sources with Debian's main archive.
set -eu

image=debian:trixie-slim
die() { echo "images.sh: $*" >&2; exit 1; }

docker info >/dev/null 2>&1 || die "no Docker engine answers. Start it, or run deploy/airgap/engine.sh."
if [ "${1:-}" != --again ] && docker image inspect "$image" >/dev/null 2>&1; then
    echo "$image is there already"
    exit 0
fi
[ "$(id -u)" = 0 ] || die "debootstrap needs root: sudo $0"
command -v debootstrap >/dev/null || die "debootstrap is missing: apt-get install debootstrap"

mirror=$(apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' |
    awk '$1 == "Debian" && $2 == "main" && $3 !~ /security/ { print $3; exit }')
[ -n "$mirror" ] || die "no apt source of Debian's main archive found. Add one and run apt-get update."

root=$(mktemp -d)
trap 'rm -rf "$root" "$root.log"' EXIT
debootstrap --variant=minbase --include=ca-certificates trixie "$root" "$mirror" >"$root.log" 2>&1 ||
    { tail -5 "$root.log" >&2; die "debootstrap from $mirror failed, see above."; }
# What a registry's slim image leaves out too: caches, lists, manuals.
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* \
    "$root"/usr/share/man/* "$root"/usr/share/locale/* "$root"/var/log/*.log
tar -C "$root" -c . | docker import -c 'CMD ["bash"]' - "$image" >/dev/null
echo "$image made from $mirror"
