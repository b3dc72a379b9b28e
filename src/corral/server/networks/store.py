"""SQL of networks."""

import sqlite3
from collections.abc import Mapping

from corral.errors import AlreadyExists, NotFound
from corral.server.db import rows
from corral.server.db.database import Tx
from corral.server.networks.model import Network, NetworkStatus, NetworkType

_SELECT = (
    "SELECT n.id, p.name AS project, n.name, n.type, n.description, n.state FROM networks n"
    " JOIN projects p ON p.id = n.project_id"
)


def _network(row: sqlite3.Row, config: dict[str, str]) -> Network:
    statuses = list(NetworkStatus)
    return Network(
        id=row["id"],
        project=row["project"],
        name=row["name"],
        type=list(NetworkType)[row["type"]],
        description=row["description"],
        status=statuses[row["state"]] if row["state"] < len(statuses) else NetworkStatus.UNKNOWN,
        config=config,
    )


def find_network(tx: Tx, project: str, name: str) -> Network | None:
    """A network of a project, or None."""
    row = tx.row(f"{_SELECT} WHERE p.name = ? AND n.name = ?", project, name)
    if row is None:
        return None
    configs = rows.read_configs(tx, "networks_config", "network_id", [row["id"]])
    return _network(row, configs.get(row["id"], {}))


def get_network(tx: Tx, project: str, name: str) -> Network:
    """A network of a project, or NotFound."""
    network = find_network(tx, project, name)
    if network is None:
        raise NotFound("Network not found")
    return network


def list_networks(tx: Tx, project: str | None = None) -> list[Network]:
    """The networks of a project, or of all, by name."""
    found = (
        tx.rows(f"{_SELECT} ORDER BY n.name, p.name")
        if project is None
        else tx.rows(f"{_SELECT} WHERE p.name = ? ORDER BY n.name", project)
    )
    configs = rows.read_configs(tx, "networks_config", "network_id")
    return [_network(row, configs.get(row["id"], {})) for row in found]


def insert_network(
    tx: Tx, project: str, name: str, kind: NetworkType, description: str, config: Mapping[str, str]
) -> Network:
    """Write a network that is still to be made (status pending). Raises AlreadyExists."""
    owner = tx.row("SELECT id FROM projects WHERE name = ?", project)
    if owner is None:
        raise NotFound(f"Project {project!r} not found")
    if find_network(tx, project, name) is not None:
        raise AlreadyExists("The network already exists")
    network_id = tx.execute(
        "INSERT INTO networks (project_id, name, description, state, type) VALUES (?, ?, ?, ?, ?)",
        owner["id"],
        name,
        description,
        NetworkStatus.PENDING.code,
        kind.code,
    )
    tx.execute(
        "INSERT INTO networks_nodes (network_id, node_id, state) VALUES (?, 1, ?)",
        network_id,
        NetworkStatus.PENDING.code,
    )
    rows.write_config(tx, "networks_config", "network_id", network_id, config)
    return get_network(tx, project, name)


def update_network(tx: Tx, network_id: int, description: str, config: Mapping[str, str]) -> None:
    """Write what a client may change."""
    tx.execute("UPDATE networks SET description = ? WHERE id = ?", description, network_id)
    rows.write_config(tx, "networks_config", "network_id", network_id, config)


def set_status(tx: Tx, network_id: int, status: NetworkStatus) -> None:
    """Write how far a network has come, as a whole and on this member."""
    tx.execute("UPDATE networks SET state = ? WHERE id = ?", status.code, network_id)
    tx.execute("UPDATE networks_nodes SET state = ? WHERE network_id = ?", status.code, network_id)


def rename_network(tx: Tx, network_id: int, name: str) -> None:
    """Write a new name. Raises AlreadyExists."""
    taken = tx.row(
        "SELECT 1 FROM networks WHERE name = ? AND project_id = (SELECT project_id FROM networks WHERE id = ?)",
        name,
        network_id,
    )
    if taken is not None:
        raise AlreadyExists(f'Network "{name}" already exists')
    tx.execute("UPDATE networks SET name = ? WHERE id = ?", name, network_id)


def delete_network(tx: Tx, network_id: int) -> None:
    """Remove a network with its configuration."""
    tx.execute("DELETE FROM networks WHERE id = ?", network_id)
