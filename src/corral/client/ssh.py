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


class _Session(asyncssh.SSHServer):
    def __init__(self, login: Login, open_sftp: OpenSftp) -> None:
        self._login = login
        self._open_sftp = open_sftp
        self._peer = ""

    def connection_made(self, connection: asyncssh.SSHServerConnection) -> None:
        host, port = connection.get_extra_info("peername")[:2]
        self._peer = f"{host}:{port}"
        print(f'SSH client connected "{self._peer}"', flush=True)

    def connection_lost(self, error: Exception | None) -> None:
        print(f'SSH client disconnected "{self._peer}"', flush=True)

    def session_requested(self) -> "_Relay":
        return _Relay(self._open_sftp)

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


class _Relay(asyncssh.SSHServerSession[bytes]):
    """One SFTP channel. Each side waits while the other is full."""

    def __init__(self, open_sftp: OpenSftp) -> None:
        self._open_sftp = open_sftp
        self._sent: asyncio.Queue[bytes] = asyncio.Queue()
        self._writable = asyncio.Event()
        self._writable.set()
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: "asyncssh.SSHServerChannel[bytes]") -> None:
        self._channel = chan

    def subsystem_requested(self, subsystem: str) -> bool:
        return subsystem == "sftp"

    def session_started(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._channel.pause_reading()
        self._sent.put_nowait(data)

    def eof_received(self) -> bool:
        self._sent.put_nowait(b"")
        return True

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()

    async def _serve(self) -> None:
        try:
            sftp = await self._open_sftp()
        except OSError as error:
            print(f"Failed connecting to instance SFTP: {error}", file=sys.stderr)
            self._channel.exit(1)
            return
        sftp.setblocking(False)
        reader, writer = await asyncio.open_connection(sock=sftp)
        sending = asyncio.create_task(self._to_instance(writer))
        try:
            while data := await reader.read(CHUNK):
                self._channel.write(data)
                await self._writable.wait()
            self._channel.exit(0)
        finally:
            sending.cancel()
            writer.close()

    async def _to_instance(self, writer: asyncio.StreamWriter) -> None:
        while data := await self._sent.get():
            writer.write(data)
            await writer.drain()
            if self._sent.empty():
                self._channel.resume_reading()
        writer.write_eof()


async def listen(host: str, port: int, login: Login, open_sftp: OpenSftp) -> asyncssh.SSHAcceptor:
    """Start to listen; the acceptor's `get_addresses()` tells where. The host key is made for this run alone."""
    return await asyncssh.create_server(
        lambda: _Session(login, open_sftp),
        host,
        port,
        server_host_keys=[asyncssh.generate_private_key("ssh-ed25519")],
        encoding=None,
        allow_scp=False,
        agent_forwarding=False,
    )
