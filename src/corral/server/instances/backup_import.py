"""Makes instances from backups that clients send: received, judged, then unpacked by the confined helper."""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec
import yaml

from corral import architectures
from corral.errors import InvalidRequest, NotFound, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import format_time, utc_now
from corral.server.host.threads import in_thread
from corral.server.images import unpack
from corral.server.images.spool import Spool
from corral.server.instances import create, expand, identities, names, snapshot, snapshot_store, store
from corral.server.instances.backup_store import NEVER
from corral.server.instances.model import Devices, Instance, InstanceType, Snapshot
from corral.server.instances.store import NewInstance
from corral.server.operations.model import report
from corral.server.projects.restrictions import is_safe_volatile
from corral.server.rollback import Rollback
from corral.server.storage import copies, volumes
from corral.server.storage import snapshots as volume_snapshots
from corral.server.storage import store as storage
from corral.server.storage.model import Volume, VolumeType

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DROPPED = ("volatile.last_state.power", "volatile.last_state.ready", "volatile.apply_template", "volatile.idmap.")


class _Loader(_Base):  # type: ignore[misc]
    """Times stay text."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for letter, resolvers in _Base.yaml_implicit_resolvers.items()
    }


class IndexedInstance(msgspec.Struct, kw_only=True):
    """The instance as a backup's index has it."""

    architecture: str = ""
    config: dict[str, str] | None = None
    devices: Devices | None = None
    ephemeral: bool = False
    profiles: list[str] | None = None
    description: str = ""
    type: str = "container"


class IndexedSnapshot(msgspec.Struct, kw_only=True):
    """A snapshot as a backup's index has it."""

    name: str
    created_at: str = ""
    expires_at: str = ""
    config: dict[str, str] | None = None
    devices: Devices | None = None
    description: str = ""


class IndexedVolume(msgspec.Struct, kw_only=True):
    """A volume, or one of its snapshots, as a backup's index has it."""

    name: str = ""
    config: dict[str, str] | None = None


class IndexedConfig(msgspec.Struct, kw_only=True):
    """The description of an instance in a backup's index."""

    container: IndexedInstance | None = None
    instance: IndexedInstance | None = None
    snapshots: list[IndexedSnapshot] | None = None
    volume: IndexedVolume | None = None
    volume_snapshots: list[IndexedVolume] | None = None


class Index(msgspec.Struct, kw_only=True):
    """backup/index.yaml."""

    name: str = ""
    pool: str = ""
    snapshots: list[str] | None = None
    optimized: bool | None = None
    type: str = "container"
    config: IndexedConfig | None = None


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a backup is to go; without a name or a pool, where it came from."""

    project: str
    name: str = ""
    pool: str = ""


@dataclass(frozen=True, slots=True)
class Upload:
    """A backup that was received and judged. Whoever has it discards the spool."""

    spool: Spool
    index: Index
    wanted: Wanted

    @property
    def name(self) -> str:
        """The name of the instance to be."""
        return self.wanted.name or self.index.name


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
    """Take a backup as it comes and read all of it; raises InvalidRequest for one that is refused."""
    spool = await Spool.make(context.member.state_dir / "backups")
    try:
        spool.begin("backup")
        async for chunk in chunks:
            await spool.write(chunk)
        await spool.end()
        index = parse_index(await unpack.inspect_backup(spool.files.main))
        names.check_name(wanted.name or index.name)
        return Upload(spool, index, wanted)
    except BaseException:
        await spool.discard()
        raise


def parse_index(text: str) -> Index:
    """The index of a backup; raises InvalidRequest for one that this server cannot use."""
    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, Loader=_Loader)):
            raise InvalidRequest("Invalid backup: index.yaml refers to itself")
        index = msgspec.convert(yaml.load(text, Loader=_Loader), Index, strict=False)
    except (yaml.YAMLError, msgspec.ValidationError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"Invalid backup: index.yaml: {error}") from error
    if index.type != "container":
        raise NotSupported(f"Backups of the type {index.type!r} cannot be imported by this server")
    if index.optimized:
        raise NotSupported(
            "Optimized backups cannot be imported by this server yet: export it without --optimized-storage"
        )
    if index.config is None or (index.config.container or index.config.instance) is None:
        raise InvalidRequest("Invalid backup: index.yaml does not describe the instance")
    listed = [one.name for one in index.config.snapshots or []]
    if sorted(index.snapshots or []) != sorted(listed) or len(set(listed)) != len(listed):
        raise InvalidRequest("Invalid backup: the snapshots of index.yaml are not those that it describes")
    for name in listed:
        snapshot.check_name(name)
    return index


async def import_backup(context: Context, upload: Upload) -> None:
    """Make the instance of a backup with its snapshots, whole or not at all."""
    try:
        await _make(context, upload, await context.db.read(_plan, upload))
    finally:
        await upload.spool.discard()


async def _make(context: Context, upload: Upload, plan: _Plan) -> None:
    async def fill(instance: Instance, root: Mapping[str, str]) -> Volume:
        config = {**plan.volume_config, **create.size_of(root)}
        where = (plan.pool, instance.project, instance.name, VolumeType.CONTAINER)
        async with Rollback() as undo:
            volume = await volumes.create_empty(context, *where, config)
            undo.add(copies.discard, context, volume)
            await _unpack(context, upload, plan, volume)
            undo.commit()
        return volume

    def note(tx: Tx, instance: Instance, volume: Volume) -> None:
        for one in plan.snapshots:
            snapshot_store.insert_copy(tx, instance.id, volume.id, one)
            config = plan.snapshot_configs.get(one.name, {})
            snapshot_store.write_volume_config(tx, volume.id, one.name, config)

    filling = create.Filling(fill, note, discard=copies.discard)
    await create.make_instance(context, plan.new, plan.config, filling)


async def _unpack(context: Context, upload: Upload, plan: _Plan, volume: Volume) -> None:
    """Unpack the snapshots one after the other and keep each, then what is newest."""
    archive = upload.spool.files.main
    directory = await volumes.mount(context, volume)
    for one in plan.snapshots:
        await unpack.unpack_part(archive, f"backup/snapshots/{one.name}", directory)
        await volume_snapshots.create_snapshot(context, volume, one.name)
        await unpack.empty(directory)

    def progress(percent: int) -> None:
        report(create_instance_from_backup_unpack_progress=f"Unpack: {percent}%")

    await unpack.unpack_part(archive, "backup/container", directory, progress)
    if not await in_thread((directory / "rootfs").is_dir):
        raise InvalidRequest("Invalid backup: it has no root file system")


def _plan(tx: Tx, upload: Upload) -> _Plan:
    index, project = upload.index, upload.wanted.project
    config = index.config
    assert config is not None
    described = config.container or config.instance
    assert described is not None
    profiles = store.get_profiles(tx, project, described.profiles or [])
    pool = _choose_pool(tx, upload)
    own = _own_config(tx, described.config or {})
    inherited = expand.expand_devices(profiles, {})
    new = NewInstance(
        project=project,
        name=upload.name,
        type=InstanceType.CONTAINER,
        architecture=_architecture(described.architecture),
        created_at=format_time(utc_now()),
        config={key: value for key, value in own.items() if _is_clients(key)},
        devices=with_root_in(pool, described.devices or {}, inherited),
        profiles=tuple(described.profiles or ()),
        ephemeral=described.ephemeral,
        description=described.description,
    )
    return _Plan(
        new,
        own,
        pool,
        {key: value for key, value in ((config.volume and config.volume.config) or {}).items() if key[:5] == "user."},
        [_snapshot(one, pool, inherited) for one in config.snapshots or []],
        {one.name: one.config or {} for one in config.volume_snapshots or []},
    )


def _snapshot(one: IndexedSnapshot, pool: str, inherited: Devices) -> Snapshot:
    created_at = one.created_at or format_time(utc_now())
    devices = with_root_in(pool, one.devices or {}, inherited)
    return Snapshot(
        0, 0, one.name, created_at, one.expires_at or NEVER, False, one.description, one.config or {}, devices
    )


def _choose_pool(tx: Tx, upload: Upload) -> str:
    """The pool that was asked for, else that of the backup, else that of the default profile's root disk."""
    if upload.wanted.pool:
        return storage.get_pool(tx, upload.wanted.pool).name
    try:
        return storage.get_pool(tx, upload.index.pool).name
    except NotFound:
        for profile in store.get_profiles(tx, upload.wanted.project, ["default"]):
            for device in profile.devices.values():
                if device.get("type") == "disk" and device.get("path") == "/" and device.get("pool"):
                    return storage.get_pool(tx, device["pool"]).name
        raise NotFound(
            f"Storage pool {upload.index.pool!r} of the backup not found, and the default profile has no root disk:"
            " choose a pool"
        ) from None


def with_root_in(pool: str, own: Devices, inherited: Devices) -> Devices:
    """The instance's own devices, changed so that its root disk is in a pool. Pure."""
    devices = {name: dict(device) for name, device in own.items()}
    for device in devices.values():
        if device.get("type") == "disk" and device.get("path") == "/" and not device.get("source"):
            device["pool"] = pool
            return devices
    for name, device in inherited.items():
        if device.get("type") == "disk" and device.get("path") == "/" and name not in devices:
            return devices if device.get("pool") == pool else {**devices, name: {**device, "pool": pool}}
    return {**devices, "root": {"type": "disk", "path": "/", "pool": pool}}


def _own_config(tx: Tx, config: Mapping[str, str]) -> dict[str, str]:
    """The instance's config; where the one that was saved is still there, without what tells it apart."""
    kept = {key: value for key, value in config.items() if value and not key.startswith(_DROPPED)}
    kept = {key: value for key, value in kept.items() if not key.endswith(".host_name")}
    identity = kept.get("volatile.uuid", "")
    taken = tx.rows("SELECT 1 FROM instances_config WHERE key = 'volatile.uuid' AND value = ?", identity)
    if taken or not identity:
        kept = {key: value for key, value in kept.items() if not key.endswith(".hwaddr")}
        for key in (identities.UUID, identities.CLOUD_INIT):
            kept.pop(key, None)
    identities.add(kept)
    return kept


def _is_clients(key: str) -> bool:
    return not key.startswith("volatile.") or is_safe_volatile(key)


def _architecture(name: str) -> int:
    local = architectures.local_architectures()
    number = architectures.parse_architecture(name) if name else local[0]
    if number not in local:
        raise InvalidRequest("Requested architecture isn't supported by this host")
    return number
