"""Changes of the owners of a volume's files on the disk: each is whole or undone, whatever dies in the middle."""

import json
import logging
import os
from pathlib import Path

from corral.server.context import Context, Member
from corral.server.db.database import Tx
from corral.server.host.isolation.idmap import IdMap, shift_tree, target_of, undo_shift
from corral.server.host.threads import in_thread
from corral.server.storage.model import Volume, VolumeType

log = logging.getLogger(__name__)


def journal_of(member: Member, volume: Volume) -> Path:
    """Where it is written what the owners of a volume's files were, while they change."""
    return member.state_dir / "shifts" / str(volume.id)


async def shift(context: Context, volume: Volume, root: Path, old: IdMap, new: IdMap) -> None:
    """Change the owners of a tree in a volume from one map to another: all of it, or nothing where that fails.

    Until `settle` says that the new map is on record, the next start of the daemon undoes it.
    """
    journal = journal_of(context.member, volume)
    await put_back(context, volume)
    await in_thread(journal.parent.mkdir, 0o700, exist_ok=True)
    await in_thread(shift_tree, root, old, new, journal)


async def settle(context: Context, volume: Volume) -> None:
    """The new map is on record."""
    await in_thread(journal_of(context.member, volume).unlink, missing_ok=True)


async def put_back(context: Context, volume: Volume) -> None:
    """Undo a change that was not put on record, if there is one."""
    journal = journal_of(context.member, volume)
    if journal.exists():
        await _finish(context, journal)


async def repair(context: Context) -> None:
    """At start: undo what a daemon that died was changing. A tree that is away now is put back when it is used."""
    directory = context.member.state_dir / "shifts"
    for name in await in_thread(lambda: os.listdir(directory) if directory.is_dir() else []):
        await _finish(context, directory / name)


async def _finish(context: Context, journal: Path) -> None:
    try:
        recorded = await context.db.read(_find_recorded, int(journal.name))
        await in_thread(_undo, journal, recorded)
    except (OSError, ValueError):
        log.exception("The owners of files that %s names cannot be put back", journal)


def _find_recorded(tx: Tx, volume_id: int) -> str | None:
    """The map that is on record of a volume's files, as text; None where there is no such volume any more."""
    volume = tx.row("SELECT name, project_id, type FROM storage_volumes WHERE id = ?", volume_id)
    if volume is None:
        return None
    sql = "SELECT value FROM storage_volumes_config WHERE storage_volume_id = ? AND key = 'volatile.idmap.last'"
    values: list[int | str] = [volume_id]
    if VolumeType.of_number(volume["type"]).is_instance:
        sql = (
            "SELECT c.value FROM instances_config c JOIN instances i ON i.id = c.instance_id"
            " WHERE i.name = ? AND i.project_id = ? AND c.key = 'volatile.last_state.idmap'"
        )
        values = [volume["name"], volume["project_id"]]
    row = tx.row(sql, *values)
    return row["value"] if row is not None else "[]"


def _undo(journal: Path, recorded: str | None) -> None:
    if recorded is None or target_of(journal) == IdMap.from_json(json.loads(recorded)):
        journal.unlink()
        return
    whole = undo_shift(journal)
    log.warning("A change of owners did not end: %s", "undone" if whole else f"its files are away ({journal})")
