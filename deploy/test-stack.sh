#!/bin/sh
# The stack tests: engine, base image and browser are installed where they are missing (Debian, root), then pytest
# builds and starts a stack of its own, asks it, and removes it. FERRY_STACK_KEEP=1 leaves it running.
set -eu
cd "$(dirname "$0")/.."

if ! command -v chromium >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "The browser tests need Debian's chromium: sudo apt-get install chromium" >&2; exit 1; }
    echo "installs chromium"
    said=$( (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends chromium) 2>&1) ||
        { echo "$said" | tail -5 >&2; echo "chromium was not installed. Is Debian's archive reachable?" >&2; exit 1; }
fi
exec deploy/with-engine.sh .venv/bin/python -m pytest tests/stack tests/browser --timeout 900 "$@"
