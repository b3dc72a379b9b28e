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

# The daemon's directories, as the daemon itself finds them.
STATE_DIR=${CORRAL_DIR:-/var/lib/corral}
LOG_FILE=${CORRAL_DIR:+$CORRAL_DIR/logs/corral.log}
LOG_FILE=${LOG_FILE:-/var/log/corral/corral.log}

corral() { "$VENV/bin/corral" "$@"; }
corrald() { "$VENV/bin/corrald" "$@"; }

# Through systemd only for the system's own daemon.
by_systemd() { has_systemd && [ -z "${CORRAL_DIR:-}" ]; }

daemon_runs() { [ -S "$STATE_DIR/unix.socket" ] && corrald waitready --timeout=5 >/dev/null 2>&1; }

start_daemon() {
    if daemon_runs; then
        note "the daemon runs already"
        return 0
    fi
    mkdir -p "$(dirname "$LOG_FILE")"
    if by_systemd; then
        scripts/install --system
        systemctl start corral.socket corral.service corral-instances.service || die "systemd could not start the daemon: journalctl -u corral"
    else
        mkdir -p "$STATE_DIR"
        start_lxcfs
        setsid "$VENV/bin/corrald" --verbose --logfile "$LOG_FILE" </dev/null >>"$LOG_FILE.output" 2>&1 &
        disown
    fi
    corrald waitready --timeout=60 >/dev/null 2>&1 || {
        tail -n 20 "$LOG_FILE" "$LOG_FILE.output" >&2 2>/dev/null
        die "the daemon does not get ready; its log is $LOG_FILE"
    }
    note "log: $LOG_FILE"
}

# Ends the lxcfs that start_lxcfs started.
stop_lxcfs() {
    local pid
    pid=$(cat "$STATE_DIR/lxcfs.pid" 2>/dev/null) || return 0
    if [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = lxcfs ]; then kill "$pid"; fi
    rm -f "$STATE_DIR/lxcfs.pid"
}

# /proc and /sys views with the container's own limits. Where systemd runs, its unit does this.
start_lxcfs() {
    local _
    if [ ! -e /dev/fuse ] || ! command -v lxcfs >/dev/null || mountpoint -q /var/lib/lxcfs; then return 0; fi
    mkdir -p /var/lib/lxcfs
    setsid lxcfs /var/lib/lxcfs </dev/null >/dev/null 2>&1 &
    echo "$!" >"$STATE_DIR/lxcfs.pid"
    disown
    for _ in {1..50}; do
        mountpoint -q /var/lib/lxcfs && return 0
        sleep 0.1
    done
    note "lxcfs does not start: containers will show the host's memory and processors"
}
