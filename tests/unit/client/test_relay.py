"""Carrying websockets between two servers."""

import socket
import threading

from corral.client.relay import relay
from corral.client.websocket import BINARY, TEXT, WebSocket


def masked(kind: int, payload: bytes) -> bytes:
    """What a relayed message looks like on the other side."""
    return bytes((0x80 | kind, 0x80 | len(payload))) + bytes(4) + payload


def read_exactly(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = peer.recv(size - len(data))
        assert piece
        data += piece
    return data


def test_messages_go_both_ways_until_one_side_ends() -> None:
    left, left_peer = socket.socketpair()
    right, right_peer = socket.socketpair()
    with left_peer, right_peer:
        carrier = threading.Thread(target=relay, args=([(WebSocket(left), WebSocket(right))],))
        carrier.start()
        left_peer.sendall(bytes((0x82, 3)) + b"abc" + bytes((0x81, 0)))
        expected = masked(BINARY, b"abc") + masked(TEXT, b"")
        assert read_exactly(right_peer, len(expected)) == expected
        right_peer.sendall(bytes((0x82, 2)) + b"ok")
        assert read_exactly(left_peer, 8) == masked(BINARY, b"ok")
        right_peer.sendall(bytes((0x82, 4)) + b"last" + bytes((0x88, 2)) + b"\x03\xe8")
        assert read_exactly(left_peer, 10) == masked(BINARY, b"last")
        assert read_exactly(left_peer, 8) == masked(8, b"\x03\xe8")
        carrier.join(5)
        assert not carrier.is_alive()
