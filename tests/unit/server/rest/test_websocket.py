"""The stream of events: who answers pings stays connected, however quiet it is; who is gone is noticed."""

import asyncio

import aiohttp
import pytest
from aiohttp import WSMsgType

from corral.server.rest import websocket

from .conftest import Server


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "KEEPALIVE_S", 0.02)
    monkeypatch.setattr(websocket, "SILENCE_S", 0.5)


async def test_who_answers_pings_stays(server: Server) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(server.socket)) as session:
        async with session.ws_connect("http://lxd/1.0/events", autoping=False) as socket:
            loop = asyncio.get_running_loop()
            ends = loop.time() + 1.5
            while loop.time() < ends:
                message = await socket.receive(60)
                assert message.type is WSMsgType.PING
                await socket.pong(message.data)
            assert not socket.closed


async def test_who_answers_nothing_is_gone(server: Server) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(server.socket)) as session:
        async with session.ws_connect("http://lxd/1.0/events", autoping=False) as socket:
            started = asyncio.get_running_loop().time()
            while (await socket.receive(60)).type is WSMsgType.PING:
                pass
            assert asyncio.get_running_loop().time() - started >= 0.5
