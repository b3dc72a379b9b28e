"""When images are looked after."""

import pytest

from corral.server.db import schema
from corral.server.db.database import Database
from corral.server.images.preferences import Preferences, ServerPreferences
from corral.server.images.update import is_due
from corral.server.projects import store as projects


@pytest.mark.parametrize(
    ("uptime_s", "interval_h", "due"),
    [(0, 6, True), (0, 0, False), (3600, 6, False), (6 * 3600 + 20, 6, True), (3600, 1, True), (5.6 * 3600, 6, True)],
)
def test_every_so_many_hours(uptime_s: float, interval_h: int, due: bool) -> None:
    assert is_due(uptime_s, interval_h) is due


async def test_a_project_has_its_own_preferences() -> None:
    database = Database(":memory:")
    await database.open(schema.cluster)
    server = ServerPreferences(lambda: Preferences(compression="xz", remote_cache_expiry_days=3))
    config = {"images.auto_update_cached": "false", "images.auto_update_interval": "0"}
    await database.write(projects.insert_project, "p", "", config)
    assert await database.read(server.of_project, "p") == Preferences(False, 0, 3, "xz")
    assert await database.read(server.of_project, "default") == Preferences(True, 6, 3, "xz")
    await database.close()
