"""HTTP/1.1 over one socket: requests, answers of any framing, kept-alive reuse and the upgrade to another protocol.

It knows nothing of the API; `client/server.py` does. Only accelerators that are built into the interpreter are
imported, since every command pays for this module.
"""

from __future__ import annotations

import _socket

from corral.errors import CorralError, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Protocol

    class Transport(Protocol):
        """A connected stream: a plain or a TLS socket."""

        def sendall(self, data: bytes | memoryview, /) -> None: ...
        def send(self, data: memoryview, /) -> int: ...
        def recv(self, size: int, /) -> bytes: ...
        def fileno(self) -> int: ...
        def close(self) -> None: ...
        def settimeout(self, timeout: float | None, /) -> None: ...

    Body = bytes | Iterable[bytes] | None

BLOCK = 262144
_HEAD_LIMIT = 1048576
_NO_BODY_STATUSES = (204, 304)


class ConnectionLost(Unavailable):
    """The server closed the connection or cannot be reached."""


def open_unix(path: str) -> Transport:
    """A stream to the Unix socket at `path`. Raises ConnectionLost."""
    stream = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        stream.connect(path)
    except OSError as error:
        stream.close()
        raise ConnectionLost(f"{path}: {error.strerror or error}") from error
    return stream


class Response:
    """The head of an answer; its body is read once, by `read` or by `chunks`."""

    def __init__(self, connection: Connection, status: int, reason: str, headers: dict[str, str]) -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self._connection = connection

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces of any size."""
        return self._connection.body_chunks(self)

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self._connection.body_chunks(self))


class Connection:
    """One HTTP connection, opened when first needed and again when the server closed it."""

    def __init__(self, connect: Callable[[], Transport], host: str, user_agent: str) -> None:
        self._connect = connect
        self._host = host
        self._user_agent = user_agent
        self._stream: Transport | None = None
        self._buffer = b""
        self._body_pending = False
        self._timeout_s: float | None = None

    def limit_wait(self, timeout_s: float) -> None:
        """Have every later wait for the server raise TimeoutError when it takes longer."""
        self._timeout_s = timeout_s

    def clone(self) -> Connection:
        """Another connection to the same server."""
        return Connection(self._connect, self._host, self._user_agent)

    def request(self, method: str, target: str, headers: dict[str, str] | None = None, body: Body = None) -> Response:
        """Send a request and read the head of the answer. `target` is the path with its query.

        A body that is not bytes goes in chunks. An answer whose body was not read to its end costs a new connection.
        """
        if self._body_pending or self._is_stale():
            self.close()
        head = self._head(method, target, headers or {}, body)
        reused = self._stream is not None
        try:
            self._send(head, body)
            return self._read_head(method)
        except (OSError, ConnectionLost) as error:
            self.close()
            # A kept-alive connection may have been closed by the server in this moment: to ask again is harmless.
            if reused and method == "GET" and not isinstance(error, TimeoutError):
                return self.request(method, target, headers, body)
            if isinstance(error, CorralError | TimeoutError):
                raise
            raise ConnectionLost(f"The connection to the server broke: {error.strerror or error}") from error

    def _is_stale(self) -> bool:
        """Whether the server closed the kept-alive connection, which then shows as readable."""
        if self._stream is None:
            return False
        import select

        poll = select.poll()
        poll.register(self._stream.fileno(), select.POLLIN)
        return bool(poll.poll(0))

    def _head(self, method: str, target: str, headers: dict[str, str], body: Body) -> bytes:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._host}", f"User-Agent: {self._user_agent}"]
        lines.extend(f"{name}: {value}" for name, value in headers.items())
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            if "Content-Length" not in headers:
                lines.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT", "PATCH"):
            lines.append("Content-Length: 0")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("utf-8", "surrogateescape")

    def _send(self, head: bytes, body: Body) -> None:
        if self._stream is None:
            self._stream = self._connect()
            self._stream.settimeout(self._timeout_s)
            self._buffer = b""
        if body is None or isinstance(body, bytes):
            self._stream.sendall(head + body if body else head)
            return
        self._stream.sendall(head)
        chunked = b"Transfer-Encoding: chunked" in head
        try:
            for piece in body:
                if piece:
                    self._stream.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
            if chunked:
                self._stream.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass  # The server answered before it read everything: its answer, if it still can be read, says why.

    def _receive(self) -> bytes:
        if self._stream is None:
            raise ConnectionLost("The connection to the server is closed")
        data = self._stream.recv(BLOCK)
        if not data:
            raise ConnectionLost("The server closed the connection before it answered")
        return data

    def _read_head(self, method: str) -> Response:
        while True:
            while (end := self._buffer.find(b"\r\n\r\n")) < 0:
                if len(self._buffer) > _HEAD_LIMIT:
                    raise ConnectionLost("The server's answer is not HTTP")
                self._buffer += self._receive()
            head, self._buffer = self._buffer[:end].decode("latin-1"), self._buffer[end + 4 :]
            first, *lines = head.split("\r\n")
            protocol, _, status = first.partition(" ")
            code, _, reason = status.partition(" ")
            if not protocol.startswith("HTTP/1.") or not code.isdecimal():
                raise ConnectionLost(f"The server's answer is not HTTP: {first[:80]!r}")
            headers = {}
            for line in lines:
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            if code == "101" or code[0] != "1":
                break
        response = Response(self, int(code), reason, headers)
        self._body_pending = method != "HEAD" and response.status not in _NO_BODY_STATUSES and code != "101"
        return response

    def body_chunks(self, response: Response) -> Iterator[bytes]:
        """The body of the answer whose head was read last."""
        if not self._body_pending:
            return
        if "chunked" in response.headers.get("transfer-encoding", ""):
            yield from self._chunked_body()
        elif "content-length" in response.headers:
            yield from self._sized_body(int(response.headers["content-length"]))
        else:
            yield from self._body_until_close()
            self.close()
        self._body_pending = False
        if response.headers.get("connection", "").lower() == "close":
            self.close()

    def _sized_body(self, left: int) -> Iterator[bytes]:
        while left > 0:
            piece = self._buffer or self._receive()
            self._buffer = piece[left:]
            piece = piece[:left]
            left -= len(piece)
            yield piece

    def _body_until_close(self) -> Iterator[bytes]:
        if self._buffer:
            piece, self._buffer = self._buffer, b""
            yield piece
        while self._stream is not None and (piece := self._stream.recv(BLOCK)):
            yield piece

    def _chunked_body(self) -> Iterator[bytes]:
        while True:
            size = int(self._line().partition(b";")[0], 16)
            if size == 0:
                while self._line():
                    pass
                return
            yield from self._sized_body(size)
            self._line()

    def _line(self) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._buffer += self._receive()
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line.rstrip(b"\r")

    def take_stream(self) -> tuple[Transport, bytes]:
        """The stream after a 101 and what was read beyond the head; this connection forgets it."""
        if self._stream is None:
            raise ConnectionLost("The connection to the server is closed")
        stream, self._stream = self._stream, None
        buffer, self._buffer = self._buffer, b""
        return stream, buffer

    def close(self) -> None:
        """Close the socket; the next request opens another."""
        if self._stream is not None:
            self._stream.close()
        self._stream = None
        self._buffer = b""
        self._body_pending = False
