"""Saves the state of a running container and makes it run again, by CRIU.

A restore is lxc-checkpoint's, which becomes the container's monitor and tells CRIU what of the container is the host's;
what it does not tell is in a file of options that CRIU reads. A save is CRIU's own where control groups are unified:
there liblxc 5.0 cannot save a container a second time, for the monitor of a restored one knows no freezer.
"""

import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from corral.errors import CommandFailed, InternalError, NotSupported
from corral.server.host.filesystems import mount
from corral.server.host.isolation import apparmor
from corral.server.host.programs import command, terminal
from corral.server.host.threads import in_thread
from corral.server.instances.container import runtime
from corral.server.instances.running import RunningContainer
from corral.server.instances.spec import InstanceSpec

GHOST_LIMIT = 256 << 20
"""How large a deleted file that is still open may be to be kept with the state."""

_SAVE_OPTIONS = (
    *("--tcp-established", "--file-locks", "--link-remap", "--force-irmap", "--skip-in-flight"),
    *("--manage-cgroups=full", "--ext-mount-map", "auto", "--enable-external-sharing", "--enable-external-masters"),
    *("--enable-fs", "hugetlbfs", "--enable-fs", "tracefs"),
)
_NOISE = re.compile(r"tables(-legacy)?-save |^exited, status=")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_CONSOLE = "/dev/console"
_CONSOLE_KEY = "terminal"
_OPTIONS_NAME = "criu.conf"
_CONFIG_NAME = "lxc.conf"
_TERMINAL_NAME = "terminal"
_ROOT_NAME = "root"
_OUTPUT_NAME = "lxc-checkpoint.log"
_INVENTORY = "inventory.img"
_DONE = "Dumping finished successfully"
_LOG_LINES = 4
_LOG_TAIL = 64 * 1024
_LINE = re.compile(r"\(\s*\d+\.\d+\)\s*(?:\d+: )?(?:Error \([^)]*\): )(.*)")


@dataclass(frozen=True, slots=True)
class Target:
    """A container as lxc-checkpoint is told of it, and the directory of its state. `config` is what it started with."""

    name: str
    lxcpath: Path
    config: Path
    state: Path

    @property
    def argv(self) -> list[str | Path]:
        """What a save and a restore have in common."""
        return ["-n", self.name, "-P", self.lxcpath, "--rcfile", self.state / _CONFIG_NAME, "-D", self.state, "-v"]


def options(*more: str) -> str:
    """The file of options that CRIU reads. Pure."""
    lines = [f"ghost-limit {GHOST_LIMIT}", "network-lock nftables", *more]
    return "".join(f"{line}\n" for line in lines)


def config_of(config: str, root: Path | None = None) -> str:
    """The container's configuration as lxc-checkpoint gets it, perhaps with another path to the root. Pure.

    liblxc restores nothing whose console it has made inside: the terminal is given to CRIU by us. Nor does it give the
    root its id map again, so that the path has to be one of a mount that has it.
    """
    lines = [line for line in config.splitlines() if root is None or not line.startswith("lxc.rootfs.")]
    if root is not None:
        lines.append(f"lxc.rootfs.path = dir:{root}")
    return "\n".join([*lines, "lxc.console.path = none"]) + "\n"


def terminal_key(device: int, file_system: int) -> str:
    """What CRIU calls a terminal. Pure."""
    return f"tty[{device:x}:{file_system:x}]"


def save_argv(target: Target, init_pid: int, group: Path | None, *, stops: bool) -> list[str | Path]:
    """The arguments that save a container's state; with `stops` it ends when all is saved. Pure.

    `group` is the container's control group where these are unified.
    """
    if group is None:
        return [runtime.program_path("lxc-checkpoint"), *target.argv, *(["-s"] if stops else [])]
    argv: list[str | Path] = [runtime.program_path("criu"), "dump", "-t", str(init_pid), "--freeze-cgroup", group]
    argv += ["-D", target.state, "-o", target.state / "dump.log", "-v4", *_SAVE_OPTIONS]
    return argv if stops else [*argv, "--leave-running"]


def external_mounts(config: str) -> list[str | Path]:
    """The arguments that tell CRIU which mounts of a container are of the host's directories. Pure."""
    found: list[str | Path] = []
    for line in config.splitlines():
        key, _, entry = line.partition(" = ")
        fields = entry.split()
        if key == "lxc.mount.entry" and len(fields) >= 4 and {"bind", "rbind"} & set(fields[3].split(",")):
            target = _ESCAPED.sub(lambda match: chr(int(match[1], 8)), fields[1])
            found += ["--external", f"mnt[/{target.lstrip('/')}]:{target}"]
    return found


def restore_argv(target: Target) -> list[str | Path]:
    """The arguments that make a container run from its state."""
    return [*apparmor.unconfined(), runtime.program_path("lxc-checkpoint"), "-r", *target.argv]


async def save(target: Target, init_pid: int, group: Path | None, *, stops: bool) -> None:
    """Save a container's state in an empty directory; InternalError with CRIU's reason, and then it runs on."""
    await in_thread(_prepare_save, target, init_pid)
    argv = save_argv(target, init_pid, group, stops=stops)
    if group is not None:
        argv += external_mounts(await in_thread(target.config.read_text))
    try:
        await _run(target, argv)
    except CommandFailed as error:
        reason = await in_thread(explain, target.state, "dump")
        raise InternalError(f"Failed to save the state of {target.name}: {reason or error}") from error
    finally:
        await in_thread(_keep_log, target, "dump")
    await in_thread(_make_durable, target.state)


def _prepare_save(target: Target, init_pid: int) -> None:
    config = target.config.read_text()
    if any("idmap=container" in line for line in config.splitlines() if line.startswith("lxc.mount.entry")):
        raise NotSupported("CRIU cannot restore disk devices that are shifted: remove them, or restart without shift")
    _write(target.state / _CONFIG_NAME, config_of(config))
    more: list[str] = []
    found = terminal.identify(f"/proc/{init_pid}/root", _CONSOLE)
    if found is not None:
        key = terminal_key(found.st_rdev, found.st_dev)
        _write(target.state / _TERMINAL_NAME, f"{key} {found.st_uid} {found.st_gid}")
        more = [f"external {key}", f"external mnt[{_CONSOLE}]:{_CONSOLE_KEY}"]
    _write(target.state / _OPTIONS_NAME, options(*more))


async def restore(instance_id: int, spec: InstanceSpec, target: Target) -> RunningContainer:
    """Make a container run from its state, and return it; InternalError with CRIU's reason where it cannot."""
    try:
        root = await in_thread(_mount_root, spec, target)
        await in_thread(_write, target.state / _CONFIG_NAME, config_of(target.config.read_text(), root))
        await _restore(target)
        return await in_thread(runtime.connect, instance_id, target.lxcpath, target.name)
    except (CommandFailed, OSError) as error:
        await runtime.destroy(target.lxcpath, target.name)
        reason = await in_thread(explain, target.state, "restore")
        reason = reason or await in_thread(runtime.read_reason, spec.paths.log_dir / "lxc.log")
        raise InternalError(f"Failed to restore the state of {spec.hostname}: {reason or error}") from error
    finally:
        await in_thread(_keep_log, target, "restore")
        await in_thread(unmount_root, target.state)


async def _restore(target: Target) -> None:
    """Run lxc-checkpoint with a new terminal for the processes that had the container's console."""
    key, uid, gid = await in_thread(_read_terminal, target.state)
    master, slave = os.openpty()
    try:
        # As CRIU finds it right, for the container's root may not change it.
        os.fchown(slave, uid, gid)
        more = [f"inherit-fd fd[{slave}]:{key}", f"external mnt[{_CONSOLE_KEY}]:{os.ttyname(slave)}"] if key else []
        await in_thread(_write, target.state / _OPTIONS_NAME, options(*more))
        await in_thread(terminal.discard_output, master)
        await _run(target, restore_argv(target), (slave,))
    finally:
        os.close(master)
        os.close(slave)


def _read_terminal(state: Path) -> tuple[str, int, int]:
    """CRIU's name of the console, "" where there was none, and its owners."""
    try:
        text = (state / _TERMINAL_NAME).read_text()
    except FileNotFoundError:
        return "", 0, 0
    found = re.fullmatch(r"(tty\[[0-9a-f]+:[0-9a-f]+\]) ([0-9]+) ([0-9]+)", text)
    if found is None:
        raise InternalError("The saved state does not tell its console")
    return found[1], int(found[2]), int(found[3])


def _mount_root(spec: InstanceSpec, target: Target) -> Path | None:
    """The root with the id map of the container, where it had one."""
    if not spec.idmapped_root or spec.idmap is None:
        return None
    unmount_root(target.state)
    path = target.state / _ROOT_NAME
    path.mkdir(mode=0o700)
    with mount.user_namespace(spec.idmap.proc_map(uids=True), spec.idmap.proc_map(uids=False)) as userns:
        mount.bind_idmapped(spec.paths.root, path, userns)
    return path


def unmount_root(state: Path) -> None:
    """Take away what a restore, perhaps one that was cut short, mounted in a state's directory. Repeatable."""
    path = state / _ROOT_NAME
    if path.is_dir():
        mount.ensure_unmounted(path)
        path.rmdir()


async def _run(target: Target, argv: list[str | Path], fds: Sequence[int] = ()) -> None:
    env = {"PATH": runtime.PATH, "CRIU_CONFIG_FILE": str(target.state / _OPTIONS_NAME)}
    # Not a pipe: the monitor of a restored container keeps it.
    output = os.open(target.state / _OUTPUT_NAME, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    timeout_s = runtime.CHECKPOINT_TIMEOUT_S
    try:
        await command.run(argv, env=env, cwd="/", stdout=output, stderr=output, pass_fds=fds, timeout_s=timeout_s)
    finally:
        os.close(output)


def is_whole(state: Path) -> bool:
    """Whether CRIU has said of a directory that all of a container's state is in it."""
    return (state / _INVENTORY).is_file() and any(_DONE in line for line in _tail(state / "dump.log"))


def explain(state: Path, action: str) -> str:
    """Why CRIU (or liblxc, where it did not come that far) failed: the first errors that it wrote."""
    found = list(errors_of(_tail(state / f"{action}.log")))
    if not found:
        found = [line.strip() for line in _tail(state / _OUTPUT_NAME) if line.strip()]
    return "; ".join(list(dict.fromkeys(found))[:_LOG_LINES])


def errors_of(lines: Iterable[str]) -> Iterator[str]:
    """The errors in the lines of CRIU's log, without their time and place. Pure.

    It looks for programs of iptables in any case; that they are not there is no error.
    """
    for line in lines:
        if (match := _LINE.match(line)) and not _NOISE.search(match[1]):
            yield match[1].strip()


def _tail(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - _LOG_TAIL))
            return file.read().decode(errors="replace").splitlines()
    except OSError:
        return []


def _keep_log(target: Target, action: str) -> None:
    """Put CRIU's log with the other logs of the instance, where the API shows it."""
    moment = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    with contextlib.suppress(OSError):
        kept = target.config.with_name(f"snapshot_{action}_{moment}.log")
        shutil.copyfile(target.state / f"{action}.log", kept)
        kept.chmod(0o600)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text)
    path.chmod(0o600)


def _make_durable(state: Path) -> None:
    for path in (*state.iterdir(), state):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
