# What the scripts share: where the project is, and how they speak. Sourced, never run.
# shellcheck shell=bash

TOP=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
VENV=${CORRAL_VENV:-$TOP/.venv}
cd "$TOP" || exit 1

step() { printf '==> %s\n' "$*"; }
note() { printf '    %s\n' "$*"; }
die() { printf 'Error: %s\n' "$*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" -eq 0 ] || die "$1 must be run as root: sudo $1"
}

has_systemd() { [ -d /run/systemd/system ]; }

# Run a command; show its output only when it fails, after the message that says what that means.
quietly() {
    local message=$1 output
    shift
    output=$(mktemp)
    if ! "$@" >"$output" 2>&1 </dev/null; then
        tail -n 25 "$output" >&2
        rm -f "$output"
        die "$message"
    fi
    rm -f "$output"
}
