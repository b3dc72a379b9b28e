"""nftables by its command-line tool: rules go in as one atomic script, tables come out as JSON."""

import errno
import json
import socket
from typing import Any

from corral.errors import CommandFailed
from corral.server.host.programs import command

TIMEOUT_S = 30.0

_NETLINK_NETFILTER = 12
_SOL_NETLINK = 270
_NETLINK_ADD_MEMBERSHIP = 1
_NFNLGRP_NFTABLES = 7


async def apply(script: str) -> None:
    """Run a script in one transaction. Raises CommandFailed with nft's message; nothing is changed then."""
    await command.run(["nft", "-f", "-"], stdin=script, timeout_s=TIMEOUT_S)


async def list_tables() -> list[tuple[str, str]]:
    """The family and the name of each table."""
    return [(table["family"], table["name"]) for table in await _list("tables") if "family" in table]


async def list_chains(family: str, table: str) -> list[str]:
    """The names of the chains of a table; empty where there is no such table."""
    chains = [item["chain"] for item in await _list_all("chains", family) if "chain" in item]
    return [chain["name"] for chain in chains if chain["table"] == table]


async def list_rules(family: str, table: str) -> list[dict[str, Any]]:
    """Everything in a table as nft's JSON objects; empty where there is no such table."""
    try:
        listed = await command.run(["nft", "-j", "list", "table", family, table], timeout_s=TIMEOUT_S)
    except CommandFailed:
        if (family, table) in await list_tables():
            raise
        return []
    items: list[dict[str, Any]] = json.loads(listed.stdout)["nftables"]
    return [item for item in items if "metainfo" not in item]


async def delete_table(family: str, table: str) -> None:
    """Delete a table with all in it, if it exists."""
    # Declaring it first makes the deletion succeed in any case.
    await apply(f"table {family} {table} {{}}\ndelete table {family} {table}\n")


async def _list(what: str) -> list[dict[str, Any]]:
    singular = what.removesuffix("s")
    return [item[singular] for item in await _list_all(what) if singular in item]


async def _list_all(what: str, family: str | None = None) -> list[dict[str, Any]]:
    argv = ["nft", "-j", "list", what, *([family] if family else [])]
    listed = await command.run(argv, timeout_s=TIMEOUT_S)
    items: list[dict[str, Any]] = json.loads(listed.stdout)["nftables"]
    return items


def open_monitor() -> socket.socket:
    """A socket that becomes readable whenever anybody changes nftables in this network namespace."""
    monitor = socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, _NETLINK_NETFILTER
    )
    try:
        monitor.bind((0, 0))
        monitor.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
    except OSError:
        monitor.close()
        raise
    return monitor


def drain_monitor(monitor: socket.socket) -> None:
    """Drop what the monitor has to tell; what changed is found by listing."""
    while True:
        try:
            monitor.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            # The kernel had more to tell than the socket could hold: that is news, too.
            if error.errno != errno.ENOBUFS:
                raise
