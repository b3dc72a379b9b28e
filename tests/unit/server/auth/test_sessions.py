"""Connections end with the trust in their certificate."""

import gc
from typing import Any

from corral.server.auth.sessions import Sessions


class _Connection:
    def __init__(self, *, closing: bool = False) -> None:
        self.closing, self.aborted = closing, False

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.aborted = True


def test_all_connections_of_a_certificate_end_but_the_one_that_asks() -> None:
    sessions = Sessions()
    own, other, closing, strangers = _Connection(), _Connection(), _Connection(closing=True), _Connection()
    connection: Any
    for connection in (own, other, closing):
        sessions.add("a", connection)
    connection = strangers
    sessions.add("b", connection)
    asking: Any = own
    sessions.end("a", besides=asking)
    assert [one.aborted for one in (own, other, closing, strangers)] == [False, True, False, False]
    sessions.end("unknown")


def test_closed_connections_are_forgotten() -> None:
    sessions = Sessions()
    connection: Any = _Connection()
    sessions.add("a", connection)
    del connection
    gc.collect()
    sessions.end("a")
