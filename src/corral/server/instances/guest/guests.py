"""What the guest API tells a container about itself, and which container a caller belongs to.

The caller is known by what the kernel says of its process: the pid namespace it is in, or, in a container that has
none of its own, whose descendant it is. Names of processes and the like, which guests choose, count for nothing.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from corral.api.guest import GuestServer
from corral.server.context import Context, Member
from corral.server.host.programs import peers
from corral.server.host.programs.peers import Namespace
from corral.server.instances.model import Devices, Instance
from corral.server.instances.running import Running, RunningContainer
from corral.server.instances.security import idmaps
from corral.units import is_true

READABLE = ("user.", "cloud-init.")
"""The families of keys that guests may read."""

MOUNT_POINT = "/dev/lxd"


def directory(member: Member) -> Path:
    """The directory with the socket; containers have it as /dev/lxd."""
    return member.state_dir / "devlxd"


def is_offered(config: Mapping[str, str]) -> bool:
    """Whether a container has the guest API."""
    return is_true(config.get("security.devlxd") or "true")


def offers_images(config: Mapping[str, str]) -> bool:
    """Whether a container may also fetch images."""
    return is_offered(config) and is_true(config.get("security.devlxd.images"))


def root_uid(instance: Instance) -> int:
    """The host's uid of the root user of a running container."""
    return root_ids(instance)[0]


def root_ids(instance: Instance) -> tuple[int, int]:
    """The host's uid and gid of the root user of a running container."""
    # Not by its configuration, which may have changed since it was started.
    idmap = idmaps.of_text(instance.config.get("volatile.idmap.current"))
    if idmap is None:
        return 0, 0
    return idmap.outside_uid(0) or 0, idmap.outside_gid(0) or 0


@dataclass(frozen=True, slots=True)
class Suspect:
    """A container that a process may belong to."""

    instance_id: int
    monitor_pid: int
    namespace: Namespace


def choose(
    suspects: Iterable[Suspect],
    namespaces: Sequence[Namespace],
    host: Namespace,
    ancestors: Callable[[], Iterable[int]],
) -> int | None:
    """The instance that a process with these pid namespaces (innermost first) belongs to, or None. Pure.

    Containers nest: the innermost that is ours counts. Where that does not tell one (`raw.lxc` can share the
    namespace with the host or between containers), and where no namespaces are known, `ancestors` do.
    """
    by_namespace: dict[Namespace, list[Suspect]] = {}
    by_monitor: dict[int, Suspect] = {}
    for suspect in suspects:
        by_namespace.setdefault(suspect.namespace, []).append(suspect)
        by_monitor[suspect.monitor_pid] = suspect
    found = next((by_namespace[one] for one in namespaces if one in by_namespace), [])
    if len(found) == 1 and found[0].namespace != host:
        return found[0].instance_id
    if namespaces and not found:
        return None
    return next((by_monitor[pid].instance_id for pid in ancestors() if pid in by_monitor), None)


def find_instance_id(running: Running, pid: int) -> int | None:
    """The instance that a process belongs to, or None. The caller sees to it that it is still the same process."""
    try:
        host = peers.get_pid_namespace(os.getpid())
        suspects = [suspect for one in running.list() if (suspect := _suspect(one)) is not None]
        try:
            namespaces = peers.list_pid_namespaces(pid)
        except PermissionError:  # in a container we may not look at processes that came from outside of it
            namespaces = []
        return choose(suspects, namespaces, host, lambda: peers.list_ancestors(pid))
    except OSError:
        return None


def _suspect(container: RunningContainer) -> Suspect | None:
    if container.pid_namespace is None:
        try:
            container.pid_namespace = peers.get_pid_namespace(container.init_pid)
        except OSError:
            return None
    return Suspect(container.instance_id, container.monitor_pid, container.pid_namespace)


def show_server(context: Context, instance: Instance) -> GuestServer:
    """What the guest learns about the server and itself."""
    return GuestServer(instance_type=instance.type.value, location=context.member.location)


def is_readable(key: str) -> bool:
    """Whether guests may read a key."""
    return key.startswith(READABLE)


def list_keys(config: Mapping[str, str]) -> list[str]:
    """The URLs of the keys that the guest may read."""
    return [f"/1.0/config/{key}" for key in sorted(config) if is_readable(key)]


def show_meta_data(instance: Instance) -> str:
    """The meta-data of cloud-init: who the machine is, and what the user added."""
    identity = instance.config.get("volatile.cloud-init.instance-id") or instance.name
    added = instance.expanded_config.get("user.meta-data", "")
    return f"#cloud-config\ninstance-id: {identity}\nlocal-hostname: {instance.name}\n{added}"


def show_devices(instance: Instance) -> Devices:
    """The devices, with the hardware addresses of NICs: the guest finds its interfaces by them."""
    shown = {}
    for name, device in instance.expanded_devices.items():
        hwaddr = instance.config.get(f"volatile.{name}.hwaddr", "")
        added = {"hwaddr": hwaddr} if device.get("type") == "nic" and hwaddr and not device.get("hwaddr") else {}
        shown[name] = {**device, **added}
    return shown
