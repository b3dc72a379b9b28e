"""Starts containers by lxc-start, finds them again, and ends them. Knows liblxc; knows nothing of the database.

`lxc-start -d` returns once the container runs and leaves a small monitor behind that does not depend on the daemon.
It gets no PATH: without newuidmap in sight liblxc writes the id maps itself, which is faster, and root may.
"""

import asyncio
import contextlib
import errno
import logging
import os
import re
import shutil
import time
from functools import cache
from pathlib import Path

from corral.errors import CommandFailed, InternalError, NotSupported
from corral.server.host.isolation import apparmor, cgroup
from corral.server.host.programs import command, pidfd, processes
from corral.server.host.programs.liblxc_socket import Monitor
from corral.server.host.threads import in_thread
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import InstanceSpec

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0
KILL_TIMEOUT_S = 30.0
CHECKPOINT_TIMEOUT_S = 600.0
PARALLEL_STARTS = 4
"""More starts at once are slower in sum (they contend in the kernel)."""

_starts = asyncio.Semaphore(PARALLEL_STARTS)
_LOG_LINES = 4
PATH = os.defpath + ":/usr/sbin:/sbin"
_NO_PATH = "/nonexistent"
"""liblxc writes the id maps itself, and quicker, where it finds no newuidmap."""


@cache
def program_path(name: str) -> str:
    """A program of liblxc's; NotSupported where it is not installed."""
    found = shutil.which(name, path="/usr/bin:/usr/sbin:/bin:/sbin:/usr/local/bin")
    if found is None:
        raise NotSupported(f"{name} is not installed: install the package lxc to run containers")
    return found


def write_files(spec: InstanceSpec, config: str, policy: str | None) -> None:
    """Write what lxc-start reads, and move the log of the last start aside."""
    paths = spec.paths
    paths.log_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    log = paths.log_dir / "lxc.log"
    with contextlib.suppress(FileNotFoundError):
        log.rename(log.with_name("lxc.log.old"))
    paths.target.parent.mkdir(mode=0o700, exist_ok=True)
    paths.target.unlink(missing_ok=True)
    if paths.seccomp is not None and policy is not None:
        paths.seccomp.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths.seccomp.write_text(policy)
    paths.config.write_text(config)
    paths.config.chmod(0o600)


async def launch(instance_id: int, spec: InstanceSpec, lxcpath: Path) -> RunningContainer:
    """Start a container whose files are written, and return it running; raises InternalError with liblxc's reason."""
    program = (*apparmor.unconfined(), program_path("lxc-start"))
    argv: list[str | Path] = [*program, "-d", "-n", spec.name, "-P", lxcpath, "-f", spec.paths.config]
    try:
        async with _starts:
            await command.run(argv, env={"PATH": PATH if spec.has_users_hooks else _NO_PATH}, timeout_s=START_TIMEOUT_S)
    except CommandFailed as error:
        await wait_for_monitor(lxcpath, spec.name)
        reason = await in_thread(read_reason, spec.paths.log_dir / "lxc.log")
        raise InternalError(f"Failed to start the container {spec.hostname}: {reason or error}") from error
    try:
        return await in_thread(connect, instance_id, lxcpath, spec.name)
    except OSError as error:
        reason = await in_thread(read_reason, spec.paths.log_dir / "lxc.log")
        raise InternalError(
            f"Failed to start the container {spec.hostname}: it ended right after its start. {reason}"
        ) from error


def wait_for_starts(lxcpath: Path) -> None:
    """Wait until every lxc-start that a killed daemon left behind has ended: only then its container can be seen.

    What saves or restores a state is waited for as well: until its end the container is neither.
    """
    checkpoint = (("/lxc-checkpoint", CHECKPOINT_TIMEOUT_S), ("/criu", CHECKPOINT_TIMEOUT_S))
    for program, timeout_s in (("/lxc-start", START_TIMEOUT_S), *checkpoint):
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and any(_runs(pid, program, lxcpath) for pid in processes.list_pids()):
            time.sleep(0.02)


def _runs(pid: int, program: str, lxcpath: Path) -> bool:
    try:
        argv = processes.get_command_line(pid)
    except OSError:
        return False
    # First it may be the program that starts it without a profile.
    ours = any(one == str(lxcpath) or one.startswith(f"{lxcpath.parent}/") for one in argv)
    return ours and any(one.endswith(program) for one in argv)


def connect(instance_id: int, lxcpath: Path, name: str) -> RunningContainer:
    """The container that runs under a name; OSError where there is none."""
    monitor = Monitor(str(lxcpath), name)
    init_pid = monitor.get_init_pid()
    try:
        init_pidfd = monitor.get_init_pidfd()
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        # The monitor of a container that CRIU restored knows its number only.
        init_pidfd = pidfd.open_pidfd(init_pid)
    try:
        monitor_pid = processes.get_parent(init_pid)
        monitor_pidfd = pidfd.open_pidfd(monitor_pid)
    except BaseException:
        os.close(init_pidfd)
        raise
    return RunningContainer(instance_id, name, monitor, init_pid, init_pidfd, monitor_pid, monitor_pidfd)


async def destroy(lxcpath: Path, name: str) -> None:
    """Kill whatever runs under a name and wait until its monitor is gone; does nothing where nothing runs."""
    try:
        container = await in_thread(connect, 0, lxcpath, name)
    except OSError:
        await wait_for_monitor(lxcpath, name)
        return
    try:
        pidfd.kill_and_forget(container.init_pidfd)
        await pidfd.wait_exit(container.monitor_pidfd, KILL_TIMEOUT_S)
    except TimeoutError:
        pidfd.kill_and_forget(container.monitor_pidfd)
    finally:
        os.close(container.init_pidfd)
        os.close(container.monitor_pidfd)


async def wait_for_monitor(lxcpath: Path, name: str) -> None:
    """Wait for the end of a monitor that cannot be asked any more: it still cleans up after a start that failed.

    One that does not end is ended: it may wait for ever for a child that a seccomp policy kept from answering.
    """
    for pid in await in_thread(_find_monitors, f"[lxc monitor] {lxcpath} {name}"):
        if not await in_thread(processes.wait_until_gone, pid, KILL_TIMEOUT_S):
            log.warning("The monitor of container %s (pid %s) does not end by itself: it is killed", name, pid)
            await in_thread(processes.terminate, pid)
    await in_thread(_remove_monitor_groups, name)


def _remove_monitor_groups(name: str) -> None:
    """Remove the control groups that monitors of failed starts leave: they cannot, being in them to the end.

    Groups that are in use do not let themselves be removed.
    """
    hierarchies = cgroup.detect_hierarchies()
    own = [line.split(":", 2) for line in Path("/proc/self/cgroup").read_text().splitlines()]
    for _, controllers, path in own:
        mount = hierarchies.v1.get(controllers.removeprefix("name=").split(",")[0]) if controllers else None
        root = mount if controllers else hierarchies.unified
        for place in {path, "/"} if root is not None else ():
            for directory in Path(f"{root}{place}").glob(f"lxc.monitor.{name}*"):
                if re.fullmatch(rf"lxc\.monitor\.{re.escape(name)}(-[0-9]+)?", directory.name):
                    with contextlib.suppress(OSError):
                        directory.rmdir()


def _find_monitors(title: str) -> list[int]:
    found = []
    for pid in processes.list_pids():
        with contextlib.suppress(OSError):
            if processes.get_command_line(pid)[:1] == [title]:
                found.append(pid)
    return found


def read_target(path: Path) -> str:
    """Why the container ended: `reboot` or `stop`. The file is taken away."""
    try:
        text = path.read_text().strip()
    except FileNotFoundError:
        return "stop"
    path.unlink(missing_ok=True)
    return text or "stop"


_LINE = re.compile(r"\S+ \S+ \S+ (ERROR)\s+(\S+) - (.*)")


def read_reason(log: Path) -> str:
    """The first errors in liblxc's log: what comes after them only repeats that something failed."""
    try:
        lines = log.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    errors = [match[3] for line in lines if (match := _LINE.match(line))]
    found = [re.sub(r"^\S+:\S+:\d+ - ", "", text) for text in errors]
    return "; ".join(found[:_LOG_LINES])
