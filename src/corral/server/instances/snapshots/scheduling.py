"""Each minute: snapshots of instances and custom volumes that are due are taken, those that have expired removed."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from corral.api.urls import url
from corral.errors import CorralError, Forbidden, InternalError, NotFound
from corral.server.context import Context
from corral.server.db.database import LocalDatabase, Tx
from corral.server.events.model import format_time
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.host.threads import in_thread
from corral.server.instances import busy, running, store
from corral.server.instances.model import Instance
from corral.server.instances.snapshots import snapshot_removal, snapshot_store, snapshot_taking
from corral.server.lifetime import Lifetime
from corral.server.operations.model import Operation
from corral.server.operations.registry import Operations
from corral.server.snapshots import schedule
from corral.server.snapshots.clock import MinuteClock, seconds_to_next
from corral.server.storage import custom_snapshots, volumes
from corral.server.storage import snapshot_store as volume_snapshot_store
from corral.server.storage.model import Volume, VolumeType
from corral.units import is_true

log = logging.getLogger(__name__)

AT_ONCE = 2
"""Snapshots that are taken at the same time: each may copy a whole file system."""

_FAILED = "Failed to take scheduled snapshot"
_SNAPSHOTS = "snapshots"


@dataclass(eq=False)
class Scheduler:
    """What is at work, and up to which minute everything is begun. One part of the daemon."""

    clock: MinuteClock
    at_work: set[Hashable] = field(default_factory=set)
    slots: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(AT_ONCE))


async def add_part(context: Context) -> None:
    """Find out what is done already, also by a daemon that ran before."""
    last = await context.parts[LocalDatabase].read(_read_last)
    context.parts.add(Scheduler(MinuteClock(int(time.time() // 60) - 1 if last is None else last)))


async def run(context: Context) -> None:
    """Do what each minute brings, for as long as the daemon lives."""
    while True:
        try:
            await tick(context, time.time())
        except Exception:
            log.exception("Scheduled snapshots failed")
        await asyncio.sleep(seconds_to_next(time.time()) + 0.01)


async def tick(context: Context, now: float) -> list[Operation]:
    """Begin what is due at a time and was not begun before; returns the operations."""
    scheduler = context.parts[Scheduler]
    minutes = scheduler.clock.advance(now)
    if not minutes or context.parts[Lifetime].ended.is_set():
        return []
    schedules = await context.db.read(store.list_effective, "snapshots.schedule")
    due_instances = await _due({one: values["snapshots.schedule"] for one, values in schedules.items()}, minutes)
    due_volumes = await _due(await context.db.read(volume_snapshot_store.list_schedules), minutes)
    if due_instances or due_volumes:
        # Told before it is done: a daemon that dies in between must not do it all again.
        await context.parts[LocalDatabase].write(_write_last, minutes[-1])
    begun = [
        _take_of_instance(context, scheduler, one)
        for one in await context.db.read(store.list_by_ids, due_instances)
        if _may_be_taken(context, one)
    ]
    begun += [
        _take_of_volume(context, scheduler, one)
        for one in await context.db.read(volume_snapshot_store.list_by_ids, due_volumes)
    ]
    if await context.db.read(_has_expired, format_time(datetime.fromtimestamp(now, UTC))):
        begun.append(_prune(context, scheduler, now))
    return [operation for operation in begun if operation is not None]


async def _due(schedules: Mapping[int, str], minutes: Sequence[int]) -> list[int]:
    if not schedules:
        return []
    return await in_thread(_find_due, schedules, minutes)


def _find_due(schedules: Mapping[int, str], minutes: Sequence[int]) -> list[int]:
    zone = schedule.local_zone()
    moments = [datetime.fromtimestamp(minute * 60, zone) for minute in minutes]
    return [
        subject
        for subject, text in schedules.items()
        if text and any(schedule.is_due(text, subject, moment) for moment in moments)
    ]


def _may_be_taken(context: Context, instance: Instance) -> bool:
    """Whether the instance is whole, and runs or is snapshotted also while it does not."""
    stopped_too = is_true(instance.expanded_config.get("snapshots.schedule.stopped"))
    return not instance.pending and (stopped_too or running.find(context, instance) is not None)


def _take_of_instance(context: Context, scheduler: Scheduler, instance: Instance) -> Operation | None:
    async def work() -> None:
        async with scheduler.slots, busy.claim_after_all(context, instance.id, "snapshot"):
            present = await context.db.read(store.find_instance, instance.id)
            if present is not None and _may_be_taken(context, present):
                await snapshot_taking.take(context, present, await snapshot_taking.plan_snapshot(context, present))

    resources = {"instances": [url("/1.0/instances", instance.name, project=instance.project)]}
    operation = Operation("Snapshotting instance", instance.project, resources, cancellable=True)
    return _begin(context, scheduler, operation, ("instance", instance.id), work)


def _take_of_volume(context: Context, scheduler: Scheduler, volume: Volume) -> Operation | None:
    async def work() -> None:
        async with scheduler.slots:
            await custom_snapshots.create(context, volume, "", None)

    resources = {"storage_volumes": [volumes.url_of(volume)]}
    operation = Operation("Creating storage volume snapshot", volume.project, resources, cancellable=True)
    return _begin(context, scheduler, operation, ("storage_volume", volume.id), work)


def _begin(
    context: Context,
    scheduler: Scheduler,
    operation: Operation,
    subject: tuple[str, int],
    work: Callable[[], Awaitable[None]],
) -> Operation | None:
    """Run work as an operation, unless the same is still going on for the subject; its failure becomes a warning."""
    if subject in scheduler.at_work:
        log.warning("%s of %s %s is left out: the one before has not ended", operation.description, *subject)
        return None

    async def guarded() -> None:
        try:
            await work()
        except (Forbidden, NotFound) as error:
            # Its project allows no snapshots, or it was deleted meanwhile.
            log.debug("No scheduled snapshot of %s %s: %s", *subject, error)
        except (CorralError, OSError) as error:
            log.warning("The scheduled snapshot of %s %s failed: %s", *subject, error)
            await context.events.react(Problem(_FAILED, str(error), operation.project, subject))
            raise error if isinstance(error, CorralError) else InternalError(str(error)) from error
        else:
            await context.events.react(ProblemSolved(_FAILED, operation.project, subject))
        finally:
            scheduler.at_work.discard(subject)

    scheduler.at_work.add(subject)
    return context.parts[Operations].start(operation, guarded)


def _prune(context: Context, scheduler: Scheduler, now: float) -> Operation | None:
    if _SNAPSHOTS in scheduler.at_work:
        return None

    async def work() -> None:
        try:
            await delete_expired(context, datetime.fromtimestamp(now, UTC))
            await custom_snapshots.delete_expired(context, datetime.fromtimestamp(now, UTC))
        finally:
            scheduler.at_work.discard(_SNAPSHOTS)

    scheduler.at_work.add(_SNAPSHOTS)
    return context.parts[Operations].start(Operation("Cleaning up expired snapshots", "", {}), work)


async def delete_expired(context: Context, now: datetime) -> None:
    """Remove the snapshots of instances whose time has passed; one that cannot be removed now is tried again."""
    moment = format_time(now)
    for instance_id, snapshot_id, name in await context.db.read(snapshot_store.list_expired, moment):
        try:
            await _delete(context, instance_id, snapshot_id, moment)
        except NotFound:
            continue
        except (CorralError, OSError) as error:
            log.warning("The expired snapshot %s stays for now: %s", name, error)


async def _delete(context: Context, instance_id: int, snapshot_id: int, now: str) -> None:
    async with busy.claim_after_all(context, instance_id, "snapshot delete"):
        instance = await context.db.read(store.reload, instance_id)
        # Its expiry may have been put off while another verb was waited for.
        still = await context.db.read(snapshot_store.list_expired, now)
        name = next((name for _, found, name in still if found == snapshot_id), None)
        if name is not None:
            log.info("Removing the expired snapshot %s/%s", instance.name, name)
            await snapshot_removal.delete(context, instance, name)


def _has_expired(tx: Tx, now: str) -> bool:
    found = tx.row(
        "SELECT 1 FROM instances_snapshots WHERE expiry_date <= ? AND expiry_date > '0001-01-02' UNION ALL"
        " SELECT 1 FROM storage_volumes_snapshots s JOIN storage_volumes v ON v.id = s.storage_volume_id"
        " WHERE v.type = ? AND s.expiry_date <= ? AND s.expiry_date > '0001-01-02' LIMIT 1",
        now,
        VolumeType.CUSTOM.number,
        now,
    )
    return found is not None


def _read_last(tx: Tx) -> int | None:
    row = tx.row("SELECT minute FROM schedules WHERE name = ?", _SNAPSHOTS)
    return None if row is None else int(row["minute"])


def _write_last(tx: Tx, minute: int) -> None:
    tx.execute(
        "INSERT INTO schedules (name, minute) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET minute = excluded.minute",
        _SNAPSHOTS,
        minute,
    )
