"""What commands and consoles of instances need of a client's connection, and the pumps between it and descriptors."""

import asyncio
import contextlib
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from corral.errors import InvalidRequest
from corral.server.host.programs import fdio

CHUNK = 64 * 1024
_TURNS = 8
"""Chunks after which a pump lets the other tasks run."""


class Disconnected(Exception):
    """The client's connection is closed."""


@dataclass(frozen=True, slots=True)
class Message:
    """A message of a client. One with `is_text` on a stream of bytes says that the stream ends."""

    data: bytes
    is_text: bool = False


class Channel(Protocol):
    """One connection of a client."""

    async def receive(self) -> Message:
        """The next message. Raises Disconnected."""
        ...

    async def send(self, data: bytes) -> None:
        """Send bytes; waits while the client is slow. Raises Disconnected."""
        ...

    async def send_end(self) -> None:
        """Say that nothing more will be sent; no error where the client is gone."""
        ...


class Connections:
    """The connections of one session by descriptor, each with its secret; all end with the session."""

    def __init__(self, names: Iterable[str]) -> None:
        self.secrets = {name: secrets.token_hex(32) for name in names}
        self._channels: dict[str, Channel | None] = {}
        self._connected = {name: asyncio.Event() for name in self.secrets}
        self._finished = asyncio.Event()

    def claim(self, name: str) -> None:
        """Reserve a descriptor for the client that connects now; InvalidRequest where one is connected."""
        if name in self._channels or self._finished.is_set():
            raise InvalidRequest("Websocket number already connected")
        self._channels[name] = None

    async def serve(self, name: str, channel: Channel) -> None:
        """Lend a connection to the session; returns when that is over."""
        self._channels[name] = channel
        self._connected[name].set()
        await self._finished.wait()

    def find(self, name: str) -> Channel | None:
        """The connection of a descriptor, or None."""
        return self._channels.get(name)

    def get(self, name: str) -> Channel:
        """The connection of a descriptor that is known to be there."""
        channel = self._channels[name]
        assert channel is not None
        return channel

    async def wait(self, names: Iterable[str], timeout_s: float) -> None:
        """Wait until clients are connected. Raises InvalidRequest after the time."""
        try:
            async with asyncio.timeout(timeout_s):
                for name in names:
                    await self._connected[name].wait()
        except TimeoutError:
            raise InvalidRequest("Timed out waiting for websockets to connect") from None

    async def connected(self, name: str) -> Channel:
        """The connection of a descriptor once there is one."""
        await self._connected[name].wait()
        return self.get(name)

    def finish(self) -> None:
        """End the session: all connections are released."""
        self._finished.set()


@dataclass(eq=False, slots=True)
class Flow:
    """How far a pump is: the bytes that it took, and whether it waits for more, all being sent."""

    taken: int = 0
    is_idle: bool = False


async def pump_out(fd: int, channel: Channel, flow: Flow | None = None) -> None:
    """Send what a descriptor yields until its end. Raises Disconnected."""
    flow = flow or Flow()
    turns = 0
    while True:
        flow.is_idle = True
        data = await fdio.read(fd, CHUNK)
        flow.is_idle = False
        if not data:
            return
        flow.taken += len(data)
        await channel.send(data)
        turns += 1
        if turns % _TURNS == 0:
            await asyncio.sleep(0)


async def drain(pump: "asyncio.Task[None]", flow: Flow, quiet_s: float, most: int) -> None:
    """Let a pump bring out what its descriptor holds, though others keep that open: returns at the end, once nothing
    came for some time, or after so many bytes. A client that is slow to take it is waited for."""
    before = flow.taken
    while not pump.done() and flow.taken - before < most:
        seen = flow.taken
        await asyncio.wait([pump], timeout=quiet_s)
        if flow.is_idle and flow.taken == seen:
            return


async def pump_in(channel: Channel, fd: int) -> None:
    """Write what a client sends until it says that it ends. Raises Disconnected; a reader that is gone is no error."""
    while True:
        message = await channel.receive()
        if message.is_text:
            return
        try:
            await fdio.write(fd, message.data)
        except OSError:
            # The command closed its input or ended: what comes is for nobody.
            return


async def until_disconnected(channel: Channel) -> None:
    """Ignore what a client sends; returns when it is gone."""
    with contextlib.suppress(Disconnected):
        while True:
            await channel.receive()
