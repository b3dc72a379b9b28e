"""A context with an empty database and a watch over its networks."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from corral.product import LXD
from corral.server.context import Context, Member
from corral.server.db import schema
from corral.server.db.database import Database
from corral.server.events.bus import Events
from corral.server.locks import Locks
from corral.server.networks.guard import Guard


@pytest.fixture
async def context(tmp_path: Path) -> AsyncIterator[Context]:
    member = Member(LXD, "here", tmp_path, tmp_path / "logs", tmp_path / "cache")
    made = Context(Database(":memory:"), Events(), Locks(), member)
    made.parts.add(Guard(made))
    await made.db.open(schema.cluster)
    yield made
    await made.db.close()
