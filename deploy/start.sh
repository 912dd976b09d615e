#!/bin/sh
# Starts the platform: deploy/start.sh [demo | emulators]. Either everything is healthy at the end, or what was started is
# stopped again and one message says why. Services that ran before are left running.
set -eu
cd "$(dirname "$0")/.."

deploy/preflight.sh
deploy/settings.sh
profile=${1:-}
compose() { docker compose ${profile:+--profile "$profile"} "$@"; }
die() { echo "$*" >&2; exit 1; }

said=$(compose config --quiet 2>&1) || die "$said"
running=$(compose ps --services --status running)
port=$(compose config --format json | sed -n 's/.*"published": "\([0-9]*\)".*/\1/p' | head -1)
case "$running" in
    *webserver*) ;;
    *) if bash -c ">/dev/tcp/127.0.0.1/$port" 2>/dev/null; then
           die "Port $port is in use by another program. Set FERRY_PORT in .env to a free one, such as FERRY_PORT=3001."
       fi ;;
esac

log=$(mktemp)
trap 'rm -f "$log"' EXIT
echo "builds the images (a few minutes at first, seconds later)"
if ! compose build >"$log" 2>&1; then
    if grep -q 'metadata for .*debian:trixie-slim' "$log" && ! docker image inspect debian:trixie-slim >/dev/null 2>&1; then
        die "The base image debian:trixie-slim is missing and no image registry gives it. On Debian make it: sudo make airgap-images"
    fi
    tail -20 "$log" >&2
    die "The images were not built, see above. On a company's network see docs/air-gapped.md (certificates, mirrors, proxies)."
fi
echo "starts the services"
if compose up --detach --no-build --wait --wait-timeout 240 --remove-orphans >"$log" 2>&1; then
    echo "Ferry is ready: http://127.0.0.1:$port"
    exit 0
fi

# One message: what the first service that failed says itself.
for service in postgres demo-db demo-fill migrate docker-proxy user-code webserver daemon janitor \
    emulated-shopify emulated-netsuite emulated-rest emulated-crm emulated-airbyte emulated-fivetran; do
    id=$(compose ps --all --quiet "$service" 2>/dev/null) || id=""
    [ -n "$id" ] || continue
    health=$(docker inspect -f '{{.State.Status}} {{.State.ExitCode}} {{if .State.Health}}{{.State.Health.Status}}{{end}}' "$id")
    case "$health" in
        "exited 0 "*|"running 0 healthy"|created*) continue ;;
    esac
    echo "The service $service does not start:" >&2
    case "$health" in
        running*) docker inspect -f '{{range .State.Health.Log}}{{.Output}}{{end}}' "$id" | tail -8 >&2 ;;
        *) docker logs --tail 12 "$id" >&2 ;;
    esac
    failed=$service
    break
done
[ -n "${failed:-}" ] || grep -iE 'error|fail|cannot|denied' "$log" >&2 || tail -5 "$log" >&2
if [ -z "$running" ]; then
    compose down --timeout 20 >/dev/null 2>&1 || true
    die "Nothing was left running. Correct this and start again; what is stored stays."
fi
die "The services that ran before go on. Correct this and start again."
