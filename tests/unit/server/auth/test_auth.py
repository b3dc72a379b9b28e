"""Passwords, fingerprints, guesses, tokens and the server's certificate."""

import asyncio
import stat
from pathlib import Path

import pytest

from corral.errors import Forbidden, InternalError, InvalidRequest
from corral.product import LXD
from corral.server.auth import guesses, password, pem, server_certificate, tokens
from corral.server.context import Member
from corral.server.events.bus import Events
from corral.server.operations.registry import Operations


def member(path: Path) -> Member:
    return Member(LXD, "here", path, path / "logs", path / "cache")


def test_passwords() -> None:
    stored = password.hash_password("secret")
    assert len(bytes.fromhex(stored)) == 96
    assert password.matches(stored, "secret")
    assert not password.matches(stored, "Secret")
    assert stored != password.hash_password("secret")
    for damaged in ("", "zz", "00" * 32):
        assert not password.matches(damaged, "secret")


def test_the_server_certificate_is_made_once(tmp_path: Path) -> None:
    made = server_certificate.ensure_server_certificate(member(tmp_path))
    assert stat.S_IMODE(made.key_path.stat().st_mode) == 0o600
    assert stat.S_IMODE(made.certificate_path.stat().st_mode) == 0o644
    assert made.fingerprint == pem.fingerprint_of(pem.to_der(made.pem))
    assert server_certificate.ensure_server_certificate(member(tmp_path)) == made
    assert sorted(path.name for path in tmp_path.iterdir()) == ["server.crt", "server.key"]
    made.certificate_path.write_text("rubbish")
    with pytest.raises(InternalError, match="damaged"):
        server_certificate.ensure_server_certificate(member(tmp_path))


@pytest.mark.parametrize(
    "text",
    ["", "-----BEGIN CERTIFICATE-----\nabc", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----"],
)
def test_bad_pem(text: str) -> None:
    if "!!!" in text:
        assert pem.to_der(text) == b""  # base64 skips what is none of it; the parser refuses the rest
    else:
        with pytest.raises(InvalidRequest, match="Invalid certificate material"):
            pem.to_der(text)


def test_guesses_are_counted_by_address_and_time() -> None:
    now = 1000.0
    counted = guesses.Guesses(lambda: now)
    for _ in range(guesses.ALLOWED):
        counted.check("a")
        counted.add("a")
    with pytest.raises(Forbidden, match="too many"):
        counted.check("a")
    counted.check("b")
    now += guesses.WINDOW_S + 1
    counted.check("a")


def test_guesses_take_bounded_memory() -> None:
    counted = guesses.Guesses()
    for number in range(guesses.MAX_ADDRESSES + 10):
        counted.add(str(number))
    assert len(counted._wrong) == guesses.MAX_ADDRESSES


@pytest.mark.parametrize("text", ["", "password", "e30=", "bm90IGpzb24=", "\u00e9"])
def test_a_password_is_no_token(text: str) -> None:
    assert tokens.parse_token(text) is None


async def test_a_token_works_once() -> None:
    events = Events()
    listener = events.listen(frozenset({"operation"}), None)
    operations = Operations(events)
    operation = tokens.issue(operations, "fp", ["h:1"], {"name": "n"}, None)
    await asyncio.sleep(0)
    secret = operation.metadata["secret"]
    wrong = tokens.AddToken(client_name="", fingerprint="", addresses=[], secret="wrong")
    right = tokens.AddToken(client_name="", fingerprint="", addresses=[], secret=secret)
    with pytest.raises(Forbidden):
        tokens.redeem(operations, wrong)
    assert tokens.redeem(operations, right) == {"name": "n"}
    with pytest.raises(Forbidden):
        tokens.redeem(operations, right)
    await operation.done.wait()
    while not listener.queue.empty():
        assert secret not in str(listener.queue.get_nowait())
    await operations.stop(0)
