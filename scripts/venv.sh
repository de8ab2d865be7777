#!/bin/sh
# The virtual environment in .venv.
#   venv.sh install <requirements file> <stamp>...   make it if need be, install, then set .venv/.stamp-<stamp>
#   venv.sh forget-stale                             drop the stamps that are no longer true
# A stamp is set last, so an interrupted run is simply done again.
set -eu
cd "$(dirname "$0")/.."

VENV=.venv
PY=$VENV/bin/python

main() {
    command=$1
    shift
    case $command in
    install) install "$@" ;;
    forget-stale) forget_stale ;;
    *) fail "unknown command: $command" ;;
    esac
}

install() {
    requirements=$1
    shift
    usable || create
    echo "Installing $requirements ..."
    "$PY" -m pip install -qq --disable-pip-version-check --no-input --require-hashes -r "$requirements" ||
        fail "Could not install $requirements: the reason stands above."
    pwd -P >"$VENV/.home"
    for stamp in "$@"; do touch "$VENV/.stamp-$stamp"; done
}

forget_stale() {
    [ -d "$VENV" ] || return 0
    # Scripts in a virtual environment hold its absolute path: a moved checkout needs a new one.
    if ! [ -x "$PY" ] || ! "$PY" -c '' 2>/dev/null || moved; then
        rm -f "$VENV"/.stamp-*
        return
    fi
    if [ -f "$VENV/browser.env" ]; then
        # shellcheck source=/dev/null
        (. "./$VENV/browser.env" && [ -x "$CHROMIUM_PATH" ] && [ -x "$CHROMEDRIVER_PATH" ]) || rm -f "$VENV/.stamp-browser"
    fi
    if [ -f "$VENV/headless_shell.env" ]; then
        # shellcheck source=/dev/null
        (. "./$VENV/headless_shell.env" && [ -x "${HEADLESS_SHELL_PATH:-/bin/sh}" ]) || rm -f "$VENV/.stamp-headless-shell"
    fi
}

usable() {
    [ -x "$PY" ] && ! moved && is_supported "$PY" && "$PY" -m pip --version >/dev/null 2>&1
}

moved() {
    [ -f "$VENV/.home" ] && [ "$(cat "$VENV/.home")" != "$(pwd -P)" ]
}

create() {
    python=$(find_python) || fail "Python 3.11 or newer is needed and none was found: install python3.11 or later."
    if ! has_ensurepip "$python"; then
        install_ensurepip "$python"
        has_ensurepip "$python" ||
            fail "$python cannot make virtual environments: install its venv package (sudo apt-get install python3-venv)."
    fi
    echo "Creating $VENV with $("$python" --version) ..."
    rm -rf "$VENV"
    "$python" -m venv "$VENV" || fail "Could not create $VENV with $python: the reason stands above."
}

# The newest supported Python that can make virtual environments, else the newest supported one.
find_python() {
    second_choice=
    for python in python3.13 python3.12 python3.11 python3; do
        is_supported "$python" || continue
        if has_ensurepip "$python"; then
            echo "$python"
            return 0
        fi
        : "${second_choice:=$python}"
    done
    [ -n "$second_choice" ] && echo "$second_choice"
}

# By running it: a name on PATH may be a version manager's empty shim.
is_supported() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

has_ensurepip() {
    "$1" -c 'import ensurepip, venv' >/dev/null 2>&1
}

install_ensurepip() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 0
    version=$("$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    echo "Installing python$version-venv with apt-get ..."
    export DEBIAN_FRONTEND=noninteractive
    {
        apt-get update -qq || true # the lists there are may do
        apt-get install -y -qq --no-install-recommends "python$version-venv" ||
            apt-get install -y -qq --no-install-recommends python3-venv || true
    } </dev/null >/dev/null
}

fail() {
    echo "$*" >&2
    exit 1
}

main "$@"
