#!/bin/sh
# Finds a Chromium or Chrome with a chromedriver of the same major version, installs or downloads the pair if there is
# none, and writes .venv/browser.env (CHROMIUM_PATH, CHROMEDRIVER_PATH). In this order:
#   1. what is installed (CHROMIUM_PATH and CHROMEDRIVER_PATH of the environment first);
#   2. as root on Debian or Ubuntu: apt-get install chromium chromium-driver;
#   3. Selenium Manager's download (Chrome for Testing).
set -eu
cd "$(dirname "$0")/.."
. scripts/version.sh

VENV=.venv
LOG=$VENV/browser-setup.log
export DEBIAN_FRONTEND=noninteractive
MACOS_APPS="/Applications/Google Chrome.app/Contents/MacOS/Google Chrome
/Applications/Chromium.app/Contents/MacOS/Chromium
$HOME/Applications/Google Chrome.app/Contents/MacOS/Google Chrome"

main() {
    mkdir -p "$VENV"
    : >"$LOG"
    find_installed || { install_with_apt && find_installed; } || download_with_selenium || give_up
    printf 'CHROMIUM_PATH="%s"\nCHROMEDRIVER_PATH="%s"\n' "$browser" "$driver" >"$VENV/browser.env"
    echo "browser $(version "$browser")" >"$VENV/.stamp-browser.new"
    mv "$VENV/.stamp-browser.new" "$VENV/.stamp-browser"
    echo "Browser: $browser ($(version "$browser")) with $driver"
}

# Sets `browser` and `driver` to the first pair of one major version.
find_installed() {
    while IFS= read -r browser; do
        wanted=$(major "$browser")
        [ -n "$wanted" ] || continue
        while IFS= read -r driver; do
            [ "$(major "$driver")" = "$wanted" ] && return 0
        done <<EOT
$(candidates "${CHROMEDRIVER_PATH:-}" chromedriver /usr/lib/chromium/chromedriver /usr/lib/chromium-browser/chromedriver)
EOT
    done <<EOT
$(candidates "${CHROMIUM_PATH:-}" chromium chromium-browser google-chrome google-chrome-stable chrome)
$MACOS_APPS
EOT
    return 1
}

# The absolute paths of those of the given names that can be run, one a line.
candidates() {
    for name in "$@"; do
        path=$(command -v "$name" 2>/dev/null) || continue
        # A snap sees a /tmp of its own and no hidden folders: it cannot use the profile folders of this service.
        case $(readlink -f "$path" 2>/dev/null || echo "$path") in
        */snap | /snap/*) continue ;;
        esac
        echo "$path"
    done
}

install_with_apt() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    echo "Installing chromium and chromium-driver with apt-get (some minutes on a slow line) ..."
    {
        apt-get update -qq || true # the lists there are may do
        apt-get install -y -qq --no-install-recommends chromium chromium-driver && return 0
    } </dev/null >>"$LOG" 2>&1
    echo "apt-get could not install them (see $LOG); trying Selenium's download." >&2
    return 1
}

download_with_selenium() {
    [ -x "$VENV/bin/python" ] || return 1
    echo "Asking Selenium Manager for a browser and its driver ..."
    # An installed Chrome without its driver needs the driver only; if that pair does not run, take both.
    for force in "" --force-browser-download; do
        paths=$(selenium_manager $force 2>>"$LOG") || continue
        browser=$(printf '%s\n' "$paths" | sed -n 1p)
        driver=$(printf '%s\n' "$paths" | sed -n 2p)
        [ -n "$(major "$browser")" ] || install_libraries
        wanted=$(major "$browser")
        [ -n "$wanted" ] && [ "$(major "$driver")" = "$wanted" ] && return 0
        echo "$browser and $driver do not run together: $("$browser" --version 2>&1 | head -n 1)" >>"$LOG"
    done
    return 1
}

# What Chrome for Testing is linked against and a bare Ubuntu or Debian lacks. Newer releases rename some to ...t64.
install_libraries() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    packages=
    for library in libnss3 libatk1.0-0 libatk-bridge2.0-0 libatspi2.0-0 libcups2 libdbus-1-3 libgbm1 libasound2 \
        libxkbcommon0 libxcomposite1 libxdamage1 libxfixes3 libxrandr2 libpango-1.0-0 libcairo2 fonts-liberation; do
        for name in "${library}t64" "$library"; do
            if apt-cache show "$name" >/dev/null 2>&1; then
                packages="$packages $name"
                break
            fi
        done
    done
    echo "Installing the libraries of the downloaded browser with apt-get ..."
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $packages </dev/null >>"$LOG" 2>&1 || true
}

selenium_manager() {
    "$VENV/bin/python" - "$@" <<'EOT'
import sys

from selenium.common import WebDriverException
from selenium.webdriver.common.selenium_manager import SeleniumManager

try:
    paths = SeleniumManager().binary_paths(["--browser", "chrome", "--skip-driver-in-path", *sys.argv[1:]])
except WebDriverException as error:
    sys.exit(error.msg)
print(paths["browser_path"], paths["driver_path"], sep="\n")
EOT
}

give_up() {
    echo "No usable browser: install Chromium or Chrome and the chromedriver of the same version (Debian: sudo apt-get" \
        "install chromium chromium-driver) or set CHROMIUM_PATH and CHROMEDRIVER_PATH; what was tried: $LOG" >&2
    exit 1
}

major() {
    version "$1" | cut -d. -f1
}

main
