"""Carrying websockets between two servers that cannot reach each other: whatever one says, the other hears."""

from __future__ import annotations

import select

from corral.client.streams import open_operation_websocket
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.operations import Operation
    from corral.client.server import Server
    from corral.client.websocket import WebSocket

_QUEUE_LIMIT = 1 << 20


def relay_operations(source: tuple[Server, Operation], target: tuple[Server, Operation]) -> None:
    """Connect the websockets that two operations offer under the same names and carry until all have ended."""
    source_secrets, target_secrets = source[1].metadata, target[1].metadata
    for name in target_secrets:
        if name not in source_secrets:
            message = f'Migration target expects the "{name}" socket but source isn\'t providing it'
            raise CorralError(message)
    if "control" not in target_secrets:
        raise CorralError('Migration target didn\'t setup the required "control" socket')
    pairs = [
        (_open(source, name, str(source_secrets[name])), _open(target, name, str(target_secrets[name])))
        for name in target_secrets
    ]
    relay(pairs)


def _open(side: tuple[Server, Operation], name: str, secret: str) -> WebSocket:
    server, operation = side
    return open_operation_websocket(server, operation, name, secret)


def relay(pairs: list[tuple[WebSocket, WebSocket]]) -> None:
    """Carry messages both ways within each pair until one side of each has closed."""
    others: dict[WebSocket, WebSocket] = {}
    for left, right in pairs:
        others[left], others[right] = right, left
    for websocket, other in others.items():
        websocket.stream.settimeout(0)
        _pass_on(websocket.take_messages(), other)
    while others:
        for websocket, events in _poll(others):
            if websocket in others:
                _serve(websocket, others[websocket], events)
        for websocket in [websocket for websocket in others if not websocket.is_open]:
            _end(websocket, others)


def _poll(others: dict[WebSocket, WebSocket]) -> list[tuple[WebSocket, int]]:
    poll = select.poll()
    by_descriptor = {}
    for websocket, other in others.items():
        reads = select.POLLIN if other.outgoing_size < _QUEUE_LIMIT else 0
        poll.register(websocket.fileno(), reads | (select.POLLOUT if websocket.has_outgoing else 0))
        by_descriptor[websocket.fileno()] = websocket
    return [(by_descriptor[descriptor], events) for descriptor, events in poll.poll()]


def _serve(websocket: WebSocket, other: WebSocket, events: int) -> None:
    if events & select.POLLOUT:
        websocket.send_some()
    if events & (select.POLLIN | select.POLLHUP | select.POLLERR):
        _pass_on(websocket.receive(), other)
        while websocket.is_open and websocket.has_pending():
            _pass_on(websocket.receive(), other)


def _pass_on(messages: list[tuple[int, bytes]], other: WebSocket) -> None:
    for kind, payload in messages:
        other.queue(kind, payload)


def _end(websocket: WebSocket, others: dict[WebSocket, WebSocket]) -> None:
    """One side has closed: the other gets what is still queued for it, then the close."""
    other = others.pop(websocket, None)
    if other is None:
        return
    others.pop(other, None)
    other.stream.settimeout(None)
    other.flush()
    other.close()
    websocket.stream.close()
