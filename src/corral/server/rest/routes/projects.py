"""/1.0/projects."""

from corral.api import projects as wire
from corral.api.urls import url
from corral.errors import Forbidden
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.operations.model import Operation
from corral.server.projects import keys, store, update, usage
from corral.server.projects.model import Project, check_name
from corral.server.rest.request import Request
from corral.server.rest.responses import Created, Listing
from corral.server.rest.routing import Access, Routes

routes = Routes("/1.0/projects")


def _load(tx: Tx, project: Project) -> wire.Project:
    return wire.Project(
        name=project.name,
        description=project.description,
        config=dict(project.config),
        used_by=store.list_used_by(tx, project),
    )


def _load_all(tx: Tx) -> list[wire.Project]:
    return [_load(tx, project) for project in store.list_projects(tx)]


def _load_one(tx: Tx, name: str) -> wire.Project:
    return _load(tx, store.get_project(tx, name))


def _publish(context: Context, action: str, name: str, **details: str) -> None:
    context.events.publish(Lifecycle(f"project-{action}", url("/1.0/projects", name), name, details))


def _check_visible(request: Request, name: str) -> None:
    if not request.caller.may_see(name):
        raise Forbidden("not authorized")


@routes.get("")
async def list_projects(request: Request) -> Listing[wire.Project]:
    """List the projects."""
    found = [project for project in await request.db.read(_load_all) if request.caller.may_see(project.name)]
    return Listing(found, lambda project: url("/1.0/projects", project.name))


@routes.post("", access=Access.ADMIN)
async def create_project(request: Request, body: wire.ProjectsPost) -> Created:
    """Create a project."""
    check_name(body.name)
    config = {**{name: "true" for name, on in keys.FEATURES.items() if on}, **body.config}
    keys.validate(config)
    await request.db.write(store.insert_project, body.name, body.description, config)
    _publish(request.context, "created", body.name)
    return Created(url("/1.0/projects", body.name), None)


@routes.get("/{name}", put=wire.ProjectPut)
async def get_project(request: Request, name: str) -> wire.Project:
    """Get a project."""
    _check_visible(request, name)
    return await request.db.read(_load_one, name)


@routes.put("/{name}", access=Access.ADMIN)
async def update_project(request: Request, name: str, body: wire.ProjectPut) -> None:
    """Update a project."""
    await update.update_project(request.context, name, body.description, body.config)


@routes.post("/{name}", access=Access.ADMIN)
async def rename_project(request: Request, name: str, body: wire.ProjectPost) -> Operation:
    """Rename an empty project."""
    if name == "default":
        raise Forbidden("The 'default' project cannot be renamed")
    check_name(body.name)
    return request.start("Renaming project", _rename, name, body.name)


async def _rename(context: Context, name: str, new_name: str) -> None:
    await context.db.write(store.rename_project, name, new_name)
    _publish(context, "renamed", new_name, old_name=name)


@routes.delete("/{name}", access=Access.ADMIN)
async def delete_project(request: Request, name: str) -> None:
    """Delete an empty project."""
    if name == "default":
        raise Forbidden("The 'default' project cannot be deleted")
    await request.db.write(store.delete_project, name)
    _publish(request.context, "deleted", name)


@routes.get("/{name}/state")
async def get_project_state(request: Request, name: str) -> wire.ProjectState:
    """Get what a project uses and may use."""
    _check_visible(request, name)
    found = await request.db.read(usage.read_usage, name)
    return wire.ProjectState(
        resources={
            resource: wire.ProjectStateResource(limit=limit, usage=used) for resource, (limit, used) in found.items()
        }
    )
