#!/bin/sh
# Services with their health, and the containers of runs.
set -eu
cd "$(dirname "$0")/.."
deploy/preflight.sh
project=$(docker compose config --format json | sed -n 's/^ *"name": "\([^"]*\)",*$/\1/p' | head -1)
docker compose --profile demo --profile emulators ps --all --format 'table {{.Service}}\t{{.Status}}\t{{.Ports}}'
echo
docker ps --all --filter "label=ferry/project=$project" \
    --format 'table {{.Label "dagster/run_id"}}\t{{.Label "dagster/job_name"}}\t{{.Status}}' |
    sed '1s/.*/RUN                                    JOB   STATUS/'
