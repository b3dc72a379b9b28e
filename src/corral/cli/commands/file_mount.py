"""`file mount`: an instance's files through sshfs, or through an SSH server on this machine that speaks SFTP."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import threading

from corral.cli import output
from corral.cli.command import Invocation
from corral.client.server import escape, parse_reply
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.client.connection import Transport
    from corral.client.server import Server

_READ = 65536
_ALPHABET = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def run(invocation: Invocation) -> int:
    """Mount, or listen."""
    resource = invocation.session.resource(invocation.args[0])
    target = invocation.arg(1)
    listen = invocation.text("listen")
    if target and not os.path.isdir(target):
        os.stat(target)
        raise CorralError("Target path must be a directory")
    if target and listen:
        raise CorralError("Target path and --listen flag cannot be used together")
    instance, slash, path = resource.name.partition("/")
    if target and not slash:
        raise CorralError(f'Invalid instance path: "{resource.name}"')
    if slash and not target:
        raise CorralError("Instance path cannot be used in SSH SFTP listener mode")
    if target:
        _mount(resource.server, instance, os.path.normpath("/" + path), target)
    else:
        resource.server.get(f"/instances/{escape(instance)}")
        _listen(invocation, resource.server, instance)
    return 0


def open_sftp(server: Server, instance: str) -> socket.socket:
    """A socket that speaks SFTP with an instance. Raises CorralError."""
    connection = server.connection.clone()
    target = server.path(f"/instances/{escape(instance)}/sftp")
    response = connection.request("GET", target, {"Upgrade": "sftp", "Connection": "Upgrade"})
    if response.status != 101:
        parse_reply(response, server.base_url + target)
        raise CorralError(f"The server gave no SFTP connection to {instance}")
    stream, rest = connection.take_stream()
    if hasattr(stream, "pending") or rest:
        return _relay(stream, rest)
    plain = socket.socket(fileno=os.dup(stream.fileno()))
    stream.close()
    return plain


def _relay(stream: Transport, rest: bytes) -> socket.socket:
    """One end of a pair whose other end carries a stream that is no plain socket."""
    ours, theirs = socket.socketpair()

    def receive() -> None:
        data = rest or stream.recv(_READ)
        while data:
            theirs.sendall(data)
            data = stream.recv(_READ)
        theirs.shutdown(socket.SHUT_WR)

    def send() -> None:
        while data := theirs.recv(_READ):
            stream.sendall(data)
        stream.close()

    for carry in (receive, send):
        threading.Thread(target=carry, daemon=True).start()
    return ours


def _mount(server: Server, instance: str, path: str, target: str) -> None:
    sshfs = shutil.which("sshfs")
    if sshfs is None:
        raise CorralError("sshfs not found. Try SSH SFTP mode using the --listen flag")
    try:
        sftp = open_sftp(server, instance)
    except CorralError as error:
        raise CorralError(f"Failed connecting to instance SFTP: {error}") from error
    argv = [sshfs, "-o", "slave", f"corral.{instance}:{path}", target]
    actions = [(os.POSIX_SPAWN_DUP2, sftp.fileno(), 0), (os.POSIX_SPAWN_DUP2, sftp.fileno(), 1)]
    program = os.posix_spawn(sshfs, argv, os.environ, file_actions=actions)
    sftp.close()
    output.line(f'sshfs mounting "{instance}{path}" on "{target}"')
    output.line("Press ctrl+c to finish")
    output.flush()
    while True:
        try:
            _, status = os.waitpid(program, 0)
            break
        except KeyboardInterrupt:
            os.kill(program, signal.SIGINT)
    output.line("sshfs has stopped")
    code = os.waitstatus_to_exitcode(status)
    if code > 0:
        raise CorralError(f"sshfs failed: exit status {code}")


def _listen(invocation: Invocation, server: Server, instance: str) -> None:
    import asyncio
    import secrets

    from corral.client.ssh import Login, listen

    def word() -> str:
        return "".join(secrets.choice(_ALPHABET) for _ in range(8))

    no_auth = invocation.switch("no-auth")
    login = Login(invocation.text("auth-user") or word(), None if no_auth else word())
    host, port = _split(invocation.text("listen") or "127.0.0.1:0")

    async def opened() -> socket.socket:
        try:
            return await asyncio.to_thread(open_sftp, server, instance)
        except CorralError as error:
            raise OSError(str(error)) from error

    async def serve() -> None:
        acceptor = await listen(host, port, login, opened)
        where = acceptor.get_addresses()[0]
        shown = f"[{where[0]}]:{where[1]}" if ":" in where[0] else f"{where[0]}:{where[1]}"
        output.line(f"SSH SFTP listening on {shown}")
        if no_auth:
            output.line("Login without username and password")
        else:
            output.line(f'Login with username "{login.user}" and password "{login.password}"')
        output.flush()
        await acceptor.wait_closed()

    asyncio.run(serve())


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if not port.isdecimal():
        raise CorralError(f'Failed to listen for connection: "{address}" is not address:port')
    return host.strip("[]"), int(port)
