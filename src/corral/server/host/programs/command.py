"""Runs programs: the only place of the server that starts a process and waits for it.

A program never sees a shell, always has a deadline, and is killed with its whole process group when the caller is
cancelled. The output is returned as bytes decoded leniently; bulk data goes through the file descriptors that the
caller passes.
"""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.errors import CommandFailed

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT_S = 60.0
STDERR_LIMIT = 64 * 1024
"""Bytes of standard error kept in an error."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A program that ended."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: str
    stderr: str


async def run(
    argv: Sequence[str | Path],
    *,
    stdin: bytes | str | int | None = None,
    stdout: int | None = None,
    stderr: int | None = None,
    cwd: str | Path | None = None,
    env: Mapping[str, str] | None = None,
    pass_fds: Sequence[int] = (),
    timeout_s: float = DEFAULT_TIMEOUT_S,
    ok: Sequence[int] = (0,),
) -> Completed:
    """Run a program to its end and return its output.

    `stdin` is text or bytes to feed, or a descriptor; `stdout` a descriptor that takes the output instead of the
    result, `stderr` one that takes the errors (a program that leaves a daemon behind must have one: the end of a pipe
    would be waited for). `env` replaces the environment. `ok` lists the exit codes that are no failure.

    Raises CommandFailed with the arguments, the exit code and standard error.
    """
    args = [str(arg) for arg in argv]
    feed = stdin.encode() if isinstance(stdin, str) else stdin
    started = time.monotonic()
    try:
        process = await asyncio.create_subprocess_exec(
            *args,
            stdin=asyncio.subprocess.PIPE
            if isinstance(feed, bytes)
            else feed
            if feed is not None
            else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
            stderr=asyncio.subprocess.PIPE if stderr is None else stderr,
            cwd=cwd,
            env=dict(env) if env is not None else None,
            pass_fds=tuple(pass_fds),
            start_new_session=True,
        )
    except OSError as error:
        raise CommandFailed(args, None, "", error.strerror or str(error)) from error
    try:
        async with asyncio.timeout(timeout_s):
            out, err = await process.communicate(feed if isinstance(feed, bytes) else None)
    except TimeoutError:
        await _kill(process)
        raise CommandFailed(args, None, "", f"no end within {timeout_s:g} s") from None
    except BaseException:
        await asyncio.shield(_kill(process))
        raise
    exit_code = process.returncode if process.returncode is not None else -1
    errors = (err or b"")[-STDERR_LIMIT:].decode(errors="replace")
    log.debug("Ran %s: exit status %s in %.0f ms", args, exit_code, (time.monotonic() - started) * 1000)
    if exit_code not in ok:
        raise CommandFailed(args, exit_code, errors)
    return Completed(tuple(args), exit_code, (out or b"").decode(errors="replace"), errors)


async def join(produce: Callable[[int], Awaitable[object]], consume: Callable[[int], Awaitable[object]]) -> None:
    """Have one program read what another writes: both are run with a descriptor of the pipe between them.

    Each ends when the other does, by the end of its input or by a broken pipe. What the reader raised comes first.
    """
    reading, writing = os.pipe2(os.O_CLOEXEC)

    async def write() -> None:
        try:
            await produce(writing)
        finally:
            os.close(writing)

    async def read() -> None:
        try:
            await consume(reading)
        finally:
            os.close(reading)

    written, was_read = await asyncio.gather(write(), read(), return_exceptions=True)
    for outcome in (was_read, written):
        if isinstance(outcome, BaseException):
            raise outcome


async def _kill(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
