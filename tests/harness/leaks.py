"""What a host has more of after a test: processes, mounts, links, sockets, loop devices, nft chains, files."""

import contextlib
import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from harness.daemon import Daemon, loops
from harness.waiting import PATIENCE

KEPT_DIRECTORIES = ("containers", "virtual-machines", "devices", "images", "snapshots", "networks", "storage-pools")


def _namespaces(process: Path | str) -> set[str]:
    return {os.readlink(f"{process}/ns/net"), os.readlink(f"{process}/ns/mnt")}


def _ancestors() -> set[int]:
    found, pid = set(), os.getpid()
    while pid > 1:
        found.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return found


def _arguments(process: Path) -> str:
    return (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


def _processes() -> Iterator[str]:
    """The processes that share the network or the mounts of the tests."""
    ours, ancestors = _namespaces("/proc/self"), _ancestors()
    served: set[str] = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if int(process.name) not in ancestors and _namespaces(process) & ours:
                arguments = _arguments(process)
                if arguments in served:
                    continue
                if arguments.startswith("/usr/sbin/dnsmasq "):
                    # It forks for each connection by TCP: one of a network counts, however many they are.
                    served.add(arguments)
                # A daemon that was started anew has the same helpers, with other numbers of descriptors.
                yield "process: " + re.sub(r"\b\d+\b", "N", arguments or (process / "comm").read_text().strip())


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        yield f"mount: {line.split()[4]} ({line.partition(' - ')[2].split()[0]})"


def _links() -> Iterator[str]:
    for link in Path("/sys/class/net").iterdir():
        yield f"link: {link.name}"


def _sockets() -> Iterator[str]:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[3] == "00010000":  # listening
            yield f"listening socket: {fields[7]}"


def _firewall() -> Iterator[str]:
    done = subprocess.run(["nft", "-j", "list", "ruleset"], capture_output=True, text=True, check=False)
    for entry in json.loads(done.stdout or "{}").get("nftables", []):
        if "chain" in entry:
            chain = entry["chain"]
            yield f"nft chain: {chain['family']} {chain['table']} {chain['name']}"


def _files(daemon: Daemon) -> Iterator[str]:
    for name in KEPT_DIRECTORIES:
        top = daemon.state_dir / name
        depth = 2 if name == "storage-pools" else 0
        for level in range(depth + 1):
            for path in top.glob("/".join(["*"] * (level + 1))):
                yield f"file: {path.relative_to(daemon.state_dir)}"


def snapshot(daemons: list[Daemon]) -> Counter[str]:
    """All that could leak, as text."""
    found: Counter[str] = Counter()
    for probe in (_processes, _mounts, _links, _sockets, _firewall):
        found.update(probe())
    for daemon in daemons:
        found.update(f"loop device: {file}" for file in loops(daemon.dir).values())
        found.update(_files(daemon))
    return found


def added_since(before: Counter[str], daemons: list[Daemon], patience_s: float = 20.0) -> list[str]:
    """What is there now and was not before; waits for what ends by itself in the background."""
    deadline = time.monotonic() + patience_s * PATIENCE
    while True:
        added = sorted((snapshot(daemons) - before).elements())
        if not added or time.monotonic() > deadline:
            return added
        time.sleep(0.05)
