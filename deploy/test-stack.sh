#!/bin/sh
# The stack tests: engine, base image and browser are installed where they are missing (Debian, root), then pytest
# builds and starts a stack of its own, asks it, and removes it. FERRY_STACK_KEEP=1 leaves it running.
set -eu
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1 || ! docker compose version >/dev/null 2>&1 || ! docker buildx version >/dev/null 2>&1; then
    deploy/airgap/engine.sh
fi
deploy/preflight.sh
if ! docker image inspect debian:trixie-slim >/dev/null 2>&1 && ! docker pull --quiet debian:trixie-slim 2>/dev/null; then
    deploy/airgap/images.sh
fi
if ! command -v chromium >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "The browser tests need Debian's chromium: sudo apt-get install chromium" >&2; exit 1; }
    echo "installs chromium"
    said=$( (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium) 2>&1) ||
        { echo "$said" | tail -5 >&2; echo "chromium was not installed. Is Debian's archive reachable?" >&2; exit 1; }
fi
if [ -z "${FERRY_BUILD_CA:-}" ]; then
    for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [ -z "${FERRY_BUILD_CA:-}" ] && [ -s "$bundle" ]; then export FERRY_BUILD_CA="$bundle"; fi
    done
fi
exec .venv/bin/python -m pytest tests/stack tests/browser --timeout 900 "$@"
