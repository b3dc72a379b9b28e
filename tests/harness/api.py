"""A small client of the REST API over the Unix socket, used for our daemon and the real one alike."""

import http.client
import json
import select
import socket
from pathlib import Path
from typing import Any


class ApiError(Exception):
    """An error reply or a failed operation."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status
        self.message = message


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("lxd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class Api:
    """One kept-alive connection; not for several threads at once."""

    def __init__(self, path: Path, timeout_s: float = 120.0) -> None:
        self._connection = UnixConnection(path, timeout_s)

    def close(self) -> None:
        self._connection.close()

    def __enter__(self) -> "Api":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def raw(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request and return status, headers (lower case) and body."""
        if self._is_stale():
            self._connection.close()
        try:
            self._connection.request(method, path, body=body, headers=headers or {})
            reply = self._connection.getresponse()
            content = reply.read()
        except (http.client.HTTPException, OSError):
            self._connection.close()
            raise
        return reply.status, {name.lower(): value for name, value in reply.getheaders()}, content

    def _is_stale(self) -> bool:
        """Whether the server has closed the connection, which was idle for long."""
        kept = self._connection.sock
        if kept is None:
            return False
        poll = select.poll()
        poll.register(kept, select.POLLIN)
        return bool(poll.poll(0))

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Any:
        """Send JSON and return the reply's envelope; raises ApiError for an error reply."""
        sent = None if body is None else json.dumps(body).encode()
        status, _, content = self.raw(method, path, sent, {"Content-Type": "application/json", **headers})
        envelope = json.loads(content)
        if envelope["type"] == "error":
            raise ApiError(status, envelope["error"])
        return envelope

    def get(self, path: str) -> Any:
        """The metadata of a GET."""
        return self.call("GET", path)["metadata"]

    def start(self, method: str, path: str, body: object = None) -> str:
        """Start an operation and return its URL."""
        operation: str = self.call(method, path, body)["operation"]
        return operation

    def wait(self, operation: str, timeout_s: int = 110) -> Any:
        """Wait for an operation and return it; ApiError where it failed."""
        done = self.call("GET", f"{operation}/wait?timeout={timeout_s}")["metadata"]
        if done["status_code"] != 200:
            raise ApiError(done["status_code"], done["err"] or done["status"])
        return done

    def run(self, method: str, path: str, body: object = None) -> Any:
        """Start an operation, wait for it and return it."""
        return self.wait(self.start(method, path, body))

    def upload_image(self, file: Path, alias: str) -> str:
        """Import a unified image, give it an alias and return its fingerprint."""
        status, _, content = self.raw("POST", "/1.0/images", file.read_bytes(), {"X-LXD-filename": file.name})
        envelope = json.loads(content)
        if envelope["type"] == "error":
            raise ApiError(status, envelope["error"])
        fingerprint: str = self.wait(envelope["operation"])["metadata"]["fingerprint"]
        self.call("POST", "/1.0/images/aliases", {"name": alias, "target": fingerprint})
        return fingerprint

    def create(self, name: str, image: str, **more: object) -> None:
        """Create an instance from a local image alias."""
        body = {"name": name, "source": {"type": "image", "alias": image}, **more}
        self.run("POST", "/1.0/instances", body)

    def set_state(
        self, name: str, action: str, *, force: bool = False, timeout_s: int = 30, stateful: bool = False
    ) -> None:
        """Start, stop, restart, freeze or unfreeze an instance."""
        body = {"action": action, "force": force, "timeout": timeout_s, "stateful": stateful}
        self.run("PUT", f"/1.0/instances/{name}/state", body)

    def execute(self, name: str, *argv: str) -> int:
        """Run a command in an instance without its input and output; returns the exit code."""
        body = {"command": list(argv), "interactive": False, "wait-for-websocket": False}
        done = self.run("POST", f"/1.0/instances/{name}/exec", body)
        code: int = done["metadata"]["return"]
        return code

    def delete(self, name: str) -> None:
        """Delete a stopped instance."""
        self.run("DELETE", f"/1.0/instances/{name}")
