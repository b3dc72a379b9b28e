"""Progress of a transfer of known or unknown size, for `Progress`."""

from __future__ import annotations

from time import monotonic

from corral.units import format_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.cli.progress import Progress

_INTERVAL_S = 0.1


class Meter:
    """Turns byte counts into `45% (12.34MB/s)`, or `1.20MB (12.34MB/s)` where the size is not known."""

    def __init__(self, progress: Progress, size: int = 0) -> None:
        self._progress = progress
        self._size = size
        self._start = monotonic()
        self._shown = 0.0

    def __call__(self, done: int) -> None:
        now = monotonic()
        if not self._progress.is_shown or (now - self._shown < _INTERVAL_S and done != self._size):
            return
        self._shown = now
        speed = format_size(int(done / max(now - self._start, 0.001)))
        amount = f"{min(100, done * 100 // self._size)}%" if self._size else format_size(done)
        self._progress.update(f"{amount} ({speed}/s)")
