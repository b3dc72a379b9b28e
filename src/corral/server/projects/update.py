"""Changing a project: its features are fixed while something lives in it."""

from collections.abc import Mapping

from corral.errors import InvalidRequest
from corral.server.context import Context
from corral.server.db.database import Tx
from corral.server.events.model import Lifecycle
from corral.server.projects import keys, permissions, store
from corral.units import is_true


async def update_project(context: Context, name: str, description: str, config: Mapping[str, str]) -> None:
    """Replace description and config of a project; raises InvalidRequest in LXD's words."""
    await context.db.write(_update, name, description, dict(config))
    context.events.publish(Lifecycle("project-updated", f"/1.0/projects/{name}", name))


def _update(tx: Tx, name: str, description: str, config: dict[str, str]) -> None:
    project = store.get_project(tx, name)
    features = [key for key in keys.FEATURES if config.get(key, "") != project.config.get(key, "")]
    if features and name == "default":
        raise InvalidRequest("You can't change the features of the default project")
    if features and not store.is_empty(tx, project):
        was_on = is_true(project.config.get(features[0]))
        verb = "disabled" if was_on else "enabled"
        raise InvalidRequest(f'Project feature "{features[0]}" cannot be {verb} on non-empty projects')
    keys.validate(config)
    permissions.check_new_config(tx, project, {key: text for key, text in config.items() if text})
    store.update_project(tx, name, description, config)
