"""A simplestreams server on loopback: a directory of images with its catalog, and faults on demand."""

import hashlib
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PRODUCTS = "streams/v1/images.json"


@dataclass
class Streams:
    """What is served. `cut` breaks the next transfer of a path after so many bytes, `gates` hold one until set."""

    root: Path
    url: str = ""
    products: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)
    headers: dict[str, dict[str, str]] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    gates: dict[str, threading.Event] = field(default_factory=dict)

    def add(self, serial: str, metadata: bytes, rootfs: bytes | None, *, alias: str = "test/1", **product: Any) -> str:
        """Add a version of a product and return its fingerprint; without `rootfs` the metadata is a unified image."""
        name = f"{alias.replace('/', ':')}:amd64:default"
        entry = self.products.setdefault(
            name, {"aliases": alias, "arch": "amd64", "os": "Test", "release": "one", "release_title": "One"}
        )
        entry.update(product)
        items = {}
        if rootfs is None:
            items["all"] = self._file(f"images/{serial}/all.tar.gz", "lxd_combined.tar.gz", metadata)
            fingerprint = items["all"]["sha256"]
        else:
            fingerprint = hashlib.sha256(metadata + rootfs).hexdigest()
            items["meta"] = self._file(f"images/{serial}/lxd.tar.xz", "lxd.tar.xz", metadata)
            items["meta"]["combined_rootxz_sha256"] = fingerprint
            items["root"] = self._file(f"images/{serial}/root.tar.xz", "root.tar.xz", rootfs)
        entry.setdefault("versions", {})[serial] = {"items": items}
        self.write()
        return str(fingerprint)

    def _file(self, path: str, kind: str, content: bytes) -> dict[str, Any]:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
        return {"ftype": kind, "path": path, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    def write(self) -> None:
        """Write the catalog."""
        index = {"datatype": "image-downloads", "path": PRODUCTS, "products": sorted(self.products)}
        (self.root / "streams/v1").mkdir(parents=True, exist_ok=True)
        (self.root / "streams/v1/index.json").write_text(json.dumps({"format": "index:1.0", "index": {"x": index}}))
        (self.root / PRODUCTS).write_text(json.dumps({"format": "products:1.0", "products": self.products}))

    def count(self, end: str) -> int:
        """How many requests there were for a path with this end."""
        return sum(path.endswith(end) for _, path, _ in self.requests)


class _Handler(BaseHTTPRequestHandler):
    streams: Streams

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        streams, path = self.streams, self.path.lstrip("/")
        streams.requests.append((self.command, path, self.headers.get("Range", "")))
        file = streams.root / path
        if not file.is_file():
            self.send_response(404)
            self.end_headers()
            return
        content = file.read_bytes()
        start = int(self.headers.get("Range", "bytes=0-")[6:].rstrip("-"))
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        for name, value in streams.headers.get(path, {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with suppress(OSError):
                self._send(path, content[start:])

    def _send(self, path: str, content: bytes) -> None:
        gate = self.streams.gates.get(path)
        if gate is not None:
            self.wfile.write(content[:1])
            content = content[1:]
            gate.wait(30)
        self.wfile.write(content[: self.streams.cut.pop(path, len(content))])

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def serve(root: Path, tls: ssl.SSLContext | None = None) -> Iterator[Streams]:
    """Serve an empty catalog until the block is left, over HTTPS with a server's context."""
    streams = Streams(root)
    handler = type("Handler", (_Handler,), {"streams": streams})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    streams.url = f"{'http' if tls is None else 'https'}://127.0.0.1:{server.server_address[1]}"
    streams.write()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield streams
    finally:
        for gate in streams.gates.values():
            gate.set()
        server.shutdown()
        thread.join()
        server.server_close()
