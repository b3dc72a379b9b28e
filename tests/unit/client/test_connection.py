"""HTTP over a socket: framings, keep-alive, a server that goes away, and the envelope."""

import select
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from corral.client.connection import Connection, ConnectionLost, open_unix
from corral.client.server import ApiError, NotJson, Server, escape, query_string
from harness.waiting import until

Script = list[bytes]


class Peer:
    """A server of scripted answers, one script for each connection, which notes what it was asked."""

    def __init__(self, *scripts: Script) -> None:
        self._scripts = list(scripts)
        self.requests: list[bytes] = []
        self._threads: list[threading.Thread] = []

    def connect(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        thread = threading.Thread(target=self._serve, args=(theirs, self._scripts.pop(0)))
        thread.start()
        self._threads.append(thread)
        return ours

    def _serve(self, theirs: socket.socket, script: Script) -> None:
        with theirs:
            for answer in script:
                request = b""
                while not self._is_whole(request):
                    data = theirs.recv(65536)
                    if not data:
                        return
                    request += data
                self.requests.append(request)
                theirs.sendall(answer)

    @staticmethod
    def _is_whole(request: bytes) -> bool:
        head, separator, body = request.partition(b"\r\n\r\n")
        if not separator:
            return False
        if b"chunked" in head:
            return body.endswith(b"0\r\n\r\n")
        size = next((int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"Content-Length:")), 0)
        return len(body) >= size

    def join(self) -> None:
        for thread in self._threads:
            thread.join(5)


@pytest.fixture
def peer_of() -> Iterator[Callable[..., tuple[Peer, Connection]]]:
    made: list[tuple[Peer, Connection]] = []

    def make(*scripts: Script) -> tuple[Peer, Connection]:
        peer = Peer(*scripts)
        connection = Connection(peer.connect, "unix.socket", "test")
        made.append((peer, connection))
        return peer, connection

    yield make
    for peer, connection in made:
        connection.close()
        peer.join()


def answer(body: bytes, *headers: bytes, status: bytes = b"200 OK") -> bytes:
    lines = [b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *headers]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_requests_share_a_connection(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=1\r\nde\r\n0\r\n\r\n"
    peer, connection = peer_of([chunked, answer(b"second", b"X-LXD-Type: file")])
    assert connection.request("GET", "/1").read() == b"abcde"
    response = connection.request("POST", "/2", {"If-Match": "x"}, b"body")
    assert response.headers["x-lxd-type"] == "file"
    assert response.read() == b"second"
    assert peer.requests[1] == (
        b"POST /2 HTTP/1.1\r\nHost: unix.socket\r\nUser-Agent: test\r\nIf-Match: x\r\nContent-Length: 4\r\n\r\nbody"
    )


def test_a_body_in_pieces_is_chunked(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    peer, connection = peer_of([answer(b"")])
    connection.request("POST", "/", None, iter([b"abc", b"", b"d"])).read()
    assert peer.requests[0].endswith(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n")


def test_a_body_may_end_with_the_connection(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    _, connection = peer_of([b"HTTP/1.1 200 OK\r\n\r\nto the end"], [answer(b"again")])
    assert connection.request("GET", "/").read() == b"to the end"
    assert connection.request("GET", "/").read() == b"again"


def test_an_unread_body_costs_a_connection(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    _, connection = peer_of([answer(b"never read")], [answer(b"fresh")])
    connection.request("GET", "/")
    assert connection.request("GET", "/").read() == b"fresh"


def test_a_closed_connection_is_opened_again(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    peer, connection = peer_of([answer(b"1")], [answer(b"2")])
    connection.request("GET", "/").read()
    peer.join()
    assert connection.request("POST", "/").read() == b"2"


def test_interim_answers_are_skipped(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    _, connection = peer_of([b"HTTP/1.1 100 Continue\r\n\r\n" + answer(b"done")])
    assert connection.request("GET", "/").read() == b"done"


def test_an_answer_before_the_end_of_the_body_is_read() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        theirs, _ = listener.accept()

    def refuse() -> None:
        poll = select.poll()
        poll.register(ours, select.POLLOUT)
        with theirs:
            until(lambda: not poll.poll(0), "the client waits for somebody to read")
            theirs.sendall(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")

    thread = threading.Thread(target=refuse)
    thread.start()
    connection = Connection(lambda: ours, "lxd", "test")
    try:
        assert connection.request("POST", "/", body=iter([b"x" * 65536] * 1000)).status == 413
    finally:
        connection.close()
        thread.join()


@pytest.mark.parametrize("script", [[], [b"SSH-2.0-x\r\n\r\n"]])
def test_a_peer_that_is_no_server(script: Script, peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    _, connection = peer_of(script)
    with pytest.raises(ConnectionLost):
        connection.request("GET", "/")


def test_a_missing_socket_is_named() -> None:
    with pytest.raises(ConnectionLost, match=r"/nonexistent/unix.socket: No such file or directory"):
        open_unix("/nonexistent/unix.socket")


def test_the_envelope(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    good = b'{"type":"sync","metadata":{"name":"c1"}}'
    bad = b'{"type":"error","error":"Instance not found","error_code":404}'
    _, connection = peer_of(
        [
            answer(good, b"ETag: abc"),
            answer(bad, status=b"404 Not Found"),
            answer(b"<html>", status=b"502 Bad Gateway"),
            answer(b"text"),
        ]
    )
    server = Server(connection, "http://unix.socket")
    assert server.get_tagged("/instances/c1") == ({"name": "c1"}, "abc")
    with pytest.raises(ApiError, match=r"^Instance not found$") as caught:
        server.get("/instances/c2")
    assert caught.value.status == 404
    with pytest.raises(ApiError, match=r"Failed to fetch http://unix.socket/1.0/x: 502 Bad Gateway"):
        server.get("/x")
    with pytest.raises(NotJson):
        server.get("/y")


def test_project_and_target_go_with_every_request(peer_of: Callable[..., tuple[Peer, Connection]]) -> None:
    _, connection = peer_of()
    server = Server(connection, "").with_project("a b").with_target("m1")
    assert server.path("/instances") == "/1.0/instances?target=m1&project=a%20b"
    assert server.path("/instances", {"all-projects": "true"}) == "/1.0/instances?all-projects=true&target=m1"
    assert server.path("/x", {"project": "other"}) == "/1.0/x?project=other&target=m1"


@pytest.mark.parametrize(
    ("text", "escaped"), [("c1", "c1"), ("a/b", "a%2Fb"), ("é", "%C3%A9"), ("a b+c", "a%20b%2Bc"), ("~._-", "~._-")]
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_query_string() -> None:
    assert query_string({}) == ""
    assert query_string({"filter": "name eq c1", "recursion": "2"}) == "?filter=name%20eq%20c1&recursion=2"
