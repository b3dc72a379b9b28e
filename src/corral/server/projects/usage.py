"""How much a project uses of what can be limited: counted from the database, without asking the kernel."""

from corral.server.db.database import Tx
from corral.server.keys import Config, Key
from corral.server.projects import contents, keys, limits
from corral.server.projects.store import get_project

LIMITS: dict[str, Key[int]] = {
    "containers": keys.LIMIT_CONTAINERS,
    "cpu": keys.LIMIT_CPU,
    "disk": keys.LIMIT_DISK,
    "instances": keys.LIMIT_INSTANCES,
    "memory": keys.LIMIT_MEMORY,
    "networks": keys.LIMIT_NETWORKS,
    "processes": keys.LIMIT_PROCESSES,
    "virtual-machines": keys.LIMIT_VIRTUAL_MACHINES,
}
"""The resources of a project and the key that limits each."""


def read_usage(tx: Tx, name: str) -> dict[str, tuple[int, int]]:
    """For each resource the limit (-1: none) and what is used: a count, CPUs or bytes."""
    project = get_project(tx, name)
    found = contents.load(tx, project)
    used = {
        "instances": len(found.instances),
        "containers": found.count(contents.CONTAINER),
        "virtual-machines": found.count(contents.VIRTUAL_MACHINE),
        "networks": tx.rows("SELECT count(*) FROM networks WHERE project_id = ?", project.id)[0][0],
        **{key.removeprefix("limits."): limits.usage(found, key) for key in limits.SUMS},
    }
    config = Config(project.config)
    of_keys = {resource: config[key] for resource, key in LIMITS.items()}
    return {resource: (-1 if limit is None else limit, used[resource]) for resource, limit in of_keys.items()}
