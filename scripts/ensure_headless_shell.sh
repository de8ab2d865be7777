#!/bin/sh
# Finds Chromium's headless shell of the browser's version for the suite: the same engine without the browser around it,
# which starts in less than half the time. As root on Debian it is installed. Writes .venv/headless_shell.env
# (HEADLESS_SHELL_PATH); where there is none, the suite runs with the whole browser.
set -eu
cd "$(dirname "$0")/.."
. scripts/version.sh

VENV=.venv
LOG=$VENV/headless-shell-setup.log
SHELLS="/usr/lib/chromium/chromium-headless-shell chrome-headless-shell"
export DEBIAN_FRONTEND=noninteractive
# shellcheck source=/dev/null
. "$VENV/browser.env"

find_shell() {
    wanted=$(version "$CHROMIUM_PATH")
    for name in $SHELLS; do
        shell=$(command -v "$name") || continue
        [ "$(version "$shell")" = "$wanted" ] && return 0
    done
    shell=
    return 1
}

if ! find_shell && [ "$(id -u)" = 0 ] && package=$(dpkg-query --show --showformat='${Version}' chromium 2>/dev/null); then
    echo "Installing chromium-headless-shell with apt-get ..."
    {
        apt-get update -qq || true # the lists there are may do
        apt-get install -y -qq --no-install-recommends "chromium-headless-shell=$package" || true
    } </dev/null >"$LOG" 2>&1
    find_shell || true
fi
[ -n "$shell" ] || echo "No headless shell of the browser's version: the suite takes the whole browser and more time." >&2
echo "HEADLESS_SHELL_PATH=\"$shell\"" >"$VENV/headless_shell.env"
touch "$VENV/.stamp-headless-shell"
