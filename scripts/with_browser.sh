#!/bin/sh
# with_browser.sh <command>...: runs it with CHROMIUM_PATH and CHROMEDRIVER_PATH as ensure_browser.sh found them;
# what the environment sets already wins. HEADLESS_SHELL_PATH is set for the suite, unless the caller chose a browser.
set -eu

own_browser=${CHROMIUM_PATH:-}
own_driver=${CHROMEDRIVER_PATH:-}
# shellcheck source=/dev/null
. "$(dirname "$0")/../.venv/browser.env"
shell_env=$(dirname "$0")/../.venv/headless_shell.env
if [ -z "$own_browser" ] && [ -f "$shell_env" ]; then
    # shellcheck source=/dev/null
    . "$shell_env"
    export HEADLESS_SHELL_PATH
fi
export CHROMIUM_PATH="${own_browser:-$CHROMIUM_PATH}"
export CHROMEDRIVER_PATH="${own_driver:-$CHROMEDRIVER_PATH}"
exec "$@"
