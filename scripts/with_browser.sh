#!/bin/sh
# with_browser.sh <command>...: runs it with CHROMIUM_PATH and CHROMEDRIVER_PATH as ensure_browser.sh found them;
# what the environment sets already wins.
set -eu

own_browser=${CHROMIUM_PATH:-}
own_driver=${CHROMEDRIVER_PATH:-}
# shellcheck source=/dev/null
. "$(dirname "$0")/../.venv/browser.env"
export CHROMIUM_PATH="${own_browser:-$CHROMIUM_PATH}"
export CHROMEDRIVER_PATH="${own_driver:-$CHROMEDRIVER_PATH}"
exec "$@"
