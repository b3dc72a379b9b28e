"""What a project lets happen: asked after a change, in the transaction that makes it.

A check that raises undoes the change, and two changes never see the same free space: whatever comes in parallel, the
sums hold.
"""

from collections.abc import Mapping
from dataclasses import replace

from corral.errors import Forbidden, InvalidRequest
from corral.server.db.database import Tx
from corral.server.projects import limits, restrictions
from corral.server.projects.contents import Contents, Entity, load
from corral.server.projects.model import Project
from corral.server.projects.store import get_project, list_projects


def _concerns(project: Project) -> bool:
    return restrictions.is_restricted(project) or any(key.startswith("limits.") for key in project.config)


def check(tx: Tx, project_name: str, what: str) -> None:
    """Raise Forbidden where a project, as it is in this transaction, is beyond its limits or restrictions.

    `what` says what was to happen: "instance creation".
    """
    project = get_project(tx, project_name)
    if not _concerns(project):
        return
    contents = load(tx, project)
    limits.check(contents)
    try:
        limits.check_sums(contents)
        if restrictions.is_restricted(project):
            restrictions.check(contents)
    except (Forbidden, InvalidRequest) as error:
        raise Forbidden(f"Failed checking if {what} allowed: {error}") from error


def check_entity(tx: Tx, project_name: str, entity: Entity) -> None:
    """Raise Forbidden where a restricted project allows nothing that is like this, as an instance's snapshot may be."""
    project = get_project(tx, project_name)
    if restrictions.is_restricted(project):
        restrictions.check(Contents(project, (entity,), (), {}))


def check_profile(tx: Tx, owner: str) -> None:
    """The same for all projects that use the profiles of one, after a profile changed."""
    for project in list_projects(tx):
        if project.owner_of("features.profiles") == owner:
            check(tx, project.name, "profile update")


def check_volumes(tx: Tx, project_name: str, what: str) -> None:
    """The same after a change of a custom volume: of concern only where disk space is limited."""
    if get_project(tx, project_name).config.get("limits.disk"):
        check(tx, project_name, what)


def check_volatile(
    tx: Tx, project_name: str, kind: str, name: str, config: Mapping[str, str], present: Mapping[str, str]
) -> None:
    """Raise Forbidden where a client sets volatile keys of an instance that the project leaves to the server."""
    restrictions.check_volatile(get_project(tx, project_name), kind, name, config, present)


def check_new_config(tx: Tx, project: Project, config: Mapping[str, str]) -> None:
    """Raise InvalidRequest where new limits or restrictions would be violated by what is in a project already."""
    changed = sorted(key for key in {*project.config, *config} if config.get(key, "") != project.config.get(key, ""))
    concerned = [key for key in changed if key.startswith(("limits.", "restricted."))]
    if not concerned:
        return
    contents = load(tx, project)
    wanted: Contents = replace(contents, project=replace(project, config=config))
    for key in concerned:
        if key.startswith("restricted."):
            restrictions.check_new(wanted, key)
        else:
            _check_new_limit(wanted, key, config.get(key, ""))


def _check_new_limit(contents: Contents, key: str, text: str) -> None:
    try:
        limits.check_new_limit(contents, key, text)
    except Forbidden as error:
        raise InvalidRequest(str(error)) from error


def image_budget(tx: Tx, project_name: str) -> int | None:
    """Bytes that an image of the project may still have; None for no limit."""
    project = get_project(tx, project_name)
    limit = project.config.get("limits.disk")
    if not limit or not project.has("features.images"):
        return None
    return max(0, limits.SUMS["limits.disk"](limit) - limits.total(load(tx, project), "limits.disk"))


def check_networks(tx: Tx, project_name: str) -> None:
    """Raise InvalidRequest where a project has more networks than it may."""
    project = get_project(tx, project_name)
    limit = project.config.get("limits.networks")
    if not limit or project_name == "default":
        return
    if tx.rows("SELECT count(*) FROM networks WHERE project_id = ?", project.id)[0][0] > int(limit):
        raise InvalidRequest("Networks limit has been reached for project")


def check_snapshots(tx: Tx, project_name: str) -> None:
    """Raise Forbidden where a project's restrictions allow no snapshots."""
    if restrictions.is_blocked(get_project(tx, project_name), "restricted.snapshots"):
        raise Forbidden(f'Project "{project_name}" doesn\'t allow for snapshot creation')


def check_backups(tx: Tx, project_name: str) -> None:
    """Raise Forbidden where a project's restrictions allow no backups."""
    if restrictions.is_blocked(get_project(tx, project_name), "restricted.backups"):
        raise Forbidden(f'Project "{project_name}" doesn\'t allow for backup creation')


def check_target(tx: Tx, project_name: str, target: str) -> None:
    """Raise Forbidden where a client may not choose the member of the cluster."""
    if target and restrictions.is_blocked(get_project(tx, project_name), "restricted.cluster.target"):
        raise Forbidden("This project doesn't allow cluster member targeting")


def allows_network(tx: Tx, project_name: str, network: str, *, managed: bool) -> bool:
    """Whether a project may see and use a network or an interface of the host."""
    return restrictions.allows_network(get_project(tx, project_name), network, managed=managed)
