"""System calls of containers that are answered on the host: which, by what policy, and the process that does it.

The process (helper/intercept) belongs to one container and outlives the daemon; nothing of it runs in the daemon. It
is started before the container, because liblxc connects then, and again should it die: liblxc connects again.
"""

import asyncio
import contextlib
import json
import logging
import os
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

from corral.errors import CommandFailed, InternalError, NotSupported
from corral.server.background import Background
from corral.server.context import Context
from corral.server.host import features
from corral.server.host.programs import helpers
from corral.server.host.threads import in_thread
from corral.server.instances import keys, store
from corral.server.instances.model import Instance, log_dir
from corral.server.instances.running import Running, RunningContainer
from corral.server.instances.spec import HostFacts
from corral.units import is_true

log = logging.getLogger(__name__)

CALLS = ("mknod", "sched_setscheduler", "setxattr", "sysinfo", "mount", "bpf")
"""The system calls that can be intercepted, as in `security.syscalls.intercept.NAME`."""

_PREFIX = "security.syscalls.intercept."
_NEED_CONTINUE = frozenset({"mount", "bpf"})
_NEED_ADDFD = frozenset({"bpf"})
_RETRY_S = 1.0


def wanted(config: Mapping[str, str], facts: HostFacts) -> tuple[str, ...]:
    """The system calls to intercept; a privileged container has its rights itself, one in another is the host's."""
    if is_true(config.get("security.privileged")) or facts.in_user_namespace:
        return ()
    return tuple(name for name in CALLS if is_true(config.get(_PREFIX + name)))


def check_supported(names: tuple[str, ...], kernel: Mapping[str, bool], lxc: Mapping[str, bool]) -> None:
    """Raise NotSupported where the kernel or liblxc cannot hand these system calls over."""
    if not names:
        return
    if not kernel.get("seccomp_listener"):
        raise NotSupported("Seccomp notify not supported: intercepting system calls needs Linux 5.0")
    if not (lxc.get("seccomp_notify") and lxc.get("seccomp_proxy_send_notify_fd")):
        raise NotSupported("LXC doesn't support seccomp notify: intercepting system calls needs liblxc 4.0")
    if _NEED_CONTINUE & set(names) and not kernel.get("seccomp_listener_continue"):
        raise NotSupported("Seccomp notify doesn't support continuing syscalls: that needs Linux 5.5")
    if _NEED_ADDFD & set(names) and not kernel.get("seccomp_listener_addfd"):
        raise NotSupported("Seccomp notify doesn't support adding file descriptors: that needs Linux 5.9")


def compose_policy(instance: Instance) -> dict[str, object]:
    """What the process may do for a container, as it reads it with every call."""
    config = instance.expanded_config
    return {
        "name": instance.storage_name,
        "mount": mount_policy(config),
        "mount_shift": is_true(config.get(_PREFIX + "mount.shift")),
        "bpf_devices": is_true(config.get(_PREFIX + "bpf.devices")),
    }


def mount_policy(config: Mapping[str, str]) -> dict[str, str]:
    """File systems that may be mounted: "" for those that the kernel mounts, else the FUSE program."""
    programs = keys.parse_fuse(config.get(_PREFIX + "mount.fuse", ""))
    allowed = config.get(_PREFIX + "mount.allowed", "")
    return {**programs, **{word: "" for word in allowed.split(",") if word and word not in programs}}


class Interceptors:
    """Watches the processes; one part of the daemon."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._watched: dict[int, int] = {}

    def watch(self, instance_id: int, pidfd: int) -> None:
        """Start the process again when it ends before its container does."""
        self.forget(instance_id)
        self._watched[instance_id] = pidfd
        asyncio.get_running_loop().add_reader(pidfd, self._ended, instance_id)

    def forget(self, instance_id: int) -> None:
        """Its end is no surprise any more."""
        pidfd = self._watched.pop(instance_id, -1)
        if pidfd >= 0:
            asyncio.get_running_loop().remove_reader(pidfd)
            os.close(pidfd)

    def close(self) -> None:
        """The processes go on without the daemon."""
        for instance_id in list(self._watched):
            self.forget(instance_id)

    def _ended(self, instance_id: int) -> None:
        self.forget(instance_id)
        container = self._context.parts[Running].find(instance_id)
        # It also ends with the container, whose end may be noticed after it.
        if container is not None:
            work = self._start_again(container)
            self._context.parts[Background].start("interception of system calls", work)

    async def _start_again(self, container: RunningContainer) -> None:
        await asyncio.sleep(_RETRY_S)
        instance = await self._context.db.read(store.find_instance, container.instance_id)
        if instance is None:
            return
        async with _lock(self._context, instance):
            if container.exited.is_set():
                return
            log.warning("What answers the system calls of %s ended: it is started again", instance.storage_name)
            await _start(self._context, instance)


def _lock(context: Context, instance: Instance) -> AbstractAsyncContextManager[None]:
    """Held while the process of an instance is started or ended."""
    return context.locks.hold("interception", str(instance.id))


def _pid_file(context: Context, instance: Instance) -> Path:
    return context.member.state_dir / "run" / f"{instance.id}.intercept.pid"


def _policy_file(context: Context, instance: Instance) -> Path:
    return context.member.state_dir / "run" / f"{instance.id}.intercept.json"


def socket_path(context: Context, instance: Instance) -> Path:
    """Where liblxc connects to; by number, for the path of a socket may not be long."""
    return context.member.state_dir / "run" / f"{instance.id}.intercept"


async def write_policy(context: Context, instance: Instance) -> None:
    """Write the policy; it holds from the next call on."""
    await in_thread(_write, _policy_file(context, instance), json.dumps(compose_policy(instance)))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


async def start(context: Context, instance: Instance) -> None:
    """Have a process answer the system calls of an instance; one that does so already is replaced."""
    async with _lock(context, instance):
        await _start(context, instance)


async def _start(context: Context, instance: Instance) -> None:
    await _stop(context, instance)
    await write_policy(context, instance)
    logs = log_dir(context.member, instance)
    await in_thread(logs.mkdir, mode=0o700, parents=True, exist_ok=True)
    setup = {
        "path": str(socket_path(context, instance)),
        "policy": str(_policy_file(context, instance)),
        "log": str(logs / "intercept.log"),
    }
    pid_file = _pid_file(context, instance)
    try:
        await helpers.start("intercept", setup, (), pid_file)
    except CommandFailed as error:
        reason = error.stderr.strip().rpartition("\n")[2] or str(error)
        raise InternalError(f"Failed to intercept the system calls of {instance.name}: {reason}") from error
    await _watch(context, instance)


async def _watch(context: Context, instance: Instance) -> bool:
    pidfd = await in_thread(helpers.find, _pid_file(context, instance))
    if pidfd is None:
        return False
    context.parts[Interceptors].watch(instance.id, pidfd)
    return True


async def adopt(context: Context, instance: Instance) -> None:
    """After a restart of the daemon: take over the process of a running instance, or start it where it is gone."""
    if await _has_policy(context, instance) and not await _watch(context, instance):
        await start(context, instance)


async def stop(context: Context, instance: Instance) -> None:
    """End the process and take away its files; nothing where there are none."""
    async with _lock(context, instance):
        await _stop(context, instance)


async def _stop(context: Context, instance: Instance) -> None:
    context.parts[Interceptors].forget(instance.id)
    pid_file = _pid_file(context, instance)
    if pid_file.exists():
        await helpers.stop(pid_file)
    for path in (socket_path(context, instance), _policy_file(context, instance)):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


async def prepare(context: Context, instance: Instance) -> tuple[str, ...]:
    """Before a start: the system calls to intercept, once it is certain that they can be."""
    names = wanted(instance.expanded_config, context.parts[HostFacts])
    if names:
        kernel = await in_thread(features.get_kernel_features)
        lxc = await in_thread(features.get_lxc_features)
        check_supported(names, {**kernel, "seccomp_listener_addfd": features.kernel_version() >= (5, 9)}, lxc)
    return names


async def update(context: Context, instance: Instance) -> None:
    """Have a running instance follow its changed policy."""
    if await _has_policy(context, instance):
        await write_policy(context, instance)


async def _has_policy(context: Context, instance: Instance) -> bool:
    """Whether the instance was started with interception."""
    path = _policy_file(context, instance)
    return await in_thread(os.path.exists, path)
