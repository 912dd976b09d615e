#!/bin/sh
# MariaDB's server for the tests, from Debian's package, where it is missing. Nothing is started: the tests do that.
set -eu
PATH="$PATH:/usr/sbin"
if ! command -v mariadbd >/dev/null; then
    [ "$(id -u)" = 0 ] || { echo "The tests read from a MariaDB: sudo apt-get install mariadb-server-core" >&2; exit 1; }
    echo "Installing MariaDB …"
    said=$( (apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends mariadb-server-core) 2>&1) ||
        { echo "$said" | tail -5 >&2; echo "MariaDB was not installed. Is Debian's archive reachable?" >&2; exit 1; }
fi
