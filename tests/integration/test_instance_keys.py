"""The config keys of containers that no other test sees at work: in the kernel, at a start and live, or refused."""

import ctypes
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.cgroups import cgroup_file
from harness.daemon import Daemon

Make = Callable[..., str]
ROOT = {"type": "disk", "path": "/", "pool": "default"}

LIMITS = {
    "as": ("900000000", "Max address space"),
    "core": ("0:1000", "Max core file size"),
    "cpu": ("100:200", "Max cpu time"),
    "data": ("800000000", "Max data size"),
    "fsize": ("700000000", "Max file size"),
    "locks": ("50", "Max file locks"),
    "memlock": ("32768", "Max locked memory"),
    "msgqueue": ("1000", "Max msgqueue size"),
    "nice": ("0", "Max nice priority"),
    "nofile": ("100:200", "Max open files"),
    "nproc": ("1000:1100", "Max processes"),
    "rss": ("600000000", "Max resident set"),
    "rtprio": ("0", "Max realtime priority"),
    "rttime": ("5000000", "Max realtime timeout"),
    "sigpending": ("500", "Max pending signals"),
    "stack": ("4000000", "Max stack size"),
}


def pid_of(api: Api, name: str) -> int:
    pid: int = api.get(f"/1.0/instances/{name}/state")["pid"]
    return pid


def patch(api: Api, name: str, config: dict[str, str]) -> None:
    api.call("PATCH", f"/1.0/instances/{name}", {"config": config})


def status_of(pid: int, field: str) -> str:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(line.split()[1] for line in lines if line.startswith(f"{field}:"))


def test_limits_of_the_kernel(api: Api, make_instance: Make) -> None:
    name = make_instance(config={f"limits.kernel.{key}": value for key, (value, _) in LIMITS.items()})
    lines = Path(f"/proc/{pid_of(api, name)}/limits").read_text().splitlines()
    shown = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    for value, words in LIMITS.values():
        soft, _, hard = value.partition(":")
        assert shown[words] == [soft, hard or soft], words
    # They are those of processes that are there: a change waits for the next start.
    patch(api, name, {"limits.kernel.nofile": "300"})
    lines = Path(f"/proc/{pid_of(api, name)}/limits").read_text().splitlines()
    assert next(line for line in lines if line.startswith("Max open files")).split()[3:5] == ["100", "200"]
    with pytest.raises(ApiError, match="Unknown limit"):
        patch(api, name, {"limits.kernel.bogus": "1"})


def test_settings_of_the_kernel(api: Api, make_instance: Make) -> None:
    config = {"linux.sysctl.net.ipv4.ip_unprivileged_port_start": "700", "linux.sysctl.kernel.msgmax": "9000"}
    name = make_instance(config={**config, "environment.WORD": "a=b c", "raw.lxc": "lxc.environment = RAW=1"})
    pid = pid_of(api, name)
    argv = ["nsenter", "-t", str(pid), "-m", "-n", "-i", "cat"]
    files = ["/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/kernel/msgmax"]
    assert subprocess.run([*argv, *files], check=True, capture_output=True, text=True).stdout.split() == ["700", "9000"]
    environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    assert {b"WORD=a=b c", b"RAW=1"} <= set(environment)
    # The environment of a command is that of now.
    patch(api, name, {"environment.WORD": "new"})
    assert api.execute(name, "sh", "-c", '[ "$WORD" = new ]') == 0
    patch(api, name, {"linux.sysctl.net.no.such": "1"})
    with pytest.raises(ApiError, match=r"net\.no\.such"):
        api.set_state(name, "restart", force=True)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("raw.lxc", "lxc.arch = x", "Unsupported personality"),
        ("raw.lxc", "lxc.cap.drop = x", "Invalid capability"),
        ("raw.lxc", "lxc.include = /nonexistent", "No such file or directory"),
        ("raw.lxc", "lxc.tty.max = x", "lxc.tty.max = x"),
        ("raw.idmap", "x", "Invalid raw.idmap line"),
        ("nvidia.runtime", "true", "NVIDIA container tools couldn't be found"),
        ("linux.kernel_modules", "no_such_module", "Failed to load kernel module 'no_such_module'"),
        ("limits.cpu.allowance", "0ms/100ms", r"cpu\.(cfs_quota_us|max)"),
        ("limits.processes", "5000000", r"pids\.max"),
        ("limits.hugepages.2MB", "x", "Invalid value: x"),
        ("limits.hugepages.64KB", "x", "Invalid value: x"),
        ("limits.hugepages.1MB", "x", "Invalid value: x"),
        ("limits.hugepages.1GB", "x", "Invalid value: x"),
        ("limits.network.priority", "11", "Must be between 0 and 10"),
        ("cluster.evacuate", "maybe", "not one of auto"),
        ("migration.incremental.memory", "maybe", "Invalid value for a boolean"),
        ("migration.incremental.memory.iterations", "-1", "uint32"),
        ("migration.incremental.memory.goal", "x", "uint32"),
    ],
)
def test_what_a_running_container_refuses(api: Api, instance: str, key: str, value: str, reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        patch(api, instance, {key: value})
    assert key not in api.get(f"/1.0/instances/{instance}")["config"]


def test_shares_of_the_host(api: Api, make_instance: Make) -> None:
    limits = {
        "limits.cpu.nodes": "0",
        "limits.cpu.priority": "3",
        "limits.memory": "10%",
        "limits.memory.enforce": "soft",
        "limits.memory.swap.priority": "4",
        "limits.network.priority": "5",
    }
    # Accepted and kept: nothing to see without CRIU, a cluster.
    kept = {
        "migration.incremental.memory": "true",
        "migration.incremental.memory.goal": "80",
        "migration.incremental.memory.iterations": "5",
        "cluster.evacuate": "stop",
    }
    name = make_instance(config=limits | kept)

    def shown() -> list[str]:
        pid = pid_of(api, name)
        files = [
            cgroup_file(pid, "cpu", "cpu.shares", "cpu.weight"),
            cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus"),
            cgroup_file(pid, "memory", "memory.soft_limit_in_bytes", "memory.high"),
            cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max"),
        ]
        swappiness = cgroup_file(pid, "memory", "memory.swappiness", "memory.swappiness")
        return [file.read_text().strip() for file in (*files, *([swappiness] if swappiness.exists() else []))]

    (memory,) = re.findall(r"MemTotal: +(\d+) kB", Path("/proc/meminfo").read_text())
    tenth = int(memory) * 1024 // 100 * 10
    weight, cpus, high, maximum, *swappiness = shown()
    assert weight in ("1017", "93")
    assert cpus == Path("/sys/devices/system/node/node0/cpulist").read_text().strip()
    assert tenth - 4096 < int(high) <= tenth
    assert maximum in ("max", "9223372036854771712")
    assert swappiness in ([], ["66"])
    api.set_state(name, "restart", force=True)
    assert shown() == [weight, cpus, high, maximum, *swappiness]
    patch(api, name, {"limits.memory.swap": "false", "limits.cpu.priority": "", "limits.memory.enforce": ""})
    after = shown()
    assert after[0] in ("1024", "100")
    assert tenth - 4096 < int(after[3]) <= tenth
    assert after[4:] in ([], ["0"])
    patch(api, name, dict.fromkeys([*limits, "limits.memory.swap"], ""))
    assert shown()[2:] in ([["max", "max"], ["9223372036854771712", "9223372036854771712", "60"]])


def names_of_calls(besides: str) -> str:
    """The system calls that libseccomp knows, in the form of a policy, but for one."""
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_syscall_resolve_num_arch.restype = ctypes.c_char_p
    native = library.seccomp_arch_native()
    found = (library.seccomp_syscall_resolve_num_arch(native, number) for number in range(500))
    return "\n".join(name.decode() for name in found if name and name.decode() != besides)


@pytest.mark.parametrize(
    ("key", "value", "code", "mode"),
    [
        ("raw.seccomp", "2\ndenylist\n[all]\nmkdir errno 1\n", 1, "2"),
        ("security.syscalls.deny", "mkdir errno 1", 1, "2"),
        ("security.syscalls.blacklist", "mkdir errno 1", 1, "2"),
        ("security.syscalls.allow", names_of_calls("mkdir"), 159, "2"),
        ("security.syscalls.whitelist", names_of_calls("mkdir"), 159, "2"),
        ("security.syscalls.deny_default", "false", 0, "0"),
        ("security.syscalls.blacklist_default", "false", 0, "0"),
        ("security.syscalls.deny_compat", "true", 0, "2"),
        ("security.syscalls.blacklist_compat", "true", 0, "2"),
    ],
)
def test_system_calls(  # noqa: PLR0913  (a row of the table)
    api: Api, daemon: Daemon, make_instance: Make, key: str, value: str, code: int, mode: str
) -> None:
    name = make_instance(profiles=[], devices={"root": ROOT}, config={key: value})
    assert api.execute(name, "mkdir", "/tmp/made") == code
    assert status_of(pid_of(api, name), "Seccomp") == mode
    if "compat" in key:
        assert "compat_sys_ioctl" in (daemon.state_dir / "security/seccomp" / name).read_text()
    patch(api, name, {key: ""})
    # A policy is that of a start.
    assert status_of(pid_of(api, name), "Seccomp") == mode
    api.set_state(name, "restart", force=True)
    assert api.execute(name, "mkdir", "/tmp/after") == 0


@pytest.fixture
def user_5_set_aside(tmp_path: Path) -> Iterator[None]:
    """The host, as these tests see it, lets root hand its user and group 5 to containers."""
    files = [Path("/etc", name) for name in ("subuid", "subgid")]
    for file in files:
        own = tmp_path / file.name
        own.write_text(f"{file.read_text()}root:5:1\n")
        subprocess.run(["mount", "--bind", own, file], check=True)
    yield
    for file in files:
        subprocess.run(["umount", file], check=True)


@pytest.mark.usefixtures("user_5_set_aside")
def test_maps_of_ids(api: Api, make_instance: Make) -> None:
    def maps(name: str, kind: str) -> list[list[str]]:
        return [line.split() for line in Path(f"/proc/{pid_of(api, name)}/{kind}_map").read_text().splitlines()]

    isolated = {"security.idmap.isolated": "true", "security.idmap.size": "70000"}
    name = make_instance(profiles=[], devices={"root": ROOT}, config={**isolated, "security.idmap.base": "1300000"})
    assert maps(name, "uid") == [["0", "1300000", "70000"]]
    # What runs keeps its map.
    patch(api, name, {"security.idmap.isolated": "", "security.idmap.base": "", "security.idmap.size": ""})
    assert maps(name, "uid") == [["0", "1300000", "70000"]]
    patch(api, name, {"raw.idmap": "uid 0 1000\nboth 5 6"})
    api.set_state(name, "restart", force=True)
    assert ["1000", "0", "1"] in maps(name, "uid")
    assert ["6", "5", "1"] in maps(name, "uid")
    assert ["6", "5", "1"] in maps(name, "gid")
    assert all(first != "1000" for first, _, _ in maps(name, "gid"))


def test_a_root_that_cannot_be_written(api: Api, make_instance: Make) -> None:
    name = make_instance(profiles=[], devices={"root": {**ROOT, "readonly": "true"}})
    assert api.execute(name, "touch", "/file") == 1
    assert api.execute(name, "touch", "/run/file") == 0
