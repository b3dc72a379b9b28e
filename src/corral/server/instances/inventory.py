"""The records of all instances in memory, for those who only look: what shows many instances, and does so often.

A verb that changes an instance reads it in its own transaction, by `store`.
"""

from collections.abc import Mapping

from corral.errors import NotFound
from corral.server.db import changes
from corral.server.db.changes import Changes
from corral.server.db.database import Database, Tx
from corral.server.instances import store
from corral.server.instances.model import Instance, InstanceType

TABLES: Mapping[str, changes.Owner] = {
    "instances": "{row}.id",
    "instances_config": "{row}.instance_id",
    "instances_devices": "{row}.instance_id",
    "instances_devices_config": (
        "coalesce((SELECT instance_id FROM instances_devices WHERE id = {row}.instance_device_id), 0)"
    ),
    "instances_profiles": "{row}.instance_id",
    "profiles": changes.EVERYTHING,
    "profiles_config": changes.EVERYTHING,
    "profiles_devices": changes.EVERYTHING,
    "profiles_devices_config": changes.EVERYTHING,
    "projects": changes.EVERYTHING,
}
"""All that the record of an instance is read from, and whose record it is."""

Records = dict[tuple[str, str], Instance]


class Inventory:
    """All instances as they were after the last write that was acknowledged before the question. One per daemon.

    A write notes whose records it concerns before it is acknowledged; these are read again in the database's thread,
    behind all writes. The records are shared by all who ask: nobody may change their maps.
    """

    def __init__(self, db: Database, noted: Changes) -> None:
        self._db = db
        self._noted = noted
        self._records: Records = {}

    @staticmethod
    async def open(db: Database) -> "Inventory":
        """Begin to watch the database."""
        return Inventory(db, await db.watch("instances", TABLES))

    async def list(self, project: str | None = None, kind: InstanceType | None = None) -> list[Instance]:
        """The instances of a project (None: all) by project and name."""
        records = await self._fresh()
        if project is None and kind is None:
            return [*records.values()]
        return [one for one in records.values() if project in (None, one.project) and kind in (None, one.type)]

    async def get(self, project: str, name: str) -> Instance:
        """An instance by name, or NotFound."""
        found = (await self._fresh()).get((project, name))
        if found is None:
            raise NotFound("Instance not found")
        return found

    async def find(self, instance_id: int) -> Instance | None:
        """An instance by id, or None."""
        return next((one for one in (await self._fresh()).values() if one.id == instance_id), None)

    async def _fresh(self) -> Records:
        return await self._db.read(self._read_again) if self._noted.exist else self._records

    def _read_again(self, tx: Tx) -> Records:
        if self._noted.everything:
            found = store.list_instances(tx)
        elif self._noted.ids:
            kept = [one for one in self._records.values() if one.id not in self._noted.ids]
            found = sorted([*kept, *store.list_by_ids(tx, self._noted.ids)], key=lambda one: (one.project, one.name))
        else:
            return self._records
        # A new map each time: who has the one before may still walk through it.
        self._records = {(one.project, one.name): one for one in found}
        self._noted.clear()
        return self._records
