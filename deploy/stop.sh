#!/bin/sh
# Stops the platform, runs included: deploy/stop.sh [reset]. With "reset" its volumes are deleted too.
set -eu
cd "$(dirname "$0")/.."
deploy/preflight.sh
[ -e .env ] || { echo "There is no .env here, so nothing was started from this checkout." >&2; exit 1; }
project=$(docker compose config --format json | sed -n 's/^ *"name": "\([^"]*\)",*$/\1/p' | head -1)

if [ "${1:-}" = reset ]; then
    echo "This deletes all that the platform $project stored:"
    docker volume ls --filter "label=com.docker.compose.project=$project" --format '  {{.Name}}'
    echo "Rows in your own databases stay as they are."
    if [ "${SURE:-}" != yes ]; then
        printf 'Type the name of the project to go on: '
        read -r answer || answer=""
        [ "$answer" = "$project" ] || { echo "Nothing was deleted."; exit 1; }
    fi
fi

# The daemon first, so that nothing new is launched; then runs, while Postgres can still hear how they end.
docker compose stop daemon >/dev/null 2>&1 || true
runs=$(docker ps -q --filter "label=ferry/project=$project")
# shellcheck disable=SC2086  # one word an id
[ -z "$runs" ] || docker stop --time 60 $runs >/dev/null
runs=$(docker ps -aq --filter "label=ferry/project=$project")
# shellcheck disable=SC2086
[ -z "$runs" ] || docker rm --force $runs >/dev/null
if [ "${1:-}" = reset ]; then
    docker compose --profile demo --profile emulators down --volumes --remove-orphans
else
    docker compose --profile demo --profile emulators down --remove-orphans
fi
