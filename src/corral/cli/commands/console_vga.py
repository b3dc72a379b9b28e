"""The graphical console of a virtual machine: a local SPICE socket whose connections go to the server."""

from __future__ import annotations

import os
import shutil
import socket
import threading

from corral.cli import output
from corral.client.server import escape
from corral.client.streams import open_operation_websocket
from corral.client.websocket import BINARY

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.cli.session import Session
    from corral.client.operations import Operation
    from corral.client.server import Server
    from corral.client.websocket import WebSocket

_READ = 65536


def attach_vga(session: Session, server: Server, name: str) -> None:
    """Open the console in a viewer, or say where its socket is, until the viewer is closed."""
    operation = server.start("POST", f"/instances/{escape(name)}/console", {"type": "vga", "width": 0, "height": 0})
    control = open_operation_websocket(server, operation, "control")
    directory = f"{session.remotes.directory}/sockets"
    os.makedirs(directory, 0o700, exist_ok=True)
    path = f"{directory}/{os.getpid()}.spice"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        try:
            listener.listen()
            connections = _Connections(server, operation, listener)
            threading.Thread(target=connections.accept_all, daemon=True).start()
            _view(session, f"spice+unix://{path}", connections)
        finally:
            os.unlink(path)
    control.close()
    operation.wait()


class _Connections:
    """The viewer's connections; a viewer opens several."""

    def __init__(self, server: Server, operation: Operation, listener: socket.socket) -> None:
        self._server = server
        self._operation = operation
        self._listener = listener
        self._open = 0
        self._changed = threading.Condition()
        self._seen = False

    def accept_all(self) -> None:
        """Serve connections until the listener is closed."""
        while True:
            try:
                local, _ = self._listener.accept()
            except OSError:
                return
            with self._changed:
                self._open += 1
                self._seen = True
            threading.Thread(target=self._serve, args=(local,), daemon=True).start()

    def _serve(self, local: socket.socket) -> None:
        websocket = open_operation_websocket(self._server, self._operation, "0")
        threading.Thread(target=_send_all, args=(local, websocket), daemon=True).start()
        try:
            while websocket.is_open:
                for _, payload in websocket.messages():
                    local.sendall(payload)
        except OSError:
            pass  # The viewer closed this connection.
        finally:
            local.close()
            with self._changed:
                self._open -= 1
                self._changed.notify_all()

    def wait_until_closed(self) -> None:
        """Block until a viewer has come and all its connections are gone."""
        with self._changed:
            self._changed.wait_for(lambda: self._seen and self._open == 0)


def _send_all(local: socket.socket, websocket: WebSocket) -> None:
    try:
        while data := local.recv(_READ):
            websocket.send(BINARY, data)
    except OSError:
        pass  # The viewer closed this connection.
    websocket.close()


def _view(session: Session, uri: str, connections: _Connections) -> None:
    viewer = shutil.which("remote-viewer")
    spicy = shutil.which("spicy")
    if viewer or spicy:
        argv = [viewer, uri] if viewer else [str(spicy), f"--uri={uri}"]
        os.waitpid(os.spawnv(os.P_NOWAIT, str(argv[0]), [str(word) for word in argv]), 0)
        return
    output.line(f"{session.product.title} automatically uses either spicy or remote-viewer when present.")
    output.line("As neither could be found, the raw SPICE socket can be found at:")
    output.line(f"  {uri}")
    output.flush()
    connections.wait_until_closed()
