"""Answers sched_setscheduler(2) for the container's root, and sysinfo(2) with what the container may use."""

import errno
import os
import struct

from corral.helper.intercepted import kernel
from corral.helper.intercepted.caller import Caller, NotOurs, map_inside
from corral.helper.intercepted.kernel import CAP_SYS_NICE, CLONE_NEWPID

_GROUPS = "/sys/fs/cgroup"
_UNLIMITED = 1 << 60
_NO_CONTROLLER = ""


def sched_setscheduler(caller: Caller, target: int, policy: int, parameter_address: int) -> int:
    """Give a process of the container a scheduling policy that only the host's root may give."""
    if not 0 <= target < 1 << 31 or not 0 <= policy < 1 << 31:
        raise NotOurs
    priority = int.from_bytes(caller.read(parameter_address, 4), "little", signed=True)
    who = caller.identity
    inside = map_inside(caller.read_file("uid_map"), who.uid), map_inside(caller.read_file("gid_map"), who.gid)
    if inside != (0, 0):
        raise NotOurs
    if not caller.is_trusted_with(CAP_SYS_NICE):
        raise PermissionError(errno.EPERM, "The task may not set policies")
    namespace = caller.open("ns/pid")
    target = target or number_inside(caller.read_file("status"))
    caller.ensure_waiting()
    parameter = os.sched_param(priority)
    # The number means a process of the task's own namespace, which only a child enters: no other is ever reached.
    kernel.setns(namespace, CLONE_NEWPID)
    pid = os.fork()
    if pid == 0:
        try:
            kernel.hide()
            os.sched_setscheduler(target, policy, parameter)
            os._exit(0)
        except OSError as error:
            os._exit(error.errno or errno.EPERM)
        finally:
            os._exit(errno.EPERM)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number != 0:
        raise OSError(abs(number), os.strerror(abs(number)))
    return 0


def number_inside(status: str) -> int:
    """A task's number in its own pid namespace, by the text of /proc/TID/status."""
    for line in status.splitlines():
        name, _, numbers = line.partition(":")
        if name == "NSpid":
            return int(numbers.split()[-1])
    raise NotOurs


class Groups:
    """The control groups of a container, found by its init; version 1 and 2."""

    def __init__(self, table: str, name: str, root: str = _GROUPS) -> None:
        self._paths: dict[str, str] = {}
        for line in table.splitlines():
            _, controllers, path = line.split(":", 2)
            for controller in controllers.split(","):
                self._paths[controller] = payload_of(path, name)
        self._root = root

    def read(self, controller: str, v1: str, v2: str) -> str:
        """The text of a file by its names in the two versions, or ""."""
        if controller in self._paths:
            return _read(f"{self._root}/{controller}{self._paths[controller]}/{v1}")
        below = "/unified" if len(self._paths) > 1 else ""
        return _read(f"{self._root}{below}{self._paths.get(_NO_CONTROLLER, '')}/{v2}")

    def number(self, controller: str, v1: str, v2: str) -> int | None:
        """A file that holds one number; None where it is not there or says that there is no limit."""
        text = self.read(controller, v1, v2).strip()
        return int(text) if text.isdecimal() and int(text) < _UNLIMITED else None

    def statistics(self, controller: str, v1: str, v2: str) -> dict[str, int]:
        """A file of lines with a name and a number."""
        fields = (line.split() for line in self.read(controller, v1, v2).splitlines())
        return {one[0]: int(one[1]) for one in fields if len(one) == 2}


def payload_of(path: str, name: str) -> str:
    """The container's group in the path of its init's, which may have made groups below."""
    parts = path.split("/")
    for index, part in enumerate(parts):
        if part == f"lxc.payload.{name}" or part.startswith(f"lxc.payload.{name}-"):
            return "/".join(parts[: index + 1])
    return path


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:
        return ""


def _meminfo() -> dict[str, int]:
    lines = (line.replace(":", "").split() for line in _read("/proc/meminfo").splitlines())
    return {fields[0]: int(fields[1]) * 1024 for fields in lines if len(fields) > 1}


def collect(groups: Groups, init_pid: int) -> dict[str, int]:
    """The values of struct sysinfo for a container; loads are the host's."""
    host = _meminfo()
    uptime = float(_read("/proc/uptime").split()[0])
    started = int(_read(f"/proc/{init_pid}/stat").rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    limit = groups.number("memory", "memory.limit_in_bytes", "memory.max")
    total = min(limit or host["MemTotal"], host["MemTotal"])
    used = groups.number("memory", "memory.usage_in_bytes", "memory.current") or 0
    statistics = groups.statistics("memory", "memory.stat", "memory.stat")
    cache = statistics.get("cache", statistics.get("file", 0))
    shared = statistics.get("shmem", 0)
    processes = groups.number("pids", "pids.current", "pids.current") or 1
    swap, swapped = _swap(groups, host, limit, used)
    with open("/proc/loadavg", encoding="ascii") as file:
        loads = [int(float(word) * 65536) for word in file.read().split()[:3]]
    return {
        "uptime": max(0, int(uptime - started)),
        **{f"load{index}": load for index, load in enumerate(loads)},
        "totalram": total,
        "freeram": max(0, total - used),
        "sharedram": min(shared, total),
        "bufferram": min(cache, total),
        "totalswap": swap,
        "freeswap": max(0, swap - swapped),
        "procs": min(processes, 0xFFFF),
    }


def _swap(groups: Groups, host: dict[str, int], limit: int | None, used: int) -> tuple[int, int]:
    """Bytes of swap that the container may use, and that it uses."""
    both = groups.number("memory", "memory.memsw.limit_in_bytes", "-")
    if both is not None:
        in_use = groups.number("memory", "memory.memsw.usage_in_bytes", "-") or used
        allowed, swapped = max(0, both - (limit or 0)), max(0, in_use - used)
    else:
        most = groups.number("memory", "-", "memory.swap.max")
        swapped = groups.number("memory", "-", "memory.swap.current") or 0
        allowed = host["SwapTotal"] if most is None else most
    return min(allowed, host["SwapTotal"]), swapped


def pack(values: dict[str, int], *, wide: bool) -> bytes:
    """struct sysinfo, of a 64-bit or a 32-bit program."""
    names = ("totalram", "freeram", "sharedram", "bufferram", "totalswap", "freeswap")
    loads = [values[f"load{index}"] for index in range(3)]
    if wide:
        numbers = [values[name] for name in names]
        return struct.pack("=q3Q6QHH4xQQI4x", values["uptime"], *loads, *numbers, values["procs"], 0, 0, 0, 1)
    # In pages: bytes would not fit.
    numbers = [values[name] // 4096 for name in names]
    return struct.pack("=i3I6IHHIII8x", values["uptime"], *loads, *numbers, values["procs"], 0, 0, 0, 4096)


def sysinfo(caller: Caller, address: int, name: str, *, wide: bool) -> int:
    """Fill in what the container may use instead of what the host has."""
    with open(f"/proc/{caller.init_pid}/cgroup", encoding="utf-8") as file:
        groups = Groups(file.read(), name)
    data = pack(collect(groups, caller.init_pid), wide=wide)
    caller.ensure_waiting()
    if os.pwrite(caller.memory, data, address) != len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT))
    return 0
