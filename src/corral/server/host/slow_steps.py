"""Tells, while the event loop is debugged, what blocked it: its own work or a wait, and not a machine that is busy.

asyncio's own report takes the time of a step by the clock, in which a machine with other work to do counts as well.
"""

import asyncio
import logging
import os
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)

LIMIT_S = 0.1
_LOOK_S = 0.05
_FRAMES_SHOWN = 6
_UNSEEN = "not seen at it"
_TELLING = ("open", "os.", "shutil.", "socket.", "sqlite3.", "subprocess.", "fcntl.", "ctypes.")
"""The audit events of Python that are worth telling."""


@dataclass(frozen=True, slots=True)
class Moment:
    """How much time a thread has had: by the clock, on a processor, and ready while others had all processors."""

    clock_s: float
    worked_s: float
    crowded_out_s: float

    def since(self, before: "Moment") -> "Moment":
        """What has passed since then."""
        return Moment(
            self.clock_s - before.clock_s,
            self.worked_s - before.worked_s,
            self.crowded_out_s - before.crowded_out_s,
        )

    @property
    def waited_s(self) -> float:
        """What is left: asleep in a system call or at a lock."""
        return max(0.0, self.clock_s - self.worked_s - self.crowded_out_s)

    @property
    def is_blocked(self) -> bool:
        """Whether the thread itself kept the loop from its other steps for too long."""
        return self.worked_s >= LIMIT_S or self.waited_s >= LIMIT_S


def parse_crowded_out(text: bytes) -> float:
    """The seconds of /proc/.../schedstat in which a thread waited for a processor; 0 from a kernel that counts none."""
    fields = text.split()
    return int(fields[1]) / 1e9 if len(fields) > 1 else 0.0


class Watch:
    """Measures each step of the loop of this thread, and looks at those that last."""

    def __init__(self) -> None:
        self._task = Path(f"/proc/self/task/{threading.get_native_id()}")
        self._ident = threading.get_ident()
        self._step = 0
        self._began_s = 0.0
        self._seen = (0, "")
        self._did = ""
        try:
            self._schedstat = os.open(self._task / "schedstat", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self._schedstat = -1

    def install(self) -> None:
        """Measure from now on; for the rest of the process."""
        asyncio.get_running_loop().slow_callback_duration = float("inf")
        run = asyncio.Handle._run

        def measured(handle: Any) -> None:
            before = self.now()
            self._began_s = before.clock_s
            self._step += 1
            self._did = ""
            run(handle)
            self._began_s = 0.0
            spent = self.now().since(before)
            if spent.clock_s >= LIMIT_S:
                self._judge(handle, spent)

        setattr(asyncio.Handle, "_run", measured)  # noqa: B010  (the only place that every step passes)
        sys.addaudithook(self._note)
        threading.Thread(target=self._look, name="slow steps", daemon=True).start()

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        """What a step asked of the system last is known even where it kept the interpreter from the one who looks."""
        if self._began_s and event.startswith(_TELLING) and threading.get_ident() == self._ident:
            self._did = f", last {event} {str(arguments[:2])[:100]} at {time.monotonic() - self._began_s:.3f} s"

    def now(self) -> Moment:
        """The thread's times at this moment."""
        crowded_out = parse_crowded_out(os.pread(self._schedstat, 100, 0)) if self._schedstat >= 0 else 0.0
        return Moment(time.monotonic(), time.thread_time(), crowded_out)

    def _judge(self, handle: Any, spent: Moment) -> None:
        step, seen = self._seen
        where = (seen if step == self._step else _UNSEEN) + self._did
        log.log(
            logging.WARNING if spent.is_blocked else logging.DEBUG,
            "A step of the event loop took %.3f s (%.3f s at work, %.3f s asleep, %.3f s ready to run): %s; %r",
            spent.clock_s,
            spent.worked_s,
            spent.waited_s,
            spent.crowded_out_s,
            where,
            handle,
        )

    def _look(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            began_s = self._began_s
            if began_s and time.monotonic() - began_s >= _LOOK_S and self._seen[0] != self._step:
                self._seen = (self._step, self._describe())

    def _describe(self) -> str:
        frame = sys._current_frames().get(self._ident)
        if frame is None:
            return _UNSEEN
        places = [f"{Path(one.f_code.co_filename).name}:{line}" for one, line in traceback.walk_stack(frame)]
        try:
            state = (self._task / "stat").read_text().rpartition(")")[2].split()[0]
            call = (self._task / "syscall").read_text().split()[0]
        except (OSError, IndexError):
            state = call = "?"
        return f"at {' < '.join(places[:_FRAMES_SHOWN])}, state {state}, system call {call}"
