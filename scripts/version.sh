# version <program>: "156.0.8078.79", or nothing when it does not run (as a snap stub, or a Chrome that lacks its libraries).
# Source this file.
version() {
    run_briefly "$1" --version 2>/dev/null | sed -n 's/^[^0-9]*\([0-9][0-9]*\.[0-9.]*\).*/\1/p' | head -n 1
}

run_briefly() {
    if command -v timeout >/dev/null; then
        timeout 20 "$@" </dev/null
    else
        "$@" </dev/null
    fi
}
