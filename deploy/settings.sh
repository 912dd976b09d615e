#!/bin/sh
# Writes .env when it is missing, with random secrets, and brings FERRY_TAG in it up to date.
set -eu
cd "$(dirname "$0")/.."

if [ ! -e .env ]; then
    umask 077
    secret=$(od -An -N24 -tx1 /dev/urandom | tr -d ' \n')
    # The certificates that this machine trusts: a company's own are among them.
    ca=${FERRY_BUILD_CA:-}
    for bundle in "${SSL_CERT_FILE:-}" /etc/ssl/certs/ca-certificates.crt /etc/pki/tls/certs/ca-bundle.crt; do
        if [ -z "$ca" ] && [ -s "$bundle" ]; then ca=$bundle; fi
    done
    sed -e "s|^DAGSTER_POSTGRES_PASSWORD=.*|DAGSTER_POSTGRES_PASSWORD=$secret|" \
        -e "s|^#* *FERRY_BUILD_CA=.*|FERRY_BUILD_CA=$ca|" .env.example >.env.new
    mv .env.new .env
    echo "wrote .env with a random password; it stays with this checkout and is not for git"
fi
tag=$(deploy/tag.sh)
if grep -q '^FERRY_TAG=' .env; then
    grep -qx "FERRY_TAG=$tag" .env || sed -i "s/^FERRY_TAG=.*/FERRY_TAG=$tag/" .env
else
    echo "FERRY_TAG=$tag" >>.env
fi
