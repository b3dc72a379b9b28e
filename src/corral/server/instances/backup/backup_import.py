"""Makes instances from backups that clients send: received, judged, then unpacked by the confined helper."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field

from corral import architectures
from corral.errors import InvalidRequest, NotFound
from corral.server.backups import index, volume_parts
from corral.server.backups.upload import Upload, Wanted
from corral.server.backups.upload import receive as receive_upload
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.instances import create, expand, names, store
from corral.server.instances.backup import imported
from corral.server.instances.model import Instance, InstanceType, Snapshot
from corral.server.instances.snapshots import snapshot_taking
from corral.server.instances.store import NewInstance
from corral.server.projects.restrictions import is_safe_volatile
from corral.server.snapshots import naming
from corral.server.storage import copies, creation
from corral.server.storage import store as storage
from corral.server.storage.model import Volume


@dataclass(frozen=True, slots=True)
class _Plan:
    """What is made of a backup: the instance, the pool, and what belongs to the volume and the snapshots.

    `new` has the client's own keys, `config` the server's too.
    """

    new: NewInstance
    config: Mapping[str, str]
    pool: str
    volume_config: Mapping[str, str]
    snapshots: list[Snapshot] = field(default_factory=list)
    snapshot_configs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


async def receive(context: Context, chunks: AsyncIterator[bytes], wanted: Wanted) -> Upload:
    """Take a backup as it comes and judge all of it; raises InvalidRequest for one that is refused."""
    upload = await receive_upload(context, chunks, wanted, index.CONTAINER)
    try:
        names.check_name(upload.name)
        for name in upload.index.snapshots or []:
            naming.check_name(name)
    except BaseException:
        await upload.spool.discard()
        raise
    return upload


async def import_backup(context: Context, upload: Upload) -> None:
    """Make the instance of a backup with its snapshots, whole or not at all."""
    try:
        await _make(context, upload, await context.db.read(_plan, upload))
    finally:
        await upload.spool.discard()


async def _make(context: Context, upload: Upload, plan: _Plan) -> None:
    async def fill(instance: Instance, root: Mapping[str, str]) -> Volume:
        draft = await create.draft_volume(context, instance, plan.pool, plan.volume_config)
        volume_parts.check_driver(context, upload.index, draft.pool)

        async def restore(volume: Volume) -> None:
            await volume_parts.restore(context, upload, volume, create.size_of(root))

        return await creation.create_filled(context, draft, restore)

    def note(tx: Tx, instance: Instance, volume: Volume) -> None:
        imported.write_snapshots(tx, instance, volume, plan.snapshots, plan.snapshot_configs)

    filling = create.Filling(fill, note, discard=copies.discard)
    instance = await create.make_instance(context, plan.new, plan.config, filling)
    for one in plan.snapshots:
        snapshot_taking.publish(context, instance, one.name, "created")


def _plan(tx: Tx, upload: Upload) -> _Plan:
    index, project = upload.index, upload.wanted.project
    config = index.config
    assert config is not None
    described = config.described
    assert described is not None
    profiles = store.get_profiles(tx, project, described.profiles or [])
    pool = _choose_pool(tx, upload)
    own = imported.own_config(tx, described.config or {})
    inherited = expand.expand_devices(profiles, {})
    new = NewInstance(
        project=project,
        name=upload.name,
        type=InstanceType.CONTAINER,
        architecture=_architecture(described.architecture),
        created_at=format_time(utc_now()),
        config={key: value for key, value in own.items() if _is_clients(key)},
        devices=expand.with_root_in(pool, described.devices or {}, inherited),
        profiles=tuple(described.profiles or ()),
        ephemeral=described.ephemeral,
        description=described.description,
    )
    return _Plan(
        new,
        own,
        pool,
        imported.volume_config(config.volume.config if config.volume else None),
        imported.plan_snapshots(config, upload.index.snapshots or [], pool, inherited),
        imported.volume_configs(config),
    )


def _choose_pool(tx: Tx, upload: Upload) -> str:
    """The pool that was asked for, else that of the backup, else that of the default profile's root disk."""
    if upload.wanted.pool:
        return storage.get_pool(tx, upload.wanted.pool).name
    try:
        return storage.get_pool(tx, upload.index.pool).name
    except NotFound:
        if upload.index.optimized:
            raise NotFound(
                f"Storage pool {upload.index.pool!r} of the optimized backup not found: choose one with the driver"
                f" {upload.index.backend!r}"
            ) from None
        for profile in store.get_profiles(tx, upload.wanted.project, ["default"]):
            for device in profile.devices.values():
                if device.get("type") == "disk" and device.get("path") == "/" and device.get("pool"):
                    return storage.get_pool(tx, device["pool"]).name
        raise NotFound(
            f"Storage pool {upload.index.pool!r} of the backup not found, and the default profile has no root disk:"
            " choose a pool"
        ) from None


def _is_clients(key: str) -> bool:
    return not key.startswith("volatile.") or is_safe_volatile(key)


def _architecture(name: str) -> int:
    local = architectures.local_architectures()
    number = architectures.parse_architecture(name) if name else local[0]
    if number not in local:
        raise InvalidRequest("Requested architecture isn't supported by this host")
    return number
