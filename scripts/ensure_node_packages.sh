#!/bin/sh
# Installs the npm packages of the end-to-end tests where Node and npm are there; elsewhere those tests skip.
set -eu
cd "$(dirname "$0")/.."

FOLDER=tests/e2e/foreign/oidc
STAMP=.venv/.stamp-node

if ! command -v node >/dev/null || ! command -v npm >/dev/null; then
    echo "No Node with npm: the tests of oidc-provider will be skipped." >&2
elif ! (cd "$FOLDER" && npm ci --silent); then
    echo "npm could not install $FOLDER/package-lock.json: the tests of oidc-provider will be skipped." >&2
    exit 0
fi
touch "$STAMP"
