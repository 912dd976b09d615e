#!/bin/sh
# Prints the tag of the user-code and control-plane images: a hash of everything that goes into them.
# So the tag changes when the content does, and an old run's image keeps its name until it is removed.
set -eu
cd "$(dirname "$0")/.."
files() {
    find user_code deploy -type f ! -path '*/__pycache__/*' ! -path '*.egg-info/*' ! -path 'user_code/out/*'
    ls Dockerfile.user_code Dockerfile.dagster requirements.lock .dockerignore
}
files | LC_ALL=C sort | tr '\n' '\0' | xargs -0 sha256sum | sha256sum | cut -c1-12
