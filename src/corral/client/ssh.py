"""An SSH server on this machine whose only service is SFTP, relayed to an instance (`file mount --listen`).

The SSH protocol is asyncssh's; the SFTP bytes go through untouched. Imported only by the command that needs it.
"""

import asyncio
import hmac
import socket
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

try:
    import asyncssh
except ImportError as error:
    raise SystemExit("Error: The SSH listener needs the Python package asyncssh: run scripts/install") from error

OpenSftp = Callable[[], Awaitable[socket.socket]]
"""Opens a connection that speaks SFTP with the instance."""

CHUNK = 64 * 1024


@dataclass(frozen=True, slots=True)
class Login:
    """Who may log in; None as password lets everyone in."""

    user: str
    password: str | None


class _Session(asyncssh.SSHServer):  # type: ignore[misc]
    def __init__(self, login: Login) -> None:
        self._login = login
        self._peer = ""

    def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
        host, port = connection.get_extra_info("peername")[:2]
        self._peer = f"{host}:{port}"
        print(f'SSH client connected "{self._peer}"', flush=True)

    def connection_lost(self, error: Exception | None) -> None:
        print(f'SSH client disconnected "{self._peer}"', flush=True)

    def begin_auth(self, username: str) -> bool:
        return self._login.password is not None

    def password_auth_supported(self) -> bool:
        return True

    def validate_password(self, username: str, password: str) -> bool:
        if self._login.password is None:
            return True  # asyncssh asks here, not in begin_auth, when the client gave no user name (curl does so)
        wanted = self._login.password
        right_user = hmac.compare_digest(username.encode(), self._login.user.encode())
        return hmac.compare_digest(password.encode(), wanted.encode()) and right_user


async def listen(host: str, port: int, login: Login, open_sftp: OpenSftp) -> asyncssh.SSHAcceptor:
    """Start to listen; the acceptor's `get_addresses()` tells where. The host key is made for this run alone."""

    async def serve(process: "asyncssh.SSHServerProcess[bytes]") -> None:
        if process.subsystem != "sftp":
            process.stderr.write(b"Only the SFTP subsystem is available\n")
            process.exit(1)
            return
        try:
            await _relay(process, await open_sftp())
        except OSError as error:
            print(f"Failed connecting to instance SFTP: {error}", file=sys.stderr)
            process.exit(1)
        else:
            process.exit(0)

    return await asyncssh.create_server(
        lambda: _Session(login),
        host,
        port,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        process_factory=serve,
        encoding=None,
        allow_scp=False,
        line_editor=False,
        agent_forwarding=False,
    )


async def _relay(process: "asyncssh.SSHServerProcess[bytes]", sftp: socket.socket) -> None:
    sftp.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=sftp)

    async def to_instance() -> None:
        while data := await process.stdin.read(CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()

    async def from_instance() -> None:
        while data := await reader.read(CHUNK):
            process.stdout.write(data)
            await process.stdout.drain()

    sending = asyncio.create_task(to_instance())
    try:
        await from_instance()
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        writer.close()
