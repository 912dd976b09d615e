#!/bin/sh
# Becomes an unprivileged HAProxy in the group that the engine's socket belongs to, whatever its number here.
set -eu
socket=/var/run/docker.sock
if [ ! -S "$socket" ]; then
    echo "docker-proxy: no Docker socket at $socket. Set DOCKER_SOCKET in .env to where the engine listens." >&2
    exit 1
fi
exec setpriv --reuid=haproxy --regid="$(stat -c %g "$socket")" --clear-groups --no-new-privs --inh-caps=-all \
    haproxy -db -f /etc/haproxy/haproxy.cfg
