"""/1.0/instances/NAME/snapshots."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from corral.api import instances as wire
from corral.api.instances import InstanceSnapshotPost, InstanceSnapshotPut, InstanceSnapshotsPost
from corral.api.urls import url
from corral.errors import AlreadyExists, InvalidRequest
from corral.server.events.model import format_time
from corral.server.instances import render
from corral.server.instances.model import Instance
from corral.server.instances.sessions.channels import Connections
from corral.server.instances.snapshots import snapshot, snapshot_taking
from corral.server.migration import source
from corral.server.migration.session import Remote
from corral.server.operations.model import Operation
from corral.server.rest import migrations
from corral.server.rest.request import Request
from corral.server.rest.responses import Listing
from corral.server.rest.routes.instances import load, look, resources
from corral.server.rest.routing import Routes
from corral.server.snapshots import naming

routes = Routes("/1.0/instances/{name}/snapshots")


@routes.get("")
async def list_snapshots(request: Request, name: str) -> Listing[wire.InstanceSnapshot]:
    """List the snapshots of an instance."""
    await load(request, name)
    instance, found = await snapshot.instance_of(request.context, request.project, name)
    sizes = await snapshot.sizes(request.context, instance) if request.recursion else {}
    items = [render.snapshot(instance, one, sizes.get(one.name, -1)) for one in found]
    return Listing(items, lambda one: url(request.base, name, "snapshots", one.name, project=request.project))


@routes.post("")
async def create_snapshot(request: Request, name: str, body: InstanceSnapshotsPost) -> Operation:
    """Take a snapshot; without a name it gets the next of its series."""
    instance = await look(request, name)
    new = await snapshot_taking.plan_snapshot(request.context, instance)
    if body.name:
        _check_name(body.name)
        new = replace(new, name=body.name, counted=False)
    if body.expires_at:
        new = replace(new, expires_at=parse_expiry(body.expires_at))
    new = replace(new, stateful=body.stateful)
    return request.start_on(
        {
            **resources(request, name, container=instance.is_container),
            "instances_snapshots": [url("/1.0/instances", name, "snapshots", new.name, project=request.project)],
        },
        "Snapshotting instance",
        snapshot_taking.create_snapshot,
        instance,
        new,
    )


@routes.get("/{snapshot_name}", put=InstanceSnapshotPut)
async def get_snapshot(request: Request, name: str, snapshot_name: str) -> wire.InstanceSnapshot:
    """Get a snapshot."""
    await load(request, name)
    instance, found = await snapshot.instance_of(request.context, request.project, name)
    sizes = await snapshot.sizes(request.context, instance)
    return render.snapshot(instance, snapshot.find(found, snapshot_name), sizes.get(snapshot_name, -1))


@routes.put("/{snapshot_name}")
async def update_snapshot(request: Request, name: str, snapshot_name: str, body: InstanceSnapshotPut) -> Operation:
    """Change when a snapshot expires; a request that says nothing of it changes nothing, the year 1 is never."""
    instance, found = await snapshot.instance_of(request.context, request.project, name)
    present = snapshot.find(found, snapshot_name).expires_at
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Updating snapshot",
        snapshot.update_snapshot,
        instance,
        snapshot_name,
        parse_expiry(present if body.expires_at is None else body.expires_at),
    )


@routes.post("/{snapshot_name}")
async def rename_snapshot(request: Request, name: str, snapshot_name: str, body: InstanceSnapshotPost) -> Operation:
    """Rename a snapshot."""
    instance = await load(request, name)
    if body.migration:
        return await _send_snapshot(request, instance, snapshot_name, body)
    _check_name(body.name)
    _, found = await snapshot.instance_of(request.context, request.project, name)
    snapshot.find(found, snapshot_name)
    if any(one.name == body.name for one in found):
        raise AlreadyExists(f'Name "{name}/{body.name}" already in use')
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Renaming snapshot",
        snapshot.rename_snapshot,
        instance,
        snapshot_name,
        body.name,
    )


async def _send_snapshot(
    request: Request, instance: Instance, snapshot_name: str, body: InstanceSnapshotPost
) -> Operation:
    _, found = await snapshot.instance_of(request.context, request.project, instance.name)
    snapshot.find(found, snapshot_name)
    sending = source.Sending(instance, snapshot_name)

    async def work(link: Connections | Remote) -> None:
        await source.send_instance(request.context, sending, link)

    remote = migrations.remote_of(body.target) if body.target is not None else None
    return migrations.start(request, "Migrating snapshot", resources(request, instance.name), work, remote)


@routes.delete("/{snapshot_name}")
async def delete_snapshot(request: Request, name: str, snapshot_name: str) -> Operation:
    """Delete a snapshot."""
    instance, found = await snapshot.instance_of(request.context, request.project, name)
    snapshot.find(found, snapshot_name)
    return request.start_on(
        resources(request, name, container=instance.is_container),
        "Deleting snapshot",
        snapshot.delete_snapshot,
        instance,
        snapshot_name,
    )


def _check_name(name: str) -> None:
    """Raise InvalidRequest for a name that no snapshot can have, or that clients could not put into a URL."""
    for character in "/?&+":
        if character in name:
            raise InvalidRequest(f'Invalid snapshot name: Cannot contain "{character}"')
    naming.check_name(name)


def parse_expiry(text: str | None) -> str | None:
    """An RFC 3339 time as rows keep it; None and the zero time are never."""
    if not text or text.startswith("0001-01-01"):
        return None
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        raise InvalidRequest(f"Invalid time {text!r}: give it as in 2026-01-31T12:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment < datetime.now(UTC) - timedelta(days=36500):
        return None
    return format_time(moment)
