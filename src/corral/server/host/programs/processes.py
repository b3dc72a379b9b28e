"""What /proc tells about single processes."""

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path


def read_status(pid: int) -> dict[str, str]:
    """The fields of /proc/PID/status. Raises FileNotFoundError or ProcessLookupError."""
    text = Path(f"/proc/{pid}/status").read_text(errors="replace")
    pairs = (line.partition(":") for line in text.splitlines())
    return {key: value.strip() for key, _, value in pairs}


def get_parent(pid: int) -> int:
    """The process id of the parent."""
    return int(read_status(pid)["PPid"])


def get_command_line(pid: int) -> list[str]:
    """The arguments; empty for a zombie or a kernel thread."""
    raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    return [part.decode(errors="replace") for part in raw.split(b"\0")[:-1]]


def blocks_signal(pid: int, number: int) -> bool:
    """Whether the process blocks a signal (systemd as init blocks SIGRTMIN+3 to read it from a descriptor)."""
    return bool(int(read_status(pid)["SigBlk"], 16) >> (number - 1) & 1)


def choose_halt_signal(init_pid: int) -> int:
    """The signal that asks an init to power off: SIGRTMIN+3 for systemd, else SIGPWR."""
    # glibc keeps the first two real-time signals; SIGRTMIN here is the one programs see.
    systemd_halt = signal.SIGRTMIN + 3
    return systemd_halt if blocks_signal(init_pid, systemd_halt) else signal.SIGPWR


def get_start_ticks(pid: int) -> int:
    """The start time in clock ticks since boot: with the pid it names one process for good."""
    text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    return int(text[text.rindex(")") + 2 :].split()[19])


def list_pids() -> Iterator[int]:
    """All processes."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            yield int(name)


def terminate(pid: int, *, grace_s: float = 3.0) -> None:
    """Ask a process to end, then kill it; returns when it is gone. Blocks: call it in a thread."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno != errno.ESRCH:
            raise
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
            if not _wait(pidfd, grace_s):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                _wait(pidfd, grace_s)
    finally:
        os.close(pidfd)


def _wait(pidfd: int, timeout_s: float) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def wait_until_gone(pid: int, timeout_s: float) -> bool:
    """Wait for the end of any process; says whether it ended. Blocks: call it in a thread."""
    deadline = time.monotonic() + timeout_s
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return True
    try:
        return _wait(pidfd, max(0.0, deadline - time.monotonic()))
    finally:
        os.close(pidfd)
