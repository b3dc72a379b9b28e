"""Which volumes a project sees: its own, those that it shares with the default project, and its images' ones."""

from collections.abc import Sequence
from dataclasses import replace

from corral.api.urls import url
from corral.server.db.database import Tx
from corral.server.projects import store as projects
from corral.server.storage import snapshot_store, store
from corral.server.storage.model import Volume, VolumeSnapshot, VolumeType


def project_of(tx: Tx, project: str, kind: VolumeType) -> str:
    """The project that a type of volumes is kept in, for a project that may share them."""
    if kind.is_instance:
        return project
    shares = kind is VolumeType.IMAGE or not projects.get_project(tx, project).has("features.storage.volumes")
    return "default" if shares else project


def get_volume(tx: Tx, pool: str, project: str, kind: VolumeType, name: str) -> Volume:
    """A volume by the name that a project has for it. Raises NotFound."""
    return store.get_volume(tx, store.get_pool(tx, pool), project_of(tx, project, kind), name, kind)


def list_volumes(
    tx: Tx, pool_name: str, project: str | None, kinds: Sequence[VolumeType]
) -> list[tuple[Volume, list[str]]]:
    """Volumes and snapshots that a project sees (None: all projects), by type and name, with the URLs of their users.

    A snapshot stands there as a volume with the name VOLUME/SNAPSHOT.
    """
    pool = store.get_pool(tx, pool_name)
    found: list[Volume] = []
    for kind in kinds:
        owner = None if project is None else project_of(tx, project, kind)
        listed = store.list_volumes(tx, pool, owner, [kind])
        if kind is VolumeType.IMAGE and project is not None:
            has_own = projects.get_project(tx, project).has("features.images")
            visible = set(store.image_fingerprints(tx, project if has_own else "default"))
            listed = [volume for volume in listed if volume.name in visible]
        found += listed
    shown = [(volume, store.list_users(tx, volume, project or volume.project)) for volume in found]
    shown += [_as_volume(snapshot) for snapshot in snapshot_store.list_snapshots(tx, found)]
    return sorted(shown, key=lambda one: (one[0].type.value, one[0].name, one[0].project))


def _as_volume(snapshot: VolumeSnapshot) -> tuple[Volume, list[str]]:
    volume = snapshot.volume
    users = []
    if volume.type.is_instance:
        users = [url("/1.0/instances", volume.name, "snapshots", snapshot.name, project=volume.project)]
    shown = replace(
        volume,
        name=f"{volume.name}/{snapshot.name}",
        config=snapshot.config,
        description=snapshot.description,
        created_at=snapshot.created_at,
    )
    return shown, users
