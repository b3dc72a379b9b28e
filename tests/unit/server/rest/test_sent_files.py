"""Files whose reader has gone: that is a broken connection, whatever asyncio calls it."""

from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from corral.server.rest import files, streams
from corral.server.rest.files import SentFile


def asked(monkeypatch: pytest.MonkeyPatch, *, is_gone: bool) -> web.Request:
    request = make_mocked_request("GET", "/")
    assert request.transport is not None
    monkeypatch.setattr(request.transport, "is_closing", lambda: is_gone)
    return request


async def test_a_reader_that_is_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    request = asked(monkeypatch, is_gone=True)
    with open("/etc/hostname", "rb") as file, pytest.raises(ConnectionResetError):
        await streams.copy_to(request, file, 1)

    async def closes(self: web.FileResponse, request: web.BaseRequest) -> None:
        raise RuntimeError("Transport is closing")

    (tmp_path / "image").write_bytes(b"x")
    monkeypatch.setattr(web.FileResponse, "prepare", closes)
    answer = await files.send(request, [SentFile("image", "image", tmp_path / "image")])
    with pytest.raises(ConnectionResetError):
        await answer.prepare(request)
    with pytest.raises(RuntimeError):
        await answer.prepare(asked(monkeypatch, is_gone=False))
