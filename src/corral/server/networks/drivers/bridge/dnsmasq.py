"""Renders dnsmasq's arguments for a bridge (pure) and runs it: DHCP, router advertisements and names.

The process is none of the daemon's children: it lives on when the daemon ends, and is found again by the record of its
pid, believed only where /proc shows a dnsmasq with this network's configuration file.
"""

import contextlib
import json
import logging
import os
import re
import shutil
import signal
from dataclasses import dataclass
from pathlib import Path

from corral.errors import CommandFailed, Conflict, NotSupported
from corral.server.host.programs import command, pidfd, processes
from corral.server.host.threads import in_thread
from corral.server.networks.addresses import AddressRange, host
from corral.server.networks.drivers.bridge.plan import AddressFamily, BridgePlan
from corral.server.networks.site import Site

log = logging.getLogger(__name__)

RECORD = "dnsmasq.pid"
LEASES = "dnsmasq.leases"
HOSTS = "dnsmasq.hosts"
RAW = "dnsmasq.raw"
STOP_TIMEOUT_S = 5.0
START_TIMEOUT_S = 20.0

_PID_LINE = re.compile(r"^pid: ([0-9]{1,10})$", re.MULTILINE)


def render_arguments(plan: BridgePlan, site: Site) -> list[str]:
    """dnsmasq's arguments, without the program and without the file that it writes its pid to."""
    directory = site.directory(plan.name)
    arguments = [
        "--strict-order",
        "--bind-interfaces",
        "--except-interface=lo",
        "--no-ping",
        f"--interface={plan.name}",
        "--dhcp-rapid-commit",
    ]
    if not site.debug:
        arguments += ["--quiet-dhcp", "--quiet-dhcp6", "--quiet-ra"]
    if any(family.dhcp for family in plan.families):
        arguments += [
            "--dhcp-no-override",
            "--dhcp-authoritative",
            f"--dhcp-leasefile={directory / LEASES}",
            f"--dhcp-hostsfile={directory / HOSTS}",
        ]
    if plan.ipv4 is not None:
        arguments += _render_ipv4(plan, plan.ipv4)
    if plan.ipv6 is not None:
        arguments += _render_ipv6(plan, plan.ipv6)
    if plan.dns.mode != "none":
        arguments += ["-s", plan.dns.domain, "--interface-name", f"_gateway.{plan.dns.domain},{plan.name}"]
        arguments += ["-S", f"/{plan.dns.domain}/"]
    arguments += [f"--conf-file={directory / RAW}", f"--log-facility={log_path(plan.name, site)}"]
    return [*arguments, "-u", site.user, "-g", site.group]


def _render_ipv4(plan: BridgePlan, family: AddressFamily) -> list[str]:
    arguments = [f"--listen-address={family.gateway.ip}"]
    if not family.dhcp:
        return arguments
    if family.advertised_gateway:
        arguments.append(f"--dhcp-option-force=3,{family.advertised_gateway}")
    if plan.mtu != 1500:
        arguments.append(f"--dhcp-option-force=26,{plan.mtu}")
    if plan.dns.search:
        arguments.append(f"--dhcp-option-force=119,{plan.dns.search}")
    pools = family.ranges or (AddressRange(host(family.subnet, 2), host(family.subnet, -2)),)
    for pool in pools:
        arguments += ["--dhcp-range", f"{pool.first},{pool.last},{family.expiry}"]
    return arguments


def _render_ipv6(plan: BridgePlan, family: AddressFamily) -> list[str]:
    arguments = [f"--listen-address={family.gateway.ip}", "--enable-ra"]
    if not family.dhcp:
        return [*arguments, "--dhcp-range", f"::,constructor:{plan.name},ra-only"]
    if not family.stateful:
        return [*arguments, "--dhcp-range", f"::,constructor:{plan.name},ra-stateless,ra-names"]
    pools = family.ranges or (AddressRange(host(family.subnet, 2), host(family.subnet, -1)),)
    for pool in pools:
        arguments += ["--dhcp-range", f"{pool.first},{pool.last},{family.subnet.prefixlen},{family.expiry}"]
    return arguments


def log_path(network: str, site: Site) -> Path:
    """Where dnsmasq writes what it has to say."""
    return site.log_dir / f"dnsmasq.{network}.log"


@dataclass(frozen=True, slots=True)
class Running:
    """A dnsmasq that runs for a network, with the arguments it was started with."""

    pid: int
    arguments: tuple[str, ...]


def find_running(network: str, site: Site) -> Running | None:
    """The dnsmasq of a network where its record is true."""
    try:
        record = _PID_LINE.search((site.directory(network) / RECORD).read_text())
        if record is None:
            return None
        pid = int(record[1])
        words = processes.get_command_line(pid)
    except OSError:
        return None
    return Running(pid, tuple(words[1:])) if _serves(words, network, site) else None


async def ensure_running(plan: BridgePlan, site: Site) -> int:
    """Have dnsmasq run as planned, restarted only where something changed, and return its pid.

    Raises NotSupported where dnsmasq is not installed, Conflict where it cannot start, for example because another
    server holds the address's ports.
    """
    pid_file = site.directory(plan.name) / "dnsmasq.started"
    arguments = [*render_arguments(plan, site), f"--pid-file={pid_file}"]
    if (pid := await in_thread(_find_as_planned, plan, site, arguments)) is not None:
        return pid
    await stop(plan.name, site)
    program = await in_thread(_make_ready, site, pid_file)
    try:
        await command.run([program, *arguments], timeout_s=START_TIMEOUT_S)
    except CommandFailed as error:
        raise Conflict(_explain(plan.name, error)) from error
    pid = await in_thread(_record, plan.name, site, [program, *arguments], pid_file)
    log.info("Started dnsmasq for network %s with pid %d", plan.name, pid)
    return pid


def _find_as_planned(plan: BridgePlan, site: Site, arguments: list[str]) -> int | None:
    """Write its files and return the pid of one that runs so already, after it has read them again."""
    directory = site.directory(plan.name)
    (directory / HOSTS).mkdir(mode=0o755, exist_ok=True)
    changed = _write_if_changed(directory / RAW, f"{plan.raw_dnsmasq}\n")
    running = find_running(plan.name, site)
    if running is None or list(running.arguments) != arguments or changed:
        return None
    reload(plan.name, site)
    return running.pid


def _make_ready(site: Site, pid_file: Path) -> str:
    program = shutil.which("dnsmasq")
    if program is None:
        raise NotSupported(f"dnsmasq is required for {site.title} managed bridges: install the package dnsmasq-base")
    site.log_dir.mkdir(parents=True, exist_ok=True)
    pid_file.unlink(missing_ok=True)
    return program


def _record(network: str, site: Site, argv: list[str], pid_file: Path) -> int:
    pid = int(pid_file.read_text())
    pid_file.unlink()
    # JSON is YAML's flow style: a record that scripts for LXD can read.
    record = f"name: {json.dumps(argv[0])}\nargs: {json.dumps(argv[1:])}\npid: {pid}\n"
    _write_if_changed(site.directory(network) / RECORD, record)
    return pid


def _explain(network: str, error: CommandFailed) -> str:
    reason = error.stderr.strip().removeprefix("dnsmasq:").strip() or str(error)
    text = f'The DNS and DHCP service exited prematurely: dnsmasq of network "{network}": {reason}'
    if "in use" in reason:
        text += (
            " (another program serves DNS or DHCP there: find it with `ss -lntup` and stop it or change its address)"
        )
    return text


def _write_if_changed(path: Path, text: str) -> bool:
    with contextlib.suppress(FileNotFoundError):
        if path.read_text() == text:
            return False
    new = path.with_name(f"{path.name}.new")
    new.write_text(text)
    new.replace(path)
    return True


def reload(network: str, site: Site) -> None:
    """Have a running dnsmasq read its reservations again; nothing where none runs."""
    running = find_running(network, site)
    if running is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.pid, signal.SIGHUP)


async def stop(network: str, site: Site) -> None:
    """End a network's dnsmasq, wait until it is gone and drop its record; nothing where none runs.

    All processes are searched: a daemon that was killed may have left one that it had no time to record.
    """
    for pid in await in_thread(_list_running, network, site):
        with contextlib.suppress(ProcessLookupError):
            await _end(pid)
    await in_thread((site.directory(network) / RECORD).unlink, missing_ok=True)


def _list_running(network: str, site: Site) -> list[int]:
    found = []
    for pid in processes.list_pids():
        with contextlib.suppress(OSError):
            if _serves(processes.get_command_line(pid), network, site):
                found.append(pid)
    return found


def _serves(words: list[str], network: str, site: Site) -> bool:
    """Whether a command line is that of a network's dnsmasq."""
    return (
        bool(words)
        and os.path.basename(words[0]) == "dnsmasq"
        and f"--conf-file={site.directory(network) / RAW}" in words
    )


async def _end(pid: int) -> None:
    watch = pidfd.open_pidfd(pid)
    try:
        for number in (signal.SIGTERM, signal.SIGKILL):
            pidfd.send_signal(watch, number)
            with contextlib.suppress(TimeoutError):
                await pidfd.wait_exit(watch, STOP_TIMEOUT_S)
                return
    finally:
        os.close(watch)
