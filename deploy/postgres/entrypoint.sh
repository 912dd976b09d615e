#!/bin/bash
# Makes a new cluster where there is none, then becomes the server.
set -euo pipefail

say() { echo "postgres: $*" >&2; }

if [ ! -s "$PGDATA/PG_VERSION" ]; then
    place=$(dirname "$PGDATA")
    if [ ! -w "$place" ]; then
        say "$place belongs to user $(stat -c %u "$place"), not to $(id -u): the volume was made by another image." \
            "Give it away: docker run --rm -u 0 -v VOLUME:/v debian:trixie-slim chown -R $(id -u) /v"
        exit 1
    fi
    : "${POSTGRES_PASSWORD:?postgres: POSTGRES_PASSWORD is empty. Set a password in .env, see .env.example.}"
    user=${POSTGRES_USER:-postgres}
    database=${POSTGRES_DB:-$user}
    # Made beside and renamed when whole: a start that was cut short leaves nothing that looks like a cluster.
    new=$place/.new
    rm -rf "$new"
    # UTF8 is what Dagster needs; C.UTF-8 sorts the same on every system. Dagster opens a connection for every query,
    # and each would spend 5 ms of CPU on 4096 rounds of hashing, which protect weak passwords: these are random.
    initdb -D "$new" -E UTF8 --locale=C.UTF-8 --set scram_iterations=1 -U "$user" --auth=scram-sha-256 \
        --pwfile=<(printf '%s' "$POSTGRES_PASSWORD") >/dev/null
    printf 'host all all all scram-sha-256\n' >>"$new/pg_hba.conf"
    export PGPASSWORD=$POSTGRES_PASSWORD PGUSER=$user PGHOST=/tmp
    pg_ctl -D "$new" -w -s -o "-c listen_addresses='' -c unix_socket_directories=/tmp" start >/dev/null
    [ "$database" = postgres ] || createdb "$database"
    for script in /docker-entrypoint-initdb.d/*; do
        case $script in
            *.sql) say "runs $script"; psql -q -v ON_ERROR_STOP=1 -d "$database" -f "$script" ;;
            *.sh) say "runs $script"; bash "$script" ;;
        esac
    done
    pg_ctl -D "$new" -w -s -m fast stop
    unset PGPASSWORD PGUSER PGHOST
    mv "$new" "$PGDATA"
fi
exec "$@" -c listen_addresses='*' -c unix_socket_directories=/tmp
