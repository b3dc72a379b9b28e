"""`activateifneeded`: start the daemon through its socket, if its database says that there is something to do."""

from __future__ import annotations

import os
import sqlite3
import sys

from corral.cli.daemon.control import local_server
from corral.errors import CorralError
from corral.units import is_true

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from corral.cli.command import Invocation

# Own config before that of profiles, the last profile before the first: the first value found for a key counts.
_INSTANCE_CONFIG = """
    SELECT instance, key, value FROM (
        SELECT instance_id AS instance, key, value, 1000000 AS rank FROM instances_config
        UNION ALL
        SELECT instance_id, profiles_config.key, profiles_config.value, apply_order
        FROM instances_profiles JOIN profiles_config USING (profile_id)
    ) WHERE key IN ('volatile.last_state.power', 'boot.autostart', 'snapshots.schedule') ORDER BY instance, rank DESC
"""
_VOLUME_SCHEDULES = """
    SELECT COUNT(*) FROM storage_volumes JOIN storage_volumes_config ON storage_volume_id = storage_volumes.id
    WHERE type = 2 AND key = 'snapshots.schedule' AND value != ''
"""


def run(invocation: Invocation) -> int:
    """Start the daemon if needed."""
    if os.geteuid() != 0:
        raise CorralError("This must be run as root")
    product = invocation.session.product
    directory = f"{product.state_dir_name()}/database"
    reason, is_needed = find_reason(f"{directory}/local.db", f"{directory}/global/db.bin")
    if invocation.switch("debug"):
        print(f"DEBUG {reason}", file=sys.stderr)
    if is_needed:
        local_server(product).query("GET", "/1.0")
    return 0


def find_reason(local: str, cluster: str) -> tuple[str, bool]:
    """(What is to be said, whether the daemon is needed), from the two databases."""
    if not os.path.exists(local):
        return "No local database, so no need to start the daemon now", False
    rows = _rows(local, "SELECT value FROM config WHERE key = 'core.https_address'")
    if any(value for (value,) in rows):
        return "Daemon has core.https_address set, activating...", True
    if not os.path.exists(cluster):
        return "No global database, so no need to start the daemon now", False
    for config in _instance_configs(cluster):
        power = config.get("volatile.last_state.power", "")
        if power.upper() == "RUNNING" or is_true(config.get("boot.autostart")):
            return "Daemon has auto-started instances, activating...", True
        if config.get("snapshots.schedule"):
            return "Daemon has scheduled instance snapshots, activating...", True
    if _rows(cluster, _VOLUME_SCHEDULES)[0][0]:
        return "Daemon has scheduled volume snapshots, activating...", True
    return "No need to start the daemon now", False


def _rows(path: str, query: str) -> list[tuple[str, ...]]:
    connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
    try:
        return connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise CorralError(f"Cannot read the database {path}: {error}") from error
    finally:
        connection.close()


def _instance_configs(path: str) -> Iterator[dict[str, str]]:
    configs: dict[str, dict[str, str]] = {}
    for instance, key, value in _rows(path, _INSTANCE_CONFIG):
        configs.setdefault(instance, {}).setdefault(key, value or "")
    yield from configs.values()
