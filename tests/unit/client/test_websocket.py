"""Websocket frames in and out, and the pump between descriptors and websockets."""

import os
import select
import signal
import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from corral.client.streams import SignalPipe, Streams
from corral.client.websocket import BINARY, CLOSE, PING, TEXT, WebSocket

Pair = tuple[WebSocket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    websocket = WebSocket(ours)
    yield websocket, theirs
    ours.close()
    theirs.close()


def frame(kind: int, payload: bytes, *, final: bool = True) -> bytes:
    """An unmasked frame, as servers send them."""
    first = kind | (0x80 if final else 0)
    if len(payload) < 126:
        return bytes((first, len(payload))) + payload
    if len(payload) < 65536:
        return bytes((first, 126)) + struct.pack(">H", len(payload)) + payload
    return bytes((first, 127)) + struct.pack(">Q", len(payload)) + payload


@pytest.mark.parametrize("size", [0, 125, 126, 65535, 65536, 200000])
def test_messages_of_every_size(size: int, pair: Pair) -> None:
    websocket, theirs = pair
    payload = os.urandom(size)
    thread = threading.Thread(target=theirs.sendall, args=(frame(BINARY, payload),))
    thread.start()
    received: list[tuple[int, bytes]] = []
    while not received:
        received = websocket.messages(5)
    thread.join()
    assert received == [(BINARY, payload)]


def test_fragments_are_joined(pair: Pair) -> None:
    websocket, theirs = pair
    theirs.sendall(frame(TEXT, b"ab", final=False) + frame(PING, b"p") + frame(0, b"cd"))
    assert websocket.messages(5) == [(TEXT, b"abcd")]
    assert theirs.recv(100) == bytes((0x8A, 0x81)) + bytes(4) + b"p"


def test_a_close_is_answered(pair: Pair) -> None:
    websocket, theirs = pair
    theirs.sendall(frame(BINARY, b"last") + frame(CLOSE, b"\x03\xe8bye"))
    assert websocket.messages(5) == [(BINARY, b"last")]
    assert not websocket.is_open
    assert theirs.recv(100) == bytes((0x88, 0x82)) + bytes(4) + b"\x03\xe8"


def test_an_end_without_a_close(pair: Pair) -> None:
    websocket, theirs = pair
    theirs.close()
    assert websocket.messages(5) == []
    assert not websocket.is_open


def test_sent_frames_are_masked(pair: Pair) -> None:
    websocket, theirs = pair
    websocket.send(BINARY, b"x" * 300)
    assert theirs.recv(1000) == bytes((0x82, 0xFE)) + struct.pack(">H", 300) + bytes(4) + b"x" * 300


def test_the_time_is_limited(pair: Pair) -> None:
    websocket, _ = pair
    assert websocket.messages(0.01) == []
    assert websocket.is_open


def test_carrying_both_ways(pair: Pair) -> None:
    """A megabyte in and out at once, where each side waits for the other to read."""
    websocket, theirs = pair
    payload = os.urandom(1 << 20)
    source_read, source_write = os.pipe()
    sink_read, sink_write = os.pipe()

    def feed() -> None:
        with os.fdopen(source_write, "wb") as file:
            file.write(payload)

    def echo() -> None:
        """Send each payload back; an empty text is the end."""
        buffer = b""
        while True:
            while (whole := _take_masked(buffer)) is not None:
                kind, body, buffer = whole
                theirs.sendall(frame(kind, body))
                if kind == TEXT:
                    return
            buffer += theirs.recv(1 << 20)

    collected = bytearray()

    def collect() -> None:
        while data := os.read(sink_read, 1 << 16):
            collected.extend(data)

    threads = [threading.Thread(target=target) for target in (feed, echo, collect)]
    for thread in threads:
        thread.start()
    streams = Streams()
    streams.add_input(source_read, websocket)
    streams.add_output(websocket, sink_write)
    with SignalPipe(()) as signals:
        streams.run(signals, lambda _: None)
    os.close(sink_write)
    for thread in threads:
        thread.join(10)
    os.close(source_read)
    os.close(sink_read)
    assert bytes(collected) == payload


def _take_masked(buffer: bytes) -> tuple[int, bytes, bytes] | None:
    if len(buffer) < 2:
        return None
    size, start = buffer[1] & 0x7F, 2
    if size == 126:
        size, start = int.from_bytes(buffer[2:4], "big"), 4
    elif size == 127:
        size, start = int.from_bytes(buffer[2:10], "big"), 10
    start += 4
    if len(buffer) < start + size:
        return None
    return buffer[0] & 0x0F, buffer[start : start + size], buffer[start + size :]


def test_signals_are_readable_and_handlers_come_back() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with SignalPipe((signal.SIGUSR1,)) as signals:
        os.kill(os.getpid(), signal.SIGUSR1)
        assert select.select([signals], [], [], 5)[0]
        assert signals.take() == bytes([signal.SIGUSR1])
        assert signals.take() == b""
    assert signal.getsignal(signal.SIGUSR1) is before
