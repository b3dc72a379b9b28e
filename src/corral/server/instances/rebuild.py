"""Makes a stopped instance anew, from an image or empty: its root is replaced, configuration and devices stay."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from corral import architectures
from corral.api.instances import InstanceSource, InstancesPost
from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.devices import registry
from corral.server.host.threads import in_thread
from corral.server.images import store as images
from corral.server.images.model import Image
from corral.server.images.preferences import ServerPreferences
from corral.server.instances import busy, create, identities, replacing, root_volume, running, start, store
from corral.server.instances.copies import image_source
from corral.server.instances.copies.image_source import RemoteOrder
from corral.server.instances.model import Instance
from corral.server.instances.sessions import files
from corral.server.instances.snapshots import snapshot_store
from corral.server.storage import image_volumes, keys
from corral.server.storage.driver import StoredVolume
from corral.server.storage.model import Volume
from corral.server.storage.registry import open_driver

NOT_WHILE_RUNNING = "Instance must be stopped to be rebuilt"
HAS_SNAPSHOTS = "Cannot rebuild an instance that has snapshots: delete them first"


@dataclass(frozen=True, slots=True)
class Plan:
    """What an instance is to be made of: an image of this server, one of another's (`remote`), or nothing."""

    image: Image | None = None
    remote: RemoteOrder | None = None


async def plan_rebuild(context: Context, instance: Instance, source: InstanceSource) -> Plan:
    """Decide what to make it of. Raises what is wrong with the request."""
    if running.find(context, instance) is not None:
        raise InvalidRequest(NOT_WHILE_RUNNING)
    if source.type == "none":
        return Plan()
    if source.type not in ("", "image"):
        raise InvalidRequest(f"Unknown source type {source.type}")
    source.type = "image"
    body = InstancesPost(source=source, type=instance.type.value)
    return await context.db.read(_plan, context.parts[ServerPreferences], instance, body)


def _plan(tx: Tx, preferences: ServerPreferences, instance: Instance, body: InstancesPost) -> Plan:
    remote = image_source.resolve_remote(tx, preferences, instance.project, body)
    if remote is not None:
        return Plan(remote=remote)
    image = image_source.resolve(tx, instance.project, body.source)
    _check_image(instance, image)
    return Plan(image)


def _check_image(instance: Instance, image: Image) -> None:
    if image.type != instance.type.value:
        raise InvalidRequest(
            f'Requested image\'s type "{image.type}" doesn\'t match instance type "{instance.type.value}"'
        )
    if architectures.parse_architecture(image.architecture) not in architectures.local_architectures():
        raise InvalidRequest("Requested architecture isn't supported by this host")


async def rebuild_instance(context: Context, instance: Instance, plan: Plan) -> None:
    """Replace the root: all of it, or nothing where it fails or the daemon dies."""
    image = plan.image
    if plan.remote is not None:
        image = await image_source.fetch_remote(context, plan.remote)
        _check_image(instance, image)
    async with busy.claim(context, instance.id, "rebuild", ()):
        instance = await context.db.read(store.reload, instance.id)
        if running.find(context, instance) is not None:
            raise InvalidRequest(NOT_WHILE_RUNNING)
        if await context.db.read(snapshot_store.list_names, instance.id):
            raise InvalidRequest(HAS_SNAPSHOTS)
        files.release(context, instance.id)
        volume = await root_volume.get(context, instance)
        fill = _filling(context, instance, volume, image)
        await replacing.replace_root(context, instance, volume, fill, _change_of(instance, image))
        if image is not None:
            await context.db.write(images.touch_image, image.id)
    start.publish(context, instance, "instance-rebuilt")


def _filling(
    context: Context, instance: Instance, volume: Volume, image: Image | None
) -> Callable[[StoredVolume], Awaitable[None]]:
    """What makes the new root."""
    _, root = registry.find_root_disk(instance.expanded_devices)
    size = keys.quota_of(create.size_of(root), volume.pool.config, volume.type)

    async def make_empty(new: StoredVolume) -> None:
        await open_driver(context.member, volume.pool).create_volume(new, size)
        await in_thread((new.path / "rootfs").mkdir, 0o755)

    async def make_from_image(new: StoredVolume) -> None:
        assert image is not None
        source = image_source.volume_source(context, image.fingerprint)
        await image_volumes.clone(context, source, volume.pool, new, size)

    return make_empty if image is None else make_from_image


def _change_of(instance: Instance, image: Image | None) -> store.Change:
    """The record with the new image's properties, and without what was known of the old root."""
    config = {key: value for key, value in instance.config.items() if not _is_of_the_root(key)}
    config["volatile.last_state.idmap"] = "[]"
    architecture = instance.architecture
    if image is not None:
        config.update({f"image.{key}": value for key, value in image.properties.items() if value != ""})
        config["volatile.base_image"] = image.fingerprint
        config["volatile.apply_template"] = "create"
        config[identities.GENERATION] = config.get(identities.UUID) or identities.new_generation()
        architecture = architectures.parse_architecture(image.architecture)
    return store.Change(
        architecture, instance.description, instance.ephemeral, config, instance.devices, instance.profiles
    )


def _is_of_the_root(key: str) -> bool:
    return key.startswith("image.") or key in ("volatile.base_image", "volatile.apply_template")
