"""Asks who answers for an address on a link: a packet makes the kernel resolve it, and its table tells the outcome."""

import asyncio
import ipaddress
import json
import socket
import time
from collections.abc import Sequence

from corral.server.host.programs import command

_PATIENCE_S = 0.5
_PAUSE_S = 0.05
_PORT = 9


async def find_answering(link: str, addresses: Sequence[str]) -> list[str]:
    """Those of the addresses for which a neighbour on the link answers within half a second."""
    if not addresses:
        return []
    for address in addresses:
        _poke(link, address)
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        listed = await command.run(["ip", "-j", "neigh", "show", "dev", link], timeout_s=10)
        found = [entry for entry in json.loads(listed.stdout or "[]") if entry.get("lladdr")]
        known = {entry["dst"] for entry in found if {"REACHABLE", "DELAY", "PROBE"} & set(entry.get("state", []))}
        answering = [one for one in addresses if str(ipaddress.ip_address(one)) in known]
        # Looked at least once after the time: on a busy machine that may be the first look of all.
        if answering or time.monotonic() > deadline:
            return answering
        await asyncio.sleep(_PAUSE_S)


def _poke(link: str, address: str) -> None:
    """Send an empty datagram (discard) on the link, so that the kernel looks for the neighbour."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, link.encode())
        probe.setblocking(False)
        try:
            probe.sendto(b"", (address, _PORT))
        except OSError:
            return
