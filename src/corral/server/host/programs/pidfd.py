"""Processes by descriptor: a pidfd never names another process than the one it was opened for."""

import asyncio
import contextlib
import os
import select
import signal


def open_pidfd(pid: int) -> int:
    """A descriptor of a process. Raises ProcessLookupError."""
    return os.pidfd_open(pid)


def send_signal(pidfd: int, number: int) -> None:
    """Send a signal. Raises ProcessLookupError where the process is gone."""
    signal.pidfd_send_signal(pidfd, number)


def is_alive(pidfd: int) -> bool:
    """Whether the process runs (a zombie does not)."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return not poll.poll(0)


async def wait_exit(pidfd: int, timeout_s: float | None = None) -> None:
    """Wait until the process ended; the descriptor stays the caller's. Raises TimeoutError."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def on_readable() -> None:
        if not ended.done():
            ended.set_result(None)

    # A duplicate: several waiters may watch one process, but a loop has one reader per descriptor.
    own = os.dup(pidfd)
    loop.add_reader(own, on_readable)
    try:
        async with asyncio.timeout(timeout_s):
            await ended
    finally:
        loop.remove_reader(own)
        os.close(own)


def kill_and_forget(pidfd: int) -> None:
    """Send SIGKILL to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
