"""`recover`: asks which storage pools to look into, and has the daemon make the records of what it finds there."""

from __future__ import annotations

import json

from corral.cli import output
from corral.cli.command import UsageError
from corral.cli.daemon.control import local_server
from corral.cli.daemon.prompt import ask, ask_choice, ask_whether

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from corral.cli.command import Invocation
    from corral.client.server import Server

Pool = dict[str, "Any"]


def run(invocation: Invocation) -> int:
    """Ask, scan, show, ask again, recover. Raises CorralError."""
    if invocation.args:
        raise UsageError("Invalid arguments")
    product = invocation.session.product
    server = local_server(product)
    information = server.query("GET", "/1.0").metadata
    existing = server.query("GET", "/1.0/storage-pools?recursion=1").metadata
    output.line(f"This {product.title} server currently has the following storage pools:")
    for pool in existing:
        output.line(f" - {pool['name']} ({_details(pool)})")
    drivers = [one["Name"] for one in information["environment"]["storage_supported_drivers"]]
    added = [] if information["environment"].get("server_clustered") else _ask_pools(drivers)
    output.line("The recovery process will be scanning the following storage pools:")
    for word, pools in (("EXISTING", existing), ("NEW", added)):
        for pool in pools:
            output.line(f" - {word}: {json.dumps(pool['name'])} ({_details(pool)})")
    if not ask_whether("Would you like to continue with scanning for lost volumes?", default=True):
        return 0
    output.line("Scanning for unknown volumes...")
    body = {"pools": [*({"name": pool["name"]} for pool in existing), *added]}
    if not _scan(server, body):
        output.line("No unknown volumes found. Nothing to do.")
        return 0
    if not ask_whether("Would you like those to be recovered?", default=False):
        return 0
    output.line("Starting recovery...")
    server.query("POST", "/internal/recover/import", body)
    return 0


def _details(pool: Pool) -> str:
    source = json.dumps(pool["config"].get("source", ""))
    return f"backend={json.dumps(pool['driver'])}, source={source}"


def _ask_pools(drivers: list[str]) -> list[Pool]:
    added: list[Pool] = []
    while ask_whether("Would you like to recover another storage pool?", default=False):

        def check_name(name: str) -> str:
            if any(pool["name"] == name for pool in added):
                return f"Storage pool {json.dumps(name)} is already on recover list"
            return ""

        name = ask("Name of the storage pool", check=check_name)
        driver = ask_choice("Name of the storage backend", drivers, None)
        source = ask("Source of the storage pool (block device, volume group, dataset, path, ... as applicable)")
        config = {"source": source}
        while answer := ask(
            "Additional storage pool configuration property (KEY=VALUE, empty when done)", "", _check_property
        ):
            key, _, value = answer.partition("=")
            config[key] = value
        added.append({"name": name, "driver": driver, "config": config})
    return added


def _check_property(answer: str) -> str:
    return "" if not answer or "=" in answer else "Config option should be in the format KEY=VALUE"


def _scan(server: Server, body: dict[str, list[Pool]]) -> bool:
    """Show what is found until nothing is missing for it; whether there is anything."""
    while True:
        result = server.query("POST", "/internal/recover/validate", body).metadata
        unknown, problems = result["UnknownVolumes"] or [], result["DependencyErrors"] or []
        if unknown:
            output.line("The following unknown volumes have been found:")
        for one in unknown:
            name, pool, project = (json.dumps(one[key]) for key in ("name", "pool", "project"))
            output.line(
                f" - {one['type'].title()} {name} on pool {pool} in project {project}"
                f" (includes {one['snapshotCount']} snapshots)"
            )
        if not problems:
            return bool(unknown)
        output.line("You are currently missing the following:")
        for problem in problems:
            output.line(f" - {problem}")
        ask("Please create those missing entries and then hit ENTER", "")
