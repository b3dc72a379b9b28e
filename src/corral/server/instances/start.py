"""Starts an instance: a list of small steps, each undone if a later one fails."""

import logging
import os
import uuid
from dataclasses import dataclass, field
from pathlib import Path

from corral.api.urls import url
from corral.errors import InvalidRequest, NotSupported
from corral.server.background import Background
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.host.filesystems import mount
from corral.server.host.isolation import idmap as host_ids
from corral.server.host.isolation.idmap import IdMap
from corral.server.host.threads import in_thread
from corral.server.instances import busy, facts, keys, replacing, root_volume, running, saved_state, store
from corral.server.instances.attachments import attach, hotplug
from corral.server.instances.attachments.attach import Attached
from corral.server.instances.backup import backup_file
from corral.server.instances.container import runtime
from corral.server.instances.container.lxc_config import lxc_config
from corral.server.instances.guest import guests, templates
from corral.server.instances.inventory import Inventory
from corral.server.instances.limits import cpus, kernel_modules, network_priority
from corral.server.instances.model import (
    Instance,
    log_dir,
    seccomp_path,
    target_path,
)
from corral.server.instances.running import Running, RunningContainer
from corral.server.instances.security import apparmor, idmaps, interception, nvidia, seccomp
from corral.server.instances.sessions import files
from corral.server.instances.snapshots import snapshot_store, snapshot_taking
from corral.server.instances.spec import HostFacts, InstanceSpec, Paths, compose
from corral.server.operations.model import report
from corral.server.rollback import Rollback
from corral.server.storage import owners, volumes
from corral.server.storage.model import Volume
from corral.units import is_true

log = logging.getLogger(__name__)

ALREADY_RUNNING = "The instance is already running"


async def start_instance(context: Context, project: str, name: str, *, stateful: bool = False) -> None:
    """Start a stopped instance."""
    instance = await context.db.read(store.get_instance, project, name)
    if busy.holder(context, instance.id) is None and running.find(context, instance) is not None:
        raise InvalidRequest(ALREADY_RUNNING)
    if stateful and not instance.stateful:
        raise InvalidRequest("Instance has no existing state to restore")
    async with busy.claim(context, instance.id, "start") as waited:
        instance = await context.db.read(store.reload, instance.id)
        if running.find(context, instance) is not None:
            if waited:
                return
            raise InvalidRequest(ALREADY_RUNNING)
        await launch(context, instance, stateful=stateful)
    publish(context, instance, "instance-started")


def publish(context: Context, instance: Instance, action: str, **more: str) -> None:
    """Tell the listeners what happened to an instance."""
    source = url("/1.0/instances", instance.name, project=instance.project)
    context.events.publish(Lifecycle(action, source, instance.project, more))


@dataclass(slots=True)
class _Start:
    """What the steps of one start hand on."""

    context: Context
    instance: Instance
    directory: Path = Path()
    volume: Volume | None = None
    idmap: IdMap | None = None
    idmapped_root: bool = False
    disk_idmap: IdMap | None = None
    attached: Attached = field(default_factory=Attached)
    volatile: dict[str, str | None] = field(default_factory=dict)
    container: RunningContainer | None = None
    stateful: bool = False


async def launch(context: Context, instance: Instance, *, stateful: bool = False) -> RunningContainer:
    """Start an instance that is stopped and that the caller has claimed.

    With `stateful` its processes go on where they were saved; otherwise a saved state is discarded.
    """
    if not instance.is_container:
        raise NotSupported("Virtual machines are not supported on this server")
    if instance.pending.startswith(replacing.PENDING):
        await replacing.resume(context, instance)
        instance = await context.db.read(store.reload, instance.id)
    state = _Start(context, instance, stateful=stateful)
    files.release(context, instance.id)
    async with Rollback() as undo:
        await _check(state)
        await _mount(state, undo)
        if not stateful:
            await saved_state.discard(context, instance, state.directory)
        await snapshot_taking.take_at_start(context, instance)
        await _map_ids(state)
        await _attach_devices(state, undo)
        if not stateful:
            await _apply_templates(state)
        await _spawn(state, undo)
        await attach.start_all(context, instance, state.attached)
        if state.container is not None and instance.expanded_config.get(keys.LIMITS_NETWORK_PRIORITY.name):
            await network_priority.apply(context, instance, state.container)
        await _remember(state)
        undo.commit()
    assert state.container is not None
    if stateful:
        await saved_state.discard(context, await context.db.read(store.reload, instance.id), state.directory)
    hotplug.follow(context, instance)
    await cpus.balance(context)
    # The user need not wait for the description of what now runs.
    context.parts[Background].start("backup.yaml", backup_file.write_again(context, instance.id))
    log.info("Started container %s", instance.storage_name)
    return state.container


async def _check(state: _Start) -> None:
    config = state.instance.expanded_config
    if facts.requires_missing_cgroup_v1(state.instance.config):
        raise NotSupported("The image used by this instance requires a CGroupV1 host system")
    if facts.lacks_nesting(state.instance.config, config):
        raise InvalidRequest(
            "The image used by this instance requires nesting. Please set security.nesting=true on the instance"
        )
    if state.stateful:
        await saved_state.check(state.context, state.instance, "Stateful start")
    await in_thread(nvidia.check, config)
    await kernel_modules.load(config)


async def _mount(state: _Start, undo: Rollback) -> None:
    volume = await root_volume.get(state.context, state.instance)
    if await state.context.db.read(snapshot_store.lacks_volume_snapshots, state.instance.id, volume.id):
        raise InvalidRequest(
            "Instance snapshot record count doesn't match instance snapshot volume record count: a restart of the "
            "daemon puts that right"
        )
    state.directory = await volumes.mount(state.context, volume)
    undo.add(volumes.unmount, state.context, volume)
    await owners.put_back(state.context, volume)
    state.volume = volume
    await in_thread(root_volume.make_link, state.context.member, state.instance, state.directory)


async def _map_ids(state: _Start) -> None:
    """Decide by which map the container runs and make the files on the disk fit, by an idmapped mount or a shift."""
    instance, config = state.instance, state.instance.config
    wanted = idmaps.of_text(config.get("volatile.idmap.next"))
    if instance.privileged != (wanted is None):
        wanted = (await plan_idmap(state.context, instance)).idmap
        state.volatile["volatile.idmap.next"] = idmaps.to_text(wanted)
    if wanted is not None:
        await in_thread(host_ids.check_set_aside, wanted)
    on_disk = idmaps.of_text(config.get("volatile.last_state.idmap"))
    if state.stateful:
        saved_state.check_idmap(instance, wanted)
    state.idmap, state.disk_idmap = wanted, on_disk
    if config.get("volatile.idmap.current") != idmaps.to_text(wanted):
        state.volatile["volatile.idmap.current"] = idmaps.to_text(wanted)
    if wanted != on_disk:
        can_mount = wanted is not None and await in_thread(_can_idmap, state.context, state.directory / "rootfs")
        if on_disk is None and can_mount:
            state.idmapped_root = True
        else:
            await _shift(state, None if can_mount else wanted)
            state.idmapped_root = can_mount


_idmappable: dict[tuple[str, int], bool] = {}


def _can_idmap(context: Context, root: Path) -> bool:
    """Whether a root file system can be mounted with an id map; asked once for each file system."""
    if is_true(os.environ.get(f"{context.member.product.prefix}_IDMAPPED_MOUNTS_DISABLE")):
        return False
    pool = (str(root.parents[2]), os.stat(root.parents[2]).st_dev)
    if pool not in _idmappable:
        _idmappable[pool] = mount.supports_idmapped_mounts(root)
    return _idmappable[pool]


async def _shift(state: _Start, wanted: IdMap | None) -> None:
    """Change the owners of all files from the map on the disk to another (None: as they are inside)."""
    instance = state.instance
    if is_true(instance.expanded_config.get("security.protection.shift")):
        raise InvalidRequest("Container is protected against filesystem shifting")
    report(container_progress="Remapping container filesystem")
    before, after = state.disk_idmap or IdMap(), wanted or IdMap()
    assert state.volume is not None
    await owners.shift(state.context, state.volume, state.directory / "rootfs", before, after)
    # Written at once: the files have their new owners whether or not the start succeeds.
    values = {"volatile.last_state.idmap": idmaps.to_text(wanted)}
    await state.context.db.write(store.set_config, instance.id, values)
    await owners.settle(state.context, state.volume)
    state.disk_idmap = wanted
    report(container_progress="")


async def plan_idmap(context: Context, instance: Instance) -> idmaps.Plan:
    """The id map that an instance's config asks for."""
    config, ids = instance.expanded_config, context.parts[idmaps.HostIds]
    if not is_true(config.get("security.idmap.isolated")):
        return idmaps.plan(config, ids, ())
    others = await context.parts[Inventory].list()
    # From here on nobody else plans: what others have planned and not yet written counts too.
    planned = context.parts[idmaps.Planned]
    for instance_id in [one for one in planned if busy.holder(context, one) is None]:
        del planned[instance_id]
    taken = [*idmaps.taken_ranges(others, ids, instance.storage_name), *planned.besides(instance.id)]
    plan = idmaps.plan(config, ids, taken)
    planned[instance.id] = idmaps.isolated_range(config, plan.base)
    return plan


async def _attach_devices(state: _Start, undo: Rollback) -> None:
    state.attached = await attach.attach_all(state.context, state.instance, undo)
    state.volatile.update(
        {key: value for key, value in state.attached.volatile.items() if state.instance.config.get(key) != value}
    )


async def _apply_templates(state: _Start) -> None:
    pending = state.instance.config.get("volatile.apply_template")
    triggers = [*([pending] if pending else []), "start"]
    await templates.apply(state.instance, state.directory, triggers, state.disk_idmap)
    if pending:
        state.volatile["volatile.apply_template"] = None


async def _spawn(state: _Start, undo: Rollback) -> None:
    context, instance = state.context, state.instance
    member = context.member
    intercepted = await interception.prepare(context, instance)
    policy = seccomp.render_policy(instance.expanded_config, intercepted)
    paths = Paths(
        root=state.directory / "rootfs",
        log_dir=log_dir(member, instance),
        target=target_path(member, instance),
        seccomp=seccomp_path(member, instance) if policy is not None else None,
        guest_api=guests.directory(member) if guests.is_offered(instance.expanded_config) else None,
        apparmor=apparmor.label(context, instance),
        intercept=interception.socket_path(context, instance) if intercepted else None,
    )
    undo.add(apparmor.unload, context, instance)
    await apparmor.load(context, instance)
    if intercepted:
        undo.add(interception.stop, context, instance)
        await interception.start(context, instance)
    host = context.parts[HostFacts]
    level = "trace" if member.debug else "warn"
    spec = compose(instance, host, paths, (state.idmap, state.idmapped_root), state.attached.attachments, level)
    undo.add(in_thread, _remove_files, paths)
    await in_thread(_write, state, spec, host, policy)
    undo.add(root_volume.clear_owner, state.directory)
    undo.add(runtime.destroy, member.containers_dir, instance.storage_name)
    if state.stateful:
        state.container = await saved_state.restore(context, instance, spec, state.directory, undo)
    else:
        state.container = await runtime.launch(instance.id, spec, member.containers_dir)
    # From here on its end is noticed; undone, it is forgotten before it is killed.
    context.parts[Running].add(state.container)
    undo.add(context.parts[Running].discard, state.container)


def _write(state: _Start, spec: InstanceSpec, host: HostFacts, policy: str | None) -> None:
    runtime.write_files(spec, lxc_config(spec, host), policy)
    root_volume.set_owner(state.directory, state.idmap)


def _remove_files(paths: Paths) -> None:
    for path in (paths.target, paths.seccomp):
        if path is not None:
            path.unlink(missing_ok=True)


async def _remember(state: _Start) -> None:
    """All that the start has to tell the database, in one write."""
    config = state.instance.config
    if not config.get("volatile.uuid"):
        state.volatile["volatile.uuid"] = str(uuid.uuid4())
    state.volatile["volatile.last_state.power"] = "RUNNING"
    used_at = format_time(utc_now())
    await state.context.db.write(_note_started, state, used_at)


def _note_started(tx: Tx, state: _Start, used_at: str) -> None:
    store.set_config(tx, state.instance.id, state.volatile, used_at=used_at)
    if state.stateful:
        saved_state.set_stateful(tx, state.instance.id, False)
