"""Reading and writing descriptors (pipes, terminals) without blocking the event loop."""

import asyncio
import contextlib
import errno
import fcntl
import os

PIPE_SIZE = 1 << 20
_F_SETPIPE_SZ = 1031


def make_pipe() -> tuple[int, int]:
    """A pipe (reading end, writing end) with a large buffer where the kernel grants it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(writer, _F_SETPIPE_SZ, PIPE_SIZE)
    return reader, writer


async def read(fd: int, size: int) -> bytes:
    """Some bytes from a non-blocking descriptor; empty at its end (for a terminal: after the hang-up)."""
    while True:
        try:
            return os.read(fd, size)
        except BlockingIOError:
            await _wait(fd, for_writing=False)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            return b""


async def write(fd: int, data: bytes) -> None:
    """All bytes to a non-blocking descriptor. Raises BrokenPipeError or OSError EIO where nobody reads any more."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            await _wait(fd, for_writing=True)


async def _wait(fd: int, *, for_writing: bool) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def on_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    add, remove = (loop.add_writer, loop.remove_writer) if for_writing else (loop.add_reader, loop.remove_reader)
    add(fd, on_ready)
    try:
        await ready
    finally:
        remove(fd)


def write_all(fd: int, data: bytes) -> None:
    """All bytes to a blocking descriptor; call it in a thread."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
