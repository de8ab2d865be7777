#!/bin/sh
# Installs PgBouncer for its tests where there is none: as root on Debian or Ubuntu. Elsewhere these tests are skipped,
# but on a CI machine they fail.
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
LOG=$VENV/pgbouncer-setup.log
PATH=$PATH:/usr/sbin:/usr/local/sbin
export DEBIAN_FRONTEND=noninteractive

mkdir -p "$VENV"
if ! command -v pgbouncer >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        echo "Installing pgbouncer with apt-get ..."
        {
            apt-get update -qq || true # the lists there are may do
            apt-get install -y -qq --no-install-recommends pgbouncer || true
        } </dev/null >"$LOG" 2>&1
    fi
    command -v pgbouncer >/dev/null || echo "There is no pgbouncer: its tests are skipped. Install the package pgbouncer." >&2
fi
touch "$VENV/.stamp-pgbouncer"
