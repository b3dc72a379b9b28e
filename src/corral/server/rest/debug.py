"""The debug server at `core.debug_address`: what the daemon does at this moment, as text over plain HTTP.

Nobody has to log in there, as in LXD: without a host it listens on loopback only. It shows code and counts, and never
what clients sent or what is stored. Its paths are those of Go's pprof, under which tools look, and plain words.
"""

import asyncio
import contextlib
import gc
import os
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from aiohttp import web

from corral.errors import Conflict, CorralError, InvalidRequest, NotFound
from corral.server.host.threads import in_thread

PREFIX = "/debug/pprof/"
LONGEST_S = 300.0
RATE_HZ = 100
_SHOWN = 40
_FRAMES_KEPT = 8
_DEEPEST = 200

Page = Callable[[web.BaseRequest], Awaitable[str]]

_busy = threading.Lock()
"""Held while a profile or a trace of the memory is made: two would measure each other."""


async def serve(raw: web.BaseRequest) -> web.StreamResponse:
    """Answer one request."""
    try:
        return web.Response(text=await _page_of(raw), content_type="text/plain", headers={"Cache-Control": "no-store"})
    except CorralError as error:
        return web.Response(text=f"{error}\n", status=error.status, content_type="text/plain")


async def _page_of(raw: web.BaseRequest) -> str:
    if raw.method not in ("GET", "HEAD"):
        raise InvalidRequest(f"Only GET is served here, not {raw.method}")
    if "Origin" in raw.headers or raw.headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise InvalidRequest("Pages of other sites may not ask here")
    page = PAGES.get(f"{raw.path}/".removeprefix(PREFIX).removeprefix("/debug/").strip("/"))
    if page is None:
        raise NotFound(f"There is no page {raw.path}: see {PREFIX}")
    return await page(raw)


async def _index(raw: web.BaseRequest) -> str:
    lines = ["What this daemon does at the moment:", ""]
    for name, page in PAGES.items():
        if name and page is not _index:
            lines.append(f"{PREFIX + name:30} {(page.__doc__ or '').strip().splitlines()[0]}")
    return "\n".join([*lines, ""])


async def _tasks(raw: web.BaseRequest) -> str:
    """The tasks of the event loop, each with where it waits"""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    parts = [f"{len(tasks)} tasks\n"]
    for task in tasks:
        parts.append(f"{task.get_name()} [{'running' if task is asyncio.current_task() else 'waiting'}]")
        parts += [f"    {_place(frame, line)}" for frame, line in _frames_of(task)]
        parts.append("")
    return "\n".join(parts)


def _frames_of(task: "asyncio.Task[Any]") -> Iterator[tuple[FrameType, int]]:
    """The frames of a task from the outermost to the one that waits, each with its line."""
    awaited: Any = task.get_coro()
    for _ in range(_DEEPEST):
        if awaited is None:
            return
        frame = next((found for name in _FRAME_NAMES if (found := getattr(awaited, name, None)) is not None), None)
        if frame is not None:
            yield frame, frame.f_lineno
        awaited = next((found for name in _AWAITED_NAMES if (found := getattr(awaited, name, None)) is not None), None)


_FRAME_NAMES = ("cr_frame", "gi_frame", "ag_frame")
_AWAITED_NAMES = ("cr_await", "gi_yieldfrom", "ag_await")


def _place(frame: FrameType, line: int) -> str:
    return f"{frame.f_code.co_qualname} at {_short(frame.f_code.co_filename)}:{line}"


def _short(path: str) -> str:
    for mark in ("/site-packages/", "/src/", "/lib/python"):
        before, found, after = path.rpartition(mark)
        if found and before:
            return after
    return path


async def _threads(raw: web.BaseRequest) -> str:
    """The threads, each with its stack"""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sorted(sys._current_frames().items()):
        parts.append(f"{names.get(ident, 'unknown thread')} ({ident})")
        parts += [f"    {_place(one, line)}" for one, line in traceback.walk_stack(frame)]
        parts.append("")
    return "\n".join(parts)


async def _everything(raw: web.BaseRequest) -> str:
    """Tasks and threads"""
    return f"{await _tasks(raw)}\n{await _threads(raw)}"


async def _memory(raw: web.BaseRequest) -> str:
    """The memory in use by types; with ?seconds=N what is allocated meanwhile, by lines"""
    if "seconds" in raw.query:
        return await _allocations(_seconds(raw, 10.0))
    return await in_thread(_count_objects)


def _count_objects() -> str:
    status = Path("/proc/self/status").read_text().splitlines()
    lines = [line for line in status if line.startswith(("VmRSS", "VmHWM", "VmSize", "RssAnon", "Threads"))]
    lines.append(f"Descriptors:\t{len(os.listdir('/proc/self/fd'))}")
    lines.append(f"Garbage collector:\t{gc.get_count()} of {gc.get_threshold()}")
    counts = Counter(f"{type(one).__module__}.{type(one).__qualname__}" for one in gc.get_objects())
    lines += ["", f"{counts.total()} objects that the collector knows, most of these types:"]
    lines += [f"{number:8} {name}" for name, number in counts.most_common(_SHOWN)]
    return "\n".join([*lines, ""])


async def _allocations(seconds: float) -> str:
    import tracemalloc

    with _alone():
        tracemalloc.start(_FRAMES_KEPT)
        try:
            await asyncio.sleep(seconds)
            statistics = (await in_thread(tracemalloc.take_snapshot)).statistics("lineno")
            current, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    lines = [f"In {seconds:g} s {current} bytes were allocated and kept, {peak} at most; by lines:"]
    for one in statistics[:_SHOWN]:
        lines.append(
            f"{one.size:10} bytes in {one.count:6} at {_short(one.traceback[0].filename)}:{one.traceback[0].lineno}"
        )
    return "\n".join([*lines, ""])


async def _profile(raw: web.BaseRequest) -> str:
    """Where time goes in ?seconds=N (30): stacks with counts, for flame graphs; ?format=top for a table"""
    seconds = _seconds(raw, 30.0)
    with _alone():
        stacks: Counter[tuple[str, ...]] = Counter()
        end = threading.Event()
        sampler = threading.Thread(target=_sample, args=(stacks, end), name="profiler", daemon=True)
        sampler.start()
        try:
            await asyncio.sleep(seconds)
        finally:
            end.set()
            await in_thread(sampler.join)
    if raw.query.get("format") == "top":
        return _format_top(stacks)
    return "".join(f"{';'.join(stack)} {count}\n" for stack, count in sorted(stacks.items()))


def _sample(stacks: "Counter[tuple[str, ...]]", end: threading.Event) -> None:
    own = threading.get_ident()
    while not end.wait(1 / RATE_HZ):
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        for ident, frame in sys._current_frames().items():
            if ident != own:
                places = [f"{one.f_code.co_qualname} ({_short(one.f_code.co_filename)})" for one, _ in _walk(frame)]
                stacks[(names.get(ident, "unknown thread"), *reversed(places))] += 1


def _walk(frame: FrameType) -> list[tuple[FrameType, int]]:
    return list(traceback.walk_stack(frame))[:_DEEPEST]


def _format_top(stacks: "Counter[tuple[str, ...]]") -> str:
    own: Counter[str] = Counter()
    total: Counter[str] = Counter()
    for stack, count in stacks.items():
        own[stack[-1]] += count
        for place in set(stack[1:]):
            total[place] += count
    lines = [f"{stacks.total()} samples at {RATE_HZ} a second of each thread", "    self    total"]
    lines += [f"{own[place]:8} {total[place]:8} {place}" for place, _ in own.most_common(_SHOWN)]
    return "\n".join([*lines, ""])


async def _command_line(raw: web.BaseRequest) -> str:
    """The command line of the daemon"""
    return "\0".join(sys.argv)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    if not _busy.acquire(blocking=False):
        raise Conflict("Another profile is being made: try again when it is done")
    try:
        yield
    finally:
        _busy.release()


def _seconds(raw: web.BaseRequest, default: float) -> float:
    text = raw.query.get("seconds", "")
    try:
        seconds = float(text) if text else default
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= LONGEST_S:
        raise InvalidRequest(f"Invalid number of seconds {text!r}: give one up to {LONGEST_S:g}")
    return seconds


PAGES: dict[str, Page] = {
    "": _index,
    "pprof": _index,
    "tasks": _tasks,
    "threads": _threads,
    "goroutine": _everything,
    "memory": _memory,
    "heap": _memory,
    "profile": _profile,
    "cmdline": _command_line,
}
"""The pages by the rest of their path."""
