"""Load by plain sockets: how long one request takes, and how many a second several connections get answered."""

import socket
import threading
import time
from pathlib import Path


class Connection:
    """A kept-alive connection that repeats one GET and reads each answer to its end, without looking inside."""

    def __init__(self, path: Path, target: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(60)
        self._socket.connect(str(path))
        self._request = f"GET {target} HTTP/1.1\r\nHost: lxd\r\n\r\n".encode()
        self._buffer = bytearray(1 << 20)

    def close(self) -> None:
        self._socket.close()

    def ask(self) -> int:
        """Send the request, read the answer, and return the number of its bytes; raises ValueError for a failure."""
        self._socket.sendall(self._request)
        head = b""
        while b"\r\n\r\n" not in head:
            piece = self._socket.recv(65536)
            if not piece:
                raise ValueError("the server closed the connection")
            head += piece
        head, _, body = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ValueError(head.decode(errors="replace"))
        lower = head.lower()
        if b"content-length:" in lower:
            size = int(lower.partition(b"content-length:")[2].split(b"\r\n")[0])
            left = size - len(body)
            while left > 0:
                left -= self._socket.recv_into(self._buffer, min(left, len(self._buffer)))
            return size
        return self._read_chunks(body)

    def _read_chunks(self, body: bytes) -> int:
        tail, size = body[-7:], len(body)
        while not tail.endswith(b"\r\n0\r\n\r\n"):
            received = self._socket.recv_into(self._buffer)
            if not received:
                raise ValueError("the server closed the connection")
            size += received
            tail = (tail + bytes(self._buffer[max(0, received - 7) : received]))[-7:]
        return size


def latency_ms(path: Path, target: str, count: int) -> float:
    """The median time of one request at a time."""
    connection = Connection(path, target)
    try:
        connection.ask()
        times = []
        for _ in range(count):
            started = time.perf_counter()
            connection.ask()
            times.append((time.perf_counter() - started) * 1000)
    finally:
        connection.close()
    return sorted(times)[count // 2]


def requests_per_second(path: Path, target: str, workers: int, seconds: float) -> float:
    """How many requests are answered while so many connections ask all the time."""
    deadline = time.perf_counter() + seconds
    counts = [0] * workers

    def work(number: int) -> None:
        connection = Connection(path, target)
        try:
            while time.perf_counter() < deadline:
                connection.ask()
                counts[number] += 1
        finally:
            connection.close()

    started = time.perf_counter()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - started)
