#!/bin/sh
# Runs a command that needs Docker: deploy/with-engine.sh COMMAND [ARGUMENT…]. Engine and base image are installed where
# they are missing (Debian, root), and builds are told which certificates this machine trusts.
set -eu
cd "$(dirname "$0")/.."

if ! docker info >/dev/null 2>&1 || ! docker compose version >/dev/null 2>&1 || ! docker buildx version >/dev/null 2>&1; then
    deploy/airgap/engine.sh
fi
deploy/preflight.sh
if ! docker image inspect debian:trixie-slim >/dev/null 2>&1 && ! docker pull --quiet debian:trixie-slim 2>/dev/null; then
    deploy/airgap/images.sh
fi
if [ -z "${FERRY_BUILD_CA:-}" ]; then
    for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt; do
        if [ -z "${FERRY_BUILD_CA:-}" ] && [ -s "$bundle" ]; then export FERRY_BUILD_CA="$bundle"; fi
    done
fi
exec "$@"
