"""Storage pools: create, update, delete, and their mounts over the daemon's life."""

import contextlib
import errno
import logging
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

from corral.errors import CommandFailed, CorralError, InvalidRequest, OutOfSpace, Unavailable
from corral.server.context import Context
from corral.server.db import references
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host.threads import in_thread
from corral.server.rollback import Rollback
from corral.server.storage import keys, model, store, sweep
from corral.server.storage.driver import Space, StorageDriver
from corral.server.storage.model import CREATED, PENDING, UNAVAILABLE, Pool
from corral.server.storage.registry import driver_class, open_driver
from corral.units import format_size_iec

log = logging.getLogger(__name__)

_WARNING = "Storage pool unavailable"


class Outages:
    """The pools that could not be mounted here, with the reasons."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}


def status(context: Context, pool: Pool) -> str:
    """The pool's status on this member."""
    return UNAVAILABLE if pool.name in context.parts[Outages].reasons else pool.status


def check_usable(context: Context, pool: Pool) -> None:
    """Raise Unavailable or InvalidRequest where the pool cannot take or give data now."""
    if pool.status != CREATED:
        raise InvalidRequest("Specified pool is not fully created")
    reason = context.parts[Outages].reasons.get(pool.name)
    if reason is not None:
        raise Unavailable(f"Storage pool is unavailable on this server: pool {keys.quoted(pool.name)}: {reason}")


async def get_usable(context: Context, name: str) -> Pool:
    """A pool that can be used now. Raises NotFound, Unavailable, InvalidRequest."""
    pool = await context.db.read(store.get_pool, name)
    check_usable(context, pool)
    return pool


def validate_name(name: str) -> None:
    """Raise InvalidRequest for a name that cannot be a pool's: it becomes a directory, a file and a label."""
    if not name:
        raise InvalidRequest("No name provided")
    if "/" in name:
        raise InvalidRequest("Storage pool names may not contain slashes")
    if any(character.isspace() for character in name):
        raise InvalidRequest("Storage name cannot contain white space")
    if name in (".", "..") or name.startswith("-") or len(name.encode()) > 200 or "\0" in name:
        raise InvalidRequest(f"Invalid storage pool name {keys.quoted(name)}")


async def create(context: Context, name: str, driver: str, description: str, config: Mapping[str, str]) -> Pool:
    """Make a pool and mount it."""
    validate_name(name)
    if not driver:
        raise InvalidRequest("No driver provided")
    keys.validate_pool(config, driver_class(driver).keys)
    async with context.locks.hold("storage pools"), Rollback() as undo:
        pool = await context.db.write(store.insert_pool, name, driver, description, dict(config))
        undo.add(context.db.write, store.delete_pool, pool.id)
        path = model.pool_path(context.member, name)
        if path.exists():
            raise InvalidRequest(f'Storage pool directory "{path}" already exists')
        await in_thread(make_directory, path)
        undo.add(_remove_directory, path)
        pool = await _create_storage(context, pool, undo)
        undo.commit()
    context.events.publish(Lifecycle("storage-pool-created", f"/1.0/storage-pools/{name}"))
    return pool


async def _create_storage(context: Context, pool: Pool, undo: Rollback) -> Pool:
    async with explain_full(context, pool):
        config = await open_driver(context.member, pool).create()
        created = Pool(pool.id, pool.name, pool.driver, config, pool.description)
        driver = open_driver(context.member, created)
        undo.add(driver.delete)
        await driver.mount()
        await in_thread(make_layout, model.pool_path(context.member, pool.name))
    await context.db.write(store.finish_pool, pool.id, config)
    return await context.db.read(store.get_pool, pool.name)


def make_directory(path: Path) -> None:
    """Make the directory that a pool is mounted at."""
    path.mkdir(parents=True)
    path.chmod(0o711)


def _remove_directory(path: Path) -> None:
    # After a driver's undo nothing is mounted there; what is not empty is not ours to remove.
    with contextlib.suppress(OSError):
        path.rmdir()


def make_layout(path: Path) -> None:
    """Make the directories of a pool. Repeatable."""
    for name, mode in model.POOL_DIRECTORIES.items():
        with contextlib.suppress(FileExistsError):
            (path / name).mkdir()
            (path / name).chmod(mode)


async def update(context: Context, name: str, description: str, config: Mapping[str, str]) -> None:
    """Change a pool's description and config."""
    async with context.locks.hold("storage pools"):
        pool = await context.db.read(store.get_pool, name)
        driver = open_driver(context.member, pool)
        keys.validate_pool(config, driver.keys)
        wanted = {key: value for key, value in config.items() if value != ""}
        changed = {key for key in {*pool.config, *wanted} if pool.config.get(key, "") != wanted.get(key, "")}
        if changed & {"source", "volatile.initial_source", "source.wipe"}:
            raise InvalidRequest("Pool source cannot be changed when not in pending state")
        if any(not key.startswith(("user.", "volume.")) for key in changed):
            check_usable(context, pool)
            await driver.update(wanted)
        await context.db.write(store.update_pool, pool.id, description, wanted)
    context.events.publish(Lifecycle("storage-pool-updated", f"/1.0/storage-pools/{name}"))


async def delete(context: Context, name: str) -> None:
    """Remove a pool with its cached images. Raises InvalidRequest while anything else uses it."""
    async with context.locks.hold("storage pools"):
        pool = await context.db.write(_begin_delete, name)
        await _remove_storage(context, pool)
    context.events.publish(Lifecycle("storage-pool-deleted", f"/1.0/storage-pools/{name}"))


def _begin_delete(tx: Tx, name: str) -> Pool:
    """From here on the pool is pending: a daemon that dies meanwhile finishes the removal at its next start."""
    pool = store.get_pool(tx, name)
    if references.has_pool_users(tx, pool.id, name):
        users = references.list_pool_users(tx, pool.id, name)
        blockers = [user for user in users if not user.startswith("/1.0/images/")]
        raise InvalidRequest(f"The storage pool is currently in use: {', '.join(blockers[:10])}".removesuffix(": "))
    store.mark_pool(tx, pool.id, PENDING)
    store.delete_volumes(tx, pool.id)
    return pool


async def _remove_storage(context: Context, pool: Pool) -> None:
    driver = open_driver(context.member, pool)
    path = model.pool_path(context.member, pool.name)
    if path.exists():
        with contextlib.suppress(CorralError, OSError):
            # What is not mounted cannot be emptied; what cannot be mounted has nothing that could be emptied.
            await driver.mount()
        await driver.delete()
        await in_thread(_remove_directory, path)
    await context.events.react(ProblemSolved(_WARNING, entity=("storage_pool", pool.id)))
    await context.db.write(store.delete_pool, pool.id)
    context.parts[Outages].reasons.pop(pool.name, None)


async def space(context: Context, name: str) -> Space:
    """Size and use of a pool."""
    pool = await get_usable(context, name)
    return await open_driver(context.member, pool).space()


async def mount_all(context: Context) -> None:
    """At start: finish what a killed daemon left, mount every pool. A pool that fails is marked, the rest goes on."""
    context.parts.add(Outages())
    for pool in await context.db.read(store.list_pools):
        if pool.status == PENDING:
            with _logged(pool):
                await _finish_pending(context, pool)
        elif await _mount(context, pool):
            with _logged(pool):
                await sweep.sweep_pool(context, pool)


async def _finish_pending(context: Context, pool: Pool) -> None:
    """Remove a pool that a killed daemon was making or removing."""
    if await context.db.read(store.was_created, pool.id) or _lies_in_own_place(context, pool):
        log.warning("Removing storage pool %s, which was half-made or half-removed", pool.name)
        return await _remove_storage(context, pool)
    # Nobody has looked yet whether the source was empty: what is there may not be ours.
    log.warning("Forgetting the half-made storage pool %s; what is in %s stays", pool.name, pool.config["source"])
    await open_driver(context.member, pool).unmount()
    await in_thread(_remove_directory, model.pool_path(context.member, pool.name))
    await context.db.write(store.delete_pool, pool.id)
    return None


def _lies_in_own_place(context: Context, pool: Pool) -> bool:
    own = (model.pool_path(context.member, pool.name), model.loop_file(context.member, pool.name))
    return pool.config.get("source", "") in ("", *map(str, own))


async def retry_mounts(context: Context) -> None:
    """Mount the pools that could not be mounted before; for a timer."""
    for name in list(context.parts[Outages].reasons):
        pool = await context.db.read(store.find_pool, name)
        if pool is not None and await _mount(context, pool):
            log.info("Storage pool %s is available again", name)
            with _logged(pool):
                await sweep.sweep_pool(context, pool)


async def unmount_all(context: Context) -> None:
    """When the host goes down: unmount every pool; its instances must have stopped."""
    for pool in await context.db.read(store.list_pools):
        with _logged(pool):
            await open_driver(context.member, pool).unmount()


async def _mount(context: Context, pool: Pool) -> bool:
    path = model.pool_path(context.member, pool.name)
    reasons = context.parts[Outages].reasons
    try:
        if not path.is_dir():
            await in_thread(make_directory, path)
        await open_driver(context.member, pool).mount()
        await in_thread(make_layout, path)
    except (CorralError, OSError) as error:
        if reasons.get(pool.name) != str(error):
            log.error("Failed to mount storage pool %s: %s", pool.name, error)
        reasons[pool.name] = str(error)
        await context.events.react(Problem(_WARNING, str(error), entity=("storage_pool", pool.id)))
        return False
    reasons.pop(pool.name, None)
    await context.events.react(ProblemSolved(_WARNING, entity=("storage_pool", pool.id)))
    return True


@contextlib.contextmanager
def _logged(pool: Pool) -> Iterator[None]:
    try:
        yield
    except (CorralError, OSError):
        log.exception("Work on storage pool %s failed", pool.name)


@contextlib.asynccontextmanager
async def explain_full(context: Context, pool: Pool) -> AsyncIterator[None]:
    """Turn an error for want of space into one that names the pool and what is left in it."""
    try:
        yield
    except (OSError, CommandFailed) as error:
        if not is_for_space(error):
            raise
        raise OutOfSpace(await _describe_full(open_driver(context.member, pool), pool)) from error


def is_for_space(error: OSError | CommandFailed) -> bool:
    """Whether something failed because the disk or a quota is full."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    text = error.stderr
    return any(os.strerror(number) in text for number in (errno.ENOSPC, errno.EDQUOT))


async def _describe_full(driver: StorageDriver, pool: Pool) -> str:
    try:
        space = await driver.space()
    except OSError:
        return f"Storage pool {keys.quoted(pool.name)} is full"
    return (
        f"Storage pool {keys.quoted(pool.name)} is full: {format_size_iec(space.available)} of"
        f" {format_size_iec(space.total)} left. Remove something from it or make it larger"
    )
