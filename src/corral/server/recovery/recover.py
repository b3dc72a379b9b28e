"""Recovery after a lost database: the records of what still lies on storage pools are made again."""

import contextlib
import logging
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path

from corral.api.recovery import RecoverPool, RecoverPost, RecoverResult, UnknownVolume
from corral.errors import CorralError, InternalError, NotFound
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.host.threads import in_thread
from corral.server.recovery import instances, scan
from corral.server.recovery.scan import Found
from corral.server.rollback import Rollback
from corral.server.storage import keys, model, pools, snapshot_store, store, volumes
from corral.server.storage.model import CREATED, Pool, Volume, VolumeSnapshot, VolumeType
from corral.server.storage.registry import driver_class, open_driver

log = logging.getLogger(__name__)

_NO_ROW = -1


async def validate(context: Context, wanted: RecoverPost) -> RecoverResult:
    """What could be recovered from some pools, and what is missing for that. Changes nothing."""
    async with context.locks.hold("recovery"), contextlib.AsyncExitStack() as stack:
        found, problems = await _scan_all(context, wanted, stack)
    return RecoverResult(unknown_volumes=[_to_wire(one) for one in found] or None, dependency_errors=problems or None)


async def recover(context: Context, wanted: RecoverPost) -> RecoverResult | None:
    """Make the records of what lies on some pools, or say what is missing for that.

    Custom volumes come first, since instances may use them. What was recovered before something fails stays: it is
    whole, and the rest can be tried again.
    """
    async with context.locks.hold("recovery"), contextlib.AsyncExitStack() as stack:
        found, problems = await _scan_all(context, wanted, stack)
        if problems:
            return RecoverResult(unknown_volumes=[_to_wire(one) for one in found] or None, dependency_errors=problems)
        recovered: dict[str, Pool] = {}
        for one in found:
            if one.pool.name not in recovered:
                recovered[one.pool.name] = await _ensure_pool(context, one.pool, found)
        for one in found:
            if one.kind is VolumeType.CUSTOM:
                await _recover_custom(context, replace(one, pool=recovered[one.pool.name]))
        for one in found:
            if one.kind is not VolumeType.CUSTOM:
                await _recover_instance(context, replace(one, pool=recovered[one.pool.name]))
    return None


def _to_wire(found: Found) -> UnknownVolume:
    return UnknownVolume(
        name=found.name,
        type="container" if found.kind.is_instance else "volume",
        snapshot_count=found.snapshot_count,
        project=found.project,
        pool=found.pool.name,
    )


async def _scan_all(
    context: Context, wanted: RecoverPost, stack: contextlib.AsyncExitStack
) -> tuple[list[Found], list[str]]:
    found: list[Found] = []
    problems: list[str] = []
    for one in {pool.name: pool for pool in wanted.pools}.values():
        pool = await context.db.read(_resolve, one)
        await stack.enter_async_context(_mounted(context, pool))
        known = await context.db.read(scan.read_known, pool)
        unknown = await scan.scan(context, pool, known)
        found += unknown
        problems += scan.missing(unknown, known)
    return found, list(dict.fromkeys(problems))


def _resolve(tx: Tx, wanted: RecoverPool) -> Pool:
    """The pool of a name, or what was said of one that the database does not know."""
    present = store.find_pool(tx, wanted.name)
    if present is not None:
        return present
    pools.validate_name(wanted.name)
    if not wanted.driver:
        raise NotFound(f"Storage pool {keys.quoted(wanted.name)} not found")
    keys.validate_pool(wanted.config, driver_class(wanted.driver).keys)
    return Pool(_NO_ROW, wanted.name, wanted.driver, dict(wanted.config), wanted.description, CREATED)


@contextlib.asynccontextmanager
async def _mounted(context: Context, pool: Pool) -> AsyncIterator[None]:
    """A pool mounted; one that still has no record in the end is as before."""
    if pool.id != _NO_ROW:
        pools.check_usable(context, pool)
        yield
        return
    path = model.pool_path(context.member, pool.name)
    made = not path.exists()
    driver = open_driver(context.member, pool)
    try:
        if made:
            await in_thread(pools.make_directory, path)
        try:
            ours = await driver.mount()
        except (CorralError, OSError) as error:
            raise InternalError(f"Failed mounting pool {keys.quoted(pool.name)}: {error}") from error
        try:
            yield
        finally:
            if ours and await context.db.read(store.find_pool, pool.name) is None:
                await driver.unmount()
    finally:
        if made and await context.db.read(store.find_pool, pool.name) is None:
            await in_thread(_remove_directory, path)


def _remove_directory(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


async def _ensure_pool(context: Context, pool: Pool, found: Sequence[Found]) -> Pool:
    """The pool's record; a new one has what an instance's backup.yaml says of it, else what was asked for."""
    if pool.id != _NO_ROW:
        return pool
    config, description = dict(pool.config), pool.description
    for one in found:
        written = one.description.pool if one.description is not None and one.pool.name == pool.name else None
        if written is not None and written.config:
            # Where it lies was told by who is here now.
            config = {**written.config, **pool.config}
            description = written.description
            break
    keys.validate_pool(config, driver_class(pool.driver).keys)
    async with context.locks.hold("storage pools"):
        made = await context.db.write(_insert_pool, replace(pool, config=config, description=description))
        await in_thread(pools.make_layout, model.pool_path(context.member, pool.name))
    log.info("Recovered storage pool %s", pool.name)
    return made


def _insert_pool(tx: Tx, pool: Pool) -> Pool:
    # Never pending: what is pending is removed, contents and all, by the next start of a daemon that was killed.
    row = store.insert_pool(tx, pool.name, pool.driver, pool.description, pool.config)
    store.finish_pool(tx, row.id, pool.config)
    return store.get_pool(tx, pool.name)


async def _recover_custom(context: Context, found: Found) -> None:
    """Nothing but names is left of custom volumes: they get the config that new ones have."""
    try:
        draft = volumes.draft(found.pool, found.project, found.name, VolumeType.CUSTOM, {})
        await context.db.write(_insert_custom, replace(draft, pending=""), found.snapshots)
    except CorralError as error:
        text = f"Failed importing custom volume {keys.quoted(found.name)} in project {keys.quoted(found.project)}"
        raise type(error)(f"{text}: {error}") from error
    log.info("Recovered the custom volume %s of project %s", found.name, found.project)


def _insert_custom(tx: Tx, draft: Volume, names: Sequence[str]) -> None:
    volume = store.insert_volume(tx, draft)
    for name in names:
        snapshot = VolumeSnapshot(0, volume, name, volume.config, created_at=format_time(utc_now()))
        snapshot_store.insert_copy(tx, volume, snapshot)


async def _recover_instance(context: Context, found: Found) -> None:
    try:
        async with Rollback() as undo:
            await instances.recover(context, found, undo)
            undo.commit()
    except CorralError as error:
        text = f"Failed creating instance {keys.quoted(found.name)} record in project {keys.quoted(found.project)}"
        raise type(error)(f"{text}: {error}") from error
    log.info("Recovered instance %s of project %s", found.name, found.project)
