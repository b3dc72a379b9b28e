"""/1.0/instances (and, by the dispatcher, /1.0/containers and /1.0/virtual-machines)."""

from collections.abc import Mapping
from typing import Any

from corral.api import instances as wire
from corral.api.instances import InstancePatch, InstancePost, InstancePut, InstancesPost, InstancesPut
from corral.api.urls import url
from corral.errors import Forbidden, InvalidRequest, NotFound
from corral.server.backups import store as backup_store
from corral.server.backups.upload import Wanted
from corral.server.host.threads import in_thread
from corral.server.instances import (
    bulk,
    create,
    delete,
    instance_types,
    names,
    rename,
    render,
    running,
    state,
    store,
    update,
)
from corral.server.instances.backup import backup_import
from corral.server.instances.copies import copy, move
from corral.server.instances.inventory import Inventory
from corral.server.instances.model import Instance, InstanceType
from corral.server.instances.sessions.channels import Connections
from corral.server.instances.snapshots import snapshot
from corral.server.migration import sink, source
from corral.server.migration.session import Remote
from corral.server.operations.model import Operation
from corral.server.rest import migrations, uploads
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing
from corral.server.rest.routing import Routes

routes = Routes("/1.0/instances")

_KINDS = {"/1.0/containers": InstanceType.CONTAINER, "/1.0/virtual-machines": InstanceType.VIRTUAL_MACHINE}


def kind_of(request: Request) -> InstanceType | None:
    """The kind of instance that the path of the request speaks of; None for either."""
    return _KINDS.get(request.base)


def _kind_asked(request: Request) -> InstanceType | None:
    """The kind that is to be listed: by the path, or by the query."""
    asked = request.query.get("instance-type", "")
    if not asked:
        return kind_of(request)
    try:
        return InstanceType(asked)
    except ValueError:
        raise InvalidRequest(f"Invalid instance type {asked!r}: give container or virtual-machine") from None


async def load(request: Request, name: str) -> Instance:
    """The instance of a request's path, or NotFound; one of the other kind is not found either."""
    _check_name(name)
    return _of_kind(request, await request.db.read(store.get_instance, request.project, name))


async def look(request: Request, name: str) -> Instance:
    """The same, for one who changes nothing."""
    _check_name(name)
    return _of_kind(request, await request.context.parts[Inventory].get(request.project, name))


def _check_name(name: str) -> None:
    if "/" in name:
        raise InvalidRequest("Invalid instance name")


def _of_kind(request: Request, instance: Instance) -> Instance:
    if kind_of(request) not in (None, instance.type):
        raise NotFound("Instance not found")
    return instance


def resources(request: Request, *instance_names: str, container: bool = False) -> dict[str, list[str]]:
    """The things that an operation on instances works on."""
    found = {"instances": [url("/1.0/instances", name, project=request.project) for name in instance_names]}
    if container:
        found["containers"] = [url("/1.0/containers", name, project=request.project) for name in instance_names]
    return found


@routes.get("")
async def list_instances(request: Request) -> Listing[wire.Instance]:
    """List the instances."""
    project = None if request.all_projects else request.project
    found = await request.context.parts[Inventory].list(project, _kind_asked(request))
    items: list[Any] = found
    if request.recursion == 1 or (request.recursion == 0 and request.query.get("filter")):
        items = [render.instance(request.context, one) for one in found]
    elif request.recursion:
        items = list(await _full(request, found))
    return Listing(items, lambda one: url(request.base, one.name, project=one.project))


async def _full(
    request: Request, found: list[Instance], sizes: Mapping[str, int] | None = None
) -> list[wire.InstanceFull]:
    ids = [one.id for one in found]
    snapshots = await request.db.read(store.list_snapshots, ids)
    backups = await request.db.read(backup_store.list_all, backup_store.INSTANCES)
    states = await state.get_states(request.context, found)
    return [
        render.full(request.context, one, states[one.id], snapshots.get(one.id, []), sizes, backups.get(one.id, ()))
        for one in found
    ]


async def import_instance(request: Request) -> Operation:
    """Make an instance from a backup that is the body; its name and pool may be told by headers."""
    headers = request.raw.headers
    chunks = uploads.body_chunks(request.raw)
    wanted = Wanted(request.project, headers.get("X-LXD-name", ""), headers.get("X-LXD-pool", ""))
    upload = await backup_import.receive(request.context, chunks, wanted)
    return request.start_on(
        resources(request, upload.name, container=True),
        "Restoring backup",
        backup_import.import_backup,
        upload,
    )


@routes.post("", upload=import_instance)
async def create_instance(request: Request, body: InstancesPost) -> Operation:
    """Create an instance."""
    if request.query.get("target"):
        raise InvalidRequest("Target only allowed when clustered")
    kind = kind_of(request)
    if not body.type and kind is not None:
        body.type = kind.value
    if body.instance_type:
        limits = instance_types.parse_type(body.instance_type, await in_thread(instance_types.load_types))
        given = body.config or {}
        body.config = {**given, **{key: value for key, value in limits.items() if not given.get(key)}}
    if body.source.type == "copy":
        return await _copy_instance(request, body)
    if body.source.type == "migration":
        return await _receive_instance(request, body)
    plan = await create.plan_instance(request.context, request.project, body)
    container = plan.new.type is InstanceType.CONTAINER
    return request.start_on(
        resources(request, plan.new.name, container=container), "Creating instance", create.create_instance, plan
    )


async def _receive_instance(request: Request, body: InstancesPost) -> Operation:
    if body.source.live:
        await source.check_live(request.context)
    wanted = await sink.plan(request.context, request.project, body)
    remote = migrations.remote_of(body.source) if body.source.mode == "pull" else None

    async def work(link: Connections | Remote) -> None:
        await sink.receive_instance(request.context, wanted, link)

    container = wanted.new.type is InstanceType.CONTAINER
    described = resources(request, wanted.new.name, container=container)
    return migrations.start(request, "Creating instance", described, work, remote)


async def _copy_instance(request: Request, body: InstancesPost) -> Operation:
    if not request.caller.may_see(body.source.project or request.project):
        raise Forbidden("not authorized")
    plan = await copy.plan_copy(request.context, request.project, body)
    described = resources(request, plan.new.name, container=plan.source.is_container)
    for kind, urls in described.items():
        urls.append(url(f"/1.0/{kind}", plan.source.name, project=plan.source.project))
    return request.start_on(described, "Creating instance", copy.copy_instance, plan)


@routes.put("")
async def change_states(request: Request, body: InstancesPut) -> Operation:
    """Change the state of all instances of the project."""
    if body.state is None:
        raise InvalidRequest("Missing the field state")
    description = bulk.describe(body.state.action)
    concerned = await bulk.concerned(request.context, request.project, body.state.action)
    return request.start_on(
        resources(request, *(one.name for one in concerned)), description, bulk.change_states, concerned, body.state
    )


@routes.get("/{name}", put=InstancePut)
async def get_instance(request: Request, name: str) -> wire.Instance:
    """Get an instance; with recursion also its state and snapshots."""
    instance = await look(request, name)
    if request.recursion and request.raw.method == "GET":
        return (await _full(request, [instance], await snapshot.sizes(request.context, instance)))[0]
    return render.instance(request.context, instance)


@routes.put("/{name}")
async def update_instance(request: Request, name: str, body: InstancePut) -> Operation:
    """Replace the configuration of an instance."""
    instance = await look(request, name)
    description = "Restoring snapshot" if body.restore else "Updating instance"
    return request.start_on(
        resources(request, name, container=instance.is_container),
        description,
        update.update_instance,
        request.project,
        name,
        body,
    )


@routes.patch("/{name}")
async def patch_instance(request: Request, name: str, body: InstancePatch) -> None:
    """Change some of the configuration of an instance."""
    await look(request, name)
    await update.patch_instance(request.context, request.project, name, body)


@routes.post("/{name}")
async def rename_instance(request: Request, name: str, body: InstancePost) -> Operation:
    """Rename an instance."""
    instance = await load(request, name)
    if body.migration and (body.pool or body.project):
        return _move_instance(request, instance, body)
    if request.query.get("target"):
        raise InvalidRequest("Target only allowed when clustered")
    if body.migration:
        return await _send_instance(request, instance, body)
    if not body.name:
        raise InvalidRequest("Missing the new name")
    names.check_name(body.name)
    await request.db.read(rename.check_free, request.project, body.name)
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Renaming instance",
        rename.rename_instance,
        request.project,
        name,
        body.name,
    )


async def _send_instance(request: Request, instance: Instance, body: InstancePost) -> Operation:
    if body.live and running.find(request.context, instance) is not None:
        await source.check_live(request.context)
    alone = body.instance_only or body.container_only
    sending = source.Sending(instance, "", alone, body.allow_inconsistent)

    async def work(link: Connections | Remote) -> None:
        await source.send_instance(request.context, sending, link)

    described = resources(request, instance.name, container=instance.is_container)
    remote = migrations.remote_of(body.target) if body.target is not None else None
    return migrations.start(request, "Migrating instance", described, work, remote)


def _move_instance(request: Request, instance: Instance, body: InstancePost) -> Operation:
    if body.name:
        names.check_name(body.name)
    if body.project and not request.caller.may_see(body.project):
        raise Forbidden("not authorized")
    alone = body.instance_only or body.container_only
    return request.start_on(
        resources(request, instance.name, container=instance.is_container),
        "Migrating instance",
        move.move_instance,
        request.project,
        instance.name,
        move.Move(body.name, body.project, body.pool, alone, body.config or {}, body.devices or {}, body.profiles),
    )


@routes.delete("/{name}")
async def delete_instance(request: Request, name: str) -> Operation:
    """Delete a stopped instance."""
    instance = await load(request, name)
    if running.find(request.context, instance) is not None:
        raise InvalidRequest("Instance is running")
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Deleting instance",
        delete.delete_instance,
        request.project,
        name,
    )
