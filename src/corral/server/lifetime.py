"""How the daemon ends: asked by a signal (instances go on) or by `shutdown` (instances are stopped first)."""

import asyncio


class Lifetime:
    """Set once; the daemon's main coroutine waits for it.

    `stop_instances` is True where the instances are to be stopped (SIGPWR, `shutdown`).
    """

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ended = asyncio.Event()
        self.instances_stopped = asyncio.Event()
        self.stop_instances = False
        self.timeout_s: float | None = None

    def end(self, *, stop_instances: bool, timeout_s: float | None = None) -> None:
        """Ask the daemon to end."""
        self.stop_instances = self.stop_instances or stop_instances
        self.timeout_s = timeout_s if timeout_s is not None else self.timeout_s
        self.ended.set()
