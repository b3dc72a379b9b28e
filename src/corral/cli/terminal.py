"""The user's terminal: its size, and raw mode that is always put back."""

from __future__ import annotations

import os
import termios
import tty

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def size_of(descriptor: int) -> tuple[int, int]:
    """(Columns, lines) of a terminal; zeros for anything else."""
    try:
        size = os.get_terminal_size(descriptor)
    except OSError:
        return 0, 0
    return size.columns, size.lines


class RawMode:
    """A context in which a terminal hands over every key unchanged. Anything but a terminal is left alone."""

    def __init__(self, descriptor: int, *, enabled: bool = True) -> None:
        self._descriptor = descriptor
        self._enabled = enabled
        self._before: list[Any] | None = None

    def __enter__(self) -> None:
        if self._enabled:
            self._before = termios.tcgetattr(self._descriptor)
            tty.setraw(self._descriptor, termios.TCSANOW)

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            termios.tcsetattr(self._descriptor, termios.TCSANOW, self._before)
