"""A small websocket client: the handshake, frames in and out, and nothing that blocks a loop unasked."""

from __future__ import annotations

from corral.client.connection import BLOCK, ConnectionLost

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.connection import Connection, Transport

TEXT = 1
BINARY = 2
CLOSE = 8
PING = 9
PONG = 10

# The mask guards intermediaries against forged plain HTTP; on a Unix socket and inside TLS there is none, and a mask
# of zeros is valid and leaves the bytes as they are.
_MASK = b"\0\0\0\0"


class WebSocket:
    """One websocket. `feed` takes what `receive` read and yields whole messages."""

    def __init__(self, stream: Transport, buffer: bytes = b"") -> None:
        self.stream = stream
        self.is_open = True
        self._buffer = bytearray(buffer)
        self._message = bytearray()
        self._message_kind = 0
        self._outgoing = bytearray()

    def fileno(self) -> int:
        """The descriptor to poll."""
        return self.stream.fileno()

    def queue(self, kind: int, payload: bytes | memoryview = b"") -> None:
        """Put a message behind those that wait to be sent."""
        size = len(payload)
        if size < 126:
            head = bytes((0x80 | kind, 0x80 | size))
        elif size < 65536:
            head = bytes((0x80 | kind, 0xFE)) + size.to_bytes(2, "big")
        else:
            head = bytes((0x80 | kind, 0xFF)) + size.to_bytes(8, "big")
        self._outgoing += head
        self._outgoing += _MASK
        self._outgoing += payload

    @property
    def has_outgoing(self) -> bool:
        """Whether something waits to be sent."""
        return bool(self._outgoing)

    @property
    def outgoing_size(self) -> int:
        """How many bytes wait to be sent."""
        return len(self._outgoing)

    def flush(self) -> None:
        """Send all that waits, blocking."""
        outgoing, self._outgoing = bytes(self._outgoing), bytearray()
        try:
            self.stream.sendall(outgoing)
        except OSError:
            self.is_open = False

    def send_some(self) -> None:
        """Send as much as a socket that does not block takes."""
        with memoryview(self._outgoing) as view:
            try:
                sent = self.stream.send(view[:BLOCK])
            except BlockingIOError:
                return
            except OSError:
                self.is_open = False
                sent = len(view)
        del self._outgoing[:sent]

    def has_pending(self) -> bool:
        """Whether something was received that polling the descriptor does not show (inside TLS)."""
        pending = getattr(self.stream, "pending", None)
        return bool(pending and pending())

    def send(self, kind: int, payload: bytes = b"") -> None:
        """Send a message now."""
        self.queue(kind, payload)
        self.flush()

    def receive(self) -> list[tuple[int, bytes]]:
        """Read once from the socket; the messages that are whole now. An end of the stream closes the websocket."""
        try:
            data = self.stream.recv(BLOCK)
        except BlockingIOError:
            return []
        except TimeoutError:
            raise
        except OSError:
            data = b""
        if not data:
            self.is_open = False
            return []
        self._buffer += data
        return self.take_messages()

    def take_messages(self) -> list[tuple[int, bytes]]:
        """The whole messages among what was read: (TEXT or BINARY, payload). Control frames are answered here."""
        messages: list[tuple[int, bytes]] = []
        position = 0
        while (frame := self._next_frame(position)) is not None:
            first, start, position = frame
            payload = bytes(memoryview(self._buffer)[start:position])
            self._take_frame(first, payload, messages)
        if position:
            del self._buffer[:position]
        return messages

    def _next_frame(self, position: int) -> tuple[int, int, int] | None:
        """(First byte, start, end) of the payload of the frame at `position`, or None where it is not whole."""
        have = len(self._buffer) - position
        if have < 2:
            return None
        size = self._buffer[position + 1] & 0x7F
        start = position + 2
        if size >= 126:
            width = 2 if size == 126 else 8
            if have < 2 + width:
                return None
            size = int.from_bytes(self._buffer[start : start + width], "big")
            start += width
        if len(self._buffer) < start + size:
            return None
        return self._buffer[position], start, start + size

    def _take_frame(self, first: int, payload: bytes, messages: list[tuple[int, bytes]]) -> None:
        kind = first & 0x0F
        if kind == CLOSE:
            if self.is_open:
                self.send(CLOSE, payload[:2])
            self.is_open = False
        elif kind == PING:
            self.send(PONG, payload)
        elif kind != PONG:
            if kind:
                self._message_kind = kind
            if first & 0x80 and not self._message:
                messages.append((self._message_kind, payload))
                return
            self._message += payload
            if first & 0x80:
                messages.append((self._message_kind, bytes(self._message)))
                self._message.clear()

    def messages(self, timeout_s: float | None = None) -> list[tuple[int, bytes]]:
        """Block until messages arrive, the websocket ends, or the time is over; then what there is."""
        found = self.take_messages()
        self.stream.settimeout(timeout_s)
        while not found and self.is_open:
            try:
                found = self.receive()
            except TimeoutError:
                break
        self.stream.settimeout(None)
        return found

    def close(self) -> None:
        """Say goodbye and close the socket."""
        if self.is_open:
            self.send(CLOSE, b"\x03\xe8")
        self.is_open = False
        self.stream.close()


def open_websocket(connection: Connection, target: str) -> WebSocket:
    """A websocket at `target` (path and query), on a connection of its own. Raises ConnectionLost or ApiError."""
    from binascii import b2a_base64
    from os import urandom

    own = connection.clone()
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": b2a_base64(urandom(16), newline=False).decode(),
    }
    response = own.request("GET", target, headers)
    if response.status != 101:
        from corral.client.server import parse_reply

        parse_reply(response, target)
        raise ConnectionLost(f"The server refused a websocket at {target}: {response.status} {response.reason}")
    return WebSocket(*own.take_stream())
