"""No body, name or query makes the edge fail."""

import asyncio
import random
import string
from typing import Any

from .conftest import Server

PATHS = (
    ("PUT", "/1.0"),
    ("PATCH", "/1.0"),
    ("POST", "/1.0/profiles"),
    ("PUT", "/1.0/profiles/default"),
    ("PATCH", "/1.0/profiles/default"),
    ("POST", "/1.0/profiles/default"),
    ("POST", "/1.0/projects"),
    ("PATCH", "/1.0/projects/default"),
    ("POST", "/1.0/certificates"),
    ("PATCH", "/1.0/certificates/abc"),
    ("PUT", "/1.0/warnings/abc"),
    ("POST", "/internal/testing/warnings"),
)
NAMES = ("name", "config", "description", "devices", "type", "certificate", "password", "token", "projects", "status")
KEYS = ("user.x", "core.https_address", "limits.cpu", "features.profiles", "restricted", "core.trust_password", "x")


def value(source: random.Random, depth: int = 0) -> Any:
    kind = source.randrange(9 if depth < 3 else 6)
    if kind < 3:
        return "".join(source.choices(string.printable + "é\u2028\ud7ff", k=source.randrange(12)))
    plain: tuple[Any, ...] = (None, True, source.randrange(-(2**70), 2**70))
    if kind < 6:
        return plain[kind - 3]
    if kind == 6:
        return [value(source, depth + 1) for _ in range(source.randrange(3))]
    return {source.choice((*NAMES, *KEYS)): value(source, depth + 1) for _ in range(source.randrange(4))}


async def test_random_bodies(server: Server) -> None:
    source = random.Random(7)

    async def one() -> None:
        method, path = source.choice(PATHS)
        body = value(source)
        answer = await server.ask(method, path, body)
        assert answer.status < 500 or answer.status == 501, (method, path, body, answer.body)

    for _ in range(40):
        await asyncio.gather(*(one() for _ in range(10)))
    await server.ask("PUT", "/1.0", {"config": {}})


async def test_random_queries(server: Server) -> None:
    source = random.Random(7)
    letters = string.ascii_letters + "%20%2f%25./;=&eqnotandor^$[(\\"
    for _ in range(200):
        text = "".join(source.choices(letters, k=source.randrange(20))).replace("%", "%25")
        for path in (f"/1.0/profiles?filter={text}", f"/1.0/profiles/{text}", f"/1.0/{text}?recursion={text}"):
            answer = await server.ask("GET", path)
            assert answer.status < 500 or answer.status == 501, (path, answer.body)
