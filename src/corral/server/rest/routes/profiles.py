"""/1.0/profiles."""

from corral.api import profiles as wire
from corral.api.urls import url
from corral.errors import Forbidden
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.instances import update, validation
from corral.server.profiles import store
from corral.server.profiles.model import Profile, check_name
from corral.server.projects import permissions
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Routes

routes = Routes("/1.0/profiles", feature="features.profiles")


def _to_wire(profile: Profile) -> wire.Profile:
    return wire.Profile(
        name=profile.name,
        description=profile.description,
        config=dict(profile.config),
        devices={name: dict(device) for name, device in profile.devices.items()},
        used_by=[url("/1.0/instances", instance, project=project) for project, instance in profile.used_by],
    )


def _url(request: Request, name: str) -> str:
    return url("/1.0/profiles", name, project=request.project)


def _publish(request: Request, action: str, name: str, **context: str) -> None:
    request.context.events.publish(Lifecycle(f"profile-{action}", _url(request, name), request.project, context))


def _check(body: wire.ProfilePut) -> None:
    """A profile may be used by either kind of instance, and need not have a root disk."""
    validation.check_profile_config(body.config)
    validation.check_devices(body.devices, None, expanded=False)


@routes.get("")
async def list_profiles(request: Request) -> Listing[wire.Profile]:
    """List the profiles."""
    profiles = await request.db.read(store.list_profiles, request.project)
    return Listing([_to_wire(profile) for profile in profiles], lambda profile: _url(request, profile.name))


@routes.post("")
async def create_profile(request: Request, body: wire.ProfilesPost) -> Created:
    """Create a profile."""
    check_name(body.name)
    _check(body)

    def write(tx: Tx) -> None:
        store.insert_profile(tx, request.project, body.name, body.description, body.config, body.devices)
        permissions.check_profile(tx, request.project)

    await request.db.write(write)
    _publish(request, "created", body.name)
    return Created(_url(request, body.name), None)


@routes.get("/{name}", put=wire.ProfilePut)
async def get_profile(request: Request, name: str) -> wire.Profile:
    """Get a profile."""
    return _to_wire(await request.db.read(store.get_profile, request.project, name))


@routes.put("/{name}")
async def update_profile(request: Request, name: str, body: wire.ProfilePut) -> None:
    """Update a profile and apply it to the instances that use it."""
    _check(body)

    def write(tx: Tx) -> None:
        store.update_profile(tx, request.project, name, body.description, body.config, body.devices)

    await update.apply_profile(request.context, request.project, name, write)
    _publish(request, "updated", name)


@routes.post("/{name}")
async def rename_profile(request: Request, name: str, body: wire.ProfilePost) -> Created:
    """Rename a profile."""
    if name == "default":
        raise Forbidden('The "default" profile cannot be renamed')
    check_name(body.name)
    await request.db.write(store.rename_profile, request.project, name, body.name)
    _publish(request, "renamed", body.name, old_name=name)
    return Created(_url(request, body.name), None)


@routes.delete("/{name}")
async def delete_profile(request: Request, name: str) -> None:
    """Delete a profile that no instance uses."""
    if name == "default":
        raise Forbidden('The "default" profile cannot be deleted')
    await request.db.write(store.delete_profile, request.project, name)
    _publish(request, "deleted", name)
