"""A migration's two connections, control and file system: accepted from the other side, or opened to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import msgspec

from corral.errors import CorralError, InternalError, InvalidRequest
from corral.server.context import Context
from corral.server.instances.sessions.channels import Channel, Connections, Disconnected
from corral.server.instances.sessions.websockets import WebsocketChannel
from corral.server.migration import wire
from corral.server.migration.wire import Control, Header
from corral.server.outbound.http import Outbound

NAMES = ("control", "fs")
CONNECT_TIMEOUT_S = 30.0
HEADER_TIMEOUT_S = 60.0
FAREWELL_S = 10.0
_MAX_INDEX = 64 << 20


@dataclass(frozen=True, slots=True)
class Remote:
    """An operation of the other server that is connected to; `secrets` are those of its connections by name."""

    operation: str
    certificate: str
    secrets: Mapping[str, str]


@dataclass(slots=True)
class Session:
    """The connections of one migration, and what is said on them."""

    control: Channel
    files: Channel

    async def send_header(self, header: Header) -> None:
        """Offer or answer."""
        await self.control.send(wire.encode_header(header))

    async def receive_header(self) -> Header:
        """What the other side offers or answers; raises what it says instead."""
        async with asyncio.timeout(HEADER_TIMEOUT_S):
            message = await self.control.receive()
        return wire.decode_header(message.data)

    async def receive_end(self) -> None:
        """Wait until the other side says that it has everything; raises why it has not."""
        control = wire.decode_control((await self.control.receive()).data)
        if not control.success:
            raise InternalError(f"The target server failed: {control.message or 'no reason was given'}")

    async def send_end(self, error: str = "") -> None:
        """Say that everything is there, or why it is not."""
        await self.control.send(wire.encode_control(Control(not error, error)))

    async def send_document(self, document: Any) -> None:
        """Send one JSON document between the streams of files."""
        await self.files.send(msgspec.json.encode(document))
        await self.files.send_end()

    async def receive_document(self) -> bytes:
        """One JSON document of the other side."""
        data = bytearray()
        while not (message := await self.files.receive()).is_text:
            data += message.data
            if len(data) > _MAX_INDEX:
                raise InvalidRequest("The other server sent a description that is too long")
        return bytes(data)


@contextlib.asynccontextmanager
async def open_session(context: Context, link: Connections | Remote) -> AsyncIterator[Session]:
    """The session of a migration, for as long as the block lasts; what fails in it is told to the other side."""
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(link, Connections):
            stack.callback(link.finish)
            await link.wait(NAMES, CONNECT_TIMEOUT_S)
            session = Session(link.get("control"), link.get("fs"))
        else:
            session = Session(*[await stack.enter_async_context(_dial(context, link, name)) for name in NAMES])
        try:
            yield session
        except Disconnected:
            reason = await _reason(session)
            raise InternalError(reason or "The other server broke off the migration") from None
        except TimeoutError:
            raise InternalError("The other server did not answer in time") from None
        except BaseException as error:
            reason = await _reason(session) if isinstance(error, CorralError) else ""
            message = str(error) if isinstance(error, CorralError) else "Migration failed"
            with contextlib.suppress(Disconnected):
                await session.send_end(message or "Migration failed")
            if reason:
                raise InternalError(reason) from error
            raise


async def _reason(session: Session) -> str:
    """What the other side said of its failure, if it did."""
    with contextlib.suppress(Disconnected, TimeoutError, InvalidRequest):
        async with asyncio.timeout(FAREWELL_S):
            control = wire.decode_control((await session.control.receive()).data)
            return "" if control.success else f"The other server failed: {control.message}"
    return ""


@contextlib.asynccontextmanager
async def _dial(context: Context, remote: Remote, name: str) -> AsyncIterator[Channel]:
    secret = remote.secrets.get(name, "")
    if not secret:
        raise InvalidRequest(f"Missing {name} secret")
    url = f"{remote.operation}/websocket?{urlencode({'secret': secret})}"
    async with context.parts[Outbound].websocket(url, remote.certificate) as socket:
        yield WebsocketChannel(socket)
