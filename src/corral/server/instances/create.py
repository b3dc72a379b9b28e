"""Makes instances: from an image of this server or of another one, or empty."""

import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace

from corral import architectures
from corral.api.instances import InstancesPost
from corral.api.urls import url
from corral.errors import InvalidRequest, NotFound, NotSupported
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.events.model import Lifecycle, format_time, utc_now
from corral.server.host.threads import in_thread
from corral.server.images import applied_profiles
from corral.server.images import store as images
from corral.server.images.model import Image
from corral.server.images.preferences import ServerPreferences
from corral.server.instances import busy, delete, facts, identities, names, root_volume, start, store, validation
from corral.server.instances.attachments import attach
from corral.server.instances.backup import backup_file
from corral.server.instances.copies import image_source
from corral.server.instances.copies.image_source import RemoteOrder
from corral.server.instances.model import Instance, InstanceType
from corral.server.instances.store import NewInstance
from corral.server.projects import permissions
from corral.server.rollback import Rollback, together
from corral.server.storage import creation, image_volumes, keys, pools, volumes
from corral.server.storage import store as storage
from corral.server.storage.model import Volume


@dataclass(frozen=True, slots=True)
class Plan:
    """A new instance as it was asked for, checked against the database.

    `image` is None for an empty one, and for one from another server's image, which `remote` says.
    """

    new: NewInstance
    image: Image | None
    remote: RemoteOrder | None = None


async def plan_instance(context: Context, project: str, body: InstancesPost) -> Plan:
    """Decide what to make: name, kind, profiles, image. Raises what is wrong with the request."""
    return await context.db.read(_plan, context.parts[ServerPreferences], project, body)


def _plan(tx: Tx, preferences: ServerPreferences, project: str, body: InstancesPost) -> Plan:
    remote = image_source.resolve_remote(tx, preferences, project, body)
    image = _resolve_source(tx, project, body) if remote is None else image_source.find_present(tx, remote)
    try:
        kind = InstanceType(body.type or "container")
    except ValueError:
        raise InvalidRequest(f"Invalid instance type {body.type!r}") from None
    if image is not None and remote is None:
        _check_type(image, kind)
    if kind is InstanceType.VIRTUAL_MACHINE:
        raise NotSupported('Instance type "virtual-machine" is not supported on this server')
    profiles = body.profiles
    if profiles is None:
        profiles = ["default"]
        if image is not None:
            profiles = applied_profiles.read(tx, image.id, project) if remote is None else list(image.profiles)
    store.get_profiles(tx, project, profiles)
    name = body.name or names.generate_name(store.list_names(tx, project))
    names.check_name(name)
    new = NewInstance(
        project=project,
        name=name,
        type=kind,
        architecture=_architecture(body.architecture, image),
        created_at=format_time(utc_now()),
        config=body.config or {},
        devices=body.devices or {},
        profiles=tuple(profiles),
        ephemeral=body.ephemeral,
        description=body.description,
    )
    return Plan(new, image if remote is None else None, remote)


def _check_type(image: Image, kind: InstanceType) -> None:
    if image.type != kind.value:
        raise InvalidRequest(f'Requested image\'s type "{image.type}" doesn\'t match instance type "{kind.value}"')


def _resolve_source(tx: Tx, project: str, body: InstancesPost) -> Image | None:
    kind = body.source.type
    if kind == "image":
        return image_source.resolve(tx, project, body.source)
    if kind == "none":
        return None
    if kind == "migration":
        raise NotSupported(
            "Instances cannot be made by migration on this server yet: use an image, a copy or an empty instance"
        )
    raise InvalidRequest(f"Unknown source type {kind}")


def _architecture(name: str, image: Image | None) -> int:
    local = architectures.local_architectures()
    asked = architectures.parse_architecture(name) if name else local[0]
    number = architectures.parse_architecture(image.architecture) if image is not None else asked
    if number not in local:
        raise InvalidRequest("Requested architecture isn't supported by this host")
    return number


def initial_config(new: NewInstance, image: Image | None) -> dict[str, str]:
    """The config that a new instance starts with: what was asked for, the image's properties, its identities."""
    config = {key: value for key, value in new.config.items() if value != ""}
    if image is not None:
        config.update({f"image.{key}": value for key, value in image.properties.items() if value != ""})
        config["volatile.base_image"] = image.fingerprint
    identities.add(config)
    return config


@dataclass(frozen=True, slots=True)
class Filling:
    """Where the contents of a new instance come from.

    `make` makes the volume in the pool of the root disk, `discard` removes it where the making fails later. `note`
    writes what else belongs to the instance into the transaction that finishes it.
    """

    make: Callable[[Instance, Mapping[str, str]], Awaitable[Volume]]
    note: Callable[[Tx, Instance, Volume], None]
    discard: Callable[[Context, Volume], Awaitable[None]] = volumes.delete
    is_empty: bool = False


async def create_instance(context: Context, plan: Plan) -> None:
    """Make what was planned; an image of another server is fetched first."""
    image, new = plan.image, plan.new
    if plan.remote is not None:
        image = await image_source.fetch_remote(context, plan.remote)
        _check_type(image, new.type)
        new = replace(new, architecture=_architecture("", image))

    async def fill(instance: Instance, root: Mapping[str, str]) -> Volume:
        return await _create_volume(context, instance, root, image)

    def note(tx: Tx, instance: Instance, volume: Volume) -> None:
        if image is not None:
            store.set_config(tx, instance.id, {"volatile.apply_template": "create"})
            images.touch_image(tx, image.id)

    await make_instance(context, new, initial_config(new, image), Filling(fill, note, is_empty=image is None))


async def make_instance(context: Context, new: NewInstance, config: Mapping[str, str], filling: Filling) -> Instance:
    """Make an instance with a whole config: a row that is pending until its volume and devices are ready."""
    validation.check_config(new.config, new.type)
    validation.check_devices(new.devices, new.type, expanded=False)
    async with Rollback() as undo:
        # Waited for with its volume's row: before that there is nothing else of it.
        instance = await context.db.write_behind(_insert, new, config)
        undo.add(context.db.write, store.delete_instance, instance.id)
        async with busy.claim(context, instance.id, "create"):
            volatile = await check_expanded(context, instance)
            undo.add(in_thread, delete.remove_files, context, instance)
            undo.add(attach.remove_all, context, instance)
            volume, _ = await together(
                _fill(context, instance, filling, undo),
                # A copy may have the addresses of its origin: they are to be changed before it starts.
                attach.reserve_again(context, instance, list(instance.expanded_devices), volatile),
            )
            await in_thread(_prepare_directory, context, instance, volume, filling.is_empty)
            instance = await context.db.write_behind(_finish, instance, volatile, volume, filling)
            await together(context.db.flush(), backup_file.write(context, instance, volume))
            undo.commit()
    details = {"type": instance.type.value, "storage-pool": volume.pool.name}
    source = url("/1.0/instances", instance.name, project=instance.project)
    context.events.publish(Lifecycle("instance-created", source, instance.project, context=details))
    return instance


async def _fill(context: Context, instance: Instance, filling: Filling, undo: Rollback) -> Volume:
    _, root = registry.find_root_disk(instance.expanded_devices)
    volume = await filling.make(instance, root)
    undo.add(filling.discard, context, volume)
    return volume


def _insert(tx: Tx, new: NewInstance, config: Mapping[str, str]) -> Instance:
    permissions.check_volatile(tx, new.project, new.type.value, new.name, new.config, {})
    instance_id = store.insert_instance(tx, replace(new, config=config))
    permissions.check(tx, new.project, "instance creation")
    return store.reload(tx, instance_id)


async def check_expanded(context: Context, instance: Instance) -> dict[str, str | None]:
    """Check what the profiles and the instance make together; returns the volatile keys that it needs."""
    validation.check_config(instance.expanded_config, None)
    facts.check_privilege(context.member.product, instance.expanded_config)
    try:
        validation.check_devices(instance.expanded_devices, instance.type, expanded=True)
        volatile = await attach.prepare(context, instance)
    except (InvalidRequest, NotFound) as error:
        text = f"Failed creating instance record: Failed initialising instance: Invalid devices: {error}"
        raise type(error)(text) from error
    _, root = registry.find_root_disk(instance.expanded_devices)
    if not root.get("pool"):
        raise InvalidRequest("The instance's root device is missing the pool property")
    if instance.is_container:
        volatile.update((await start.plan_idmap(context, instance)).volatile)
    return volatile


async def _create_volume(context: Context, instance: Instance, root: Mapping[str, str], image: Image | None) -> Volume:
    draft = await draft_volume(context, instance, root["pool"])
    size = keys.quota_of(size_of(root), draft.pool.config, draft.type)
    if image is None:
        return await creation.create_empty(context, draft, size)
    source = image_source.volume_source(context, image.fingerprint)
    return await image_volumes.create_from_image(context, draft, source, size)


async def draft_volume(
    context: Context, instance: Instance, pool: str, config: Mapping[str, str] | None = None
) -> Volume:
    """The volume of a new instance, to be made in a pool. Raises Unavailable for a pool that is not mounted."""
    usable = await pools.get_usable(context, pool)
    return volumes.draft(usable, instance.project, instance.name, root_volume.volume_type(instance.type), config or {})


def size_of(root: Mapping[str, str]) -> dict[str, str]:
    """The limit of a root disk as a volume's config."""
    return {"size": root["size"]} if root.get("size") else {}


def _prepare_directory(context: Context, instance: Instance, volume: Volume, empty: bool) -> None:
    directory = volumes.path(context.member, volume)
    if empty:
        (directory / "rootfs").mkdir(mode=0o755, exist_ok=True)
    os.chmod(directory, 0o100)
    root_volume.make_link(context.member, instance, directory)


def _finish(
    tx: Tx, instance: Instance, volatile: Mapping[str, str | None], volume: Volume, filling: Filling
) -> Instance:
    storage.mark_volume(tx, volume.id, "")
    store.set_config(tx, instance.id, volatile)
    filling.note(tx, instance, volume)
    return store.finish_instance(tx, instance.id)
