"""What a hostile root user of a container tries to reach of the host and of its neighbours, in vain."""

import ctypes
import itertools
import json
import os
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import remove_instance
from harness.api import Api, ApiError
from harness.cgroups import cgroup_file
from harness.daemon import Daemon

Make = Callable[..., str]

REFUSED_WRITES = (
    # What the kernel would run, as the host's root.
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/kernel/modprobe",
    "/proc/sys/kernel/hotplug",
    "/sys/kernel/uevent_helper",
    "/proc/sys/fs/binfmt_misc/register",
    "/proc/sysrq-trigger",
    # What is everybody's.
    "/proc/sys/kernel/panic",
    "/proc/sys/kernel/randomize_va_space",
    "/proc/sys/vm/overcommit_memory",
    "/proc/sys/vm/drop_caches",
    "/proc/sys/kernel/kptr_restrict",
    "/sys/power/state",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/module/kernel/parameters/panic",
)
REFUSED_READS = ("/proc/kcore", "/proc/kmsg", "/dev/mem", "/dev/kmem", "/dev/port", "/dev/kmsg")


@pytest.mark.parametrize("nesting", ["false", "true"])
def test_files_of_the_kernel(api: Api, make_instance: Make, nesting: str) -> None:
    name = make_instance(config={"security.nesting": nesting})
    places = ("", "/dev/.lxc") if nesting == "true" else ("",)
    for place in places:
        for path in REFUSED_WRITES:
            # Under other names too, which nesting shows.
            script = f"test -e {place}{path} || exit 1; echo 1 > {place}{path}"
            assert api.execute(name, "sh", "-c", script) != 0, f"{place}{path} was written"
        for path in REFUSED_READS:
            assert api.execute(name, "sh", "-c", f"head -c 1 {place}{path} | grep -q .") != 0, f"{place}{path} was read"


def test_control_groups(daemon: Daemon, api: Api, make_instance: Make) -> None:
    """A container sees its own groups alone, and cannot loosen its limits."""
    name = make_instance(config={"limits.memory": "64MiB", "limits.processes": "50"})
    script = (
        "for f in $(find /sys/fs/cgroup -name release_agent); do echo /x > $f && exit 10; done; "
        "for f in $(find /sys/fs/cgroup -name notify_on_release -maxdepth 2); do "
        'd=$(dirname $f); echo "$d" | grep -q "\\.\\." && exit 11; done; '
        "find /sys/fs/cgroup -name 'lxc.payload.*' -o -name 'lxc.monitor.*' | grep -q . && exit 12; exit 0"
    )
    assert api.execute(name, "sh", "-c", script) == 0
    for file, value in (
        ("devices.allow", "a"),
        ("memory.limit_in_bytes", "-1"),
        ("memory.max", "max"),
        ("pids.max", "max"),
    ):
        found = f"$(find /sys/fs/cgroup -maxdepth 2 -name {file})"
        api.execute(name, "sh", "-c", f"for f in {found}; do echo {value} > $f; done; true")
    config = api.get(f"/1.0/instances/{name}/state")
    assert config["processes"] <= 50
    pid = api.get(f"/1.0/instances/{name}/state")["pid"]
    for controller, v1, v2 in (("memory", "memory.limit_in_bytes", "memory.max"), ("pids", "pids.max", "pids.max")):
        assert cgroup_file(pid, controller, v1, v2).read_text().strip() in (str(64 << 20), "50")


SYSCALLS = {"kexec_load": 246, "open_by_handle_at": 304, "init_module": 175, "finit_module": 313, "delete_module": 176}
"""What does not exist in containers (x86_64)."""

CALLS = """
import ctypes, errno, sys
libc = ctypes.CDLL(None, use_errno=True)
buffer = ctypes.create_string_buffer(4096)
for number in NUMBERS:
    # Too few descriptors and bad addresses for the kernel: only a filter says ENOSYS.
    for call in (number, 0x40000000 | number):
        if libc.syscall(call, -1, 0, 0, 0, 0) != -1 or ctypes.get_errno() != errno.ENOSYS:
            sys.exit(f"{call}: {ctypes.get_errno()}")
if libc.umount2(b"/", 1) != -1 or ctypes.get_errno() != errno.EACCES:
    sys.exit(f"umount2: {ctypes.get_errno()}")
# What the container's init has, the command has.
with open("/proc/1/status") as init, open("/proc/self/status") as own:
    wanted = [line for line in init if line.startswith(("Seccomp", "Cap", "NoNew"))]
    found = [line for line in own if line.startswith(("Seccomp", "Cap", "NoNew"))]
sys.exit(0 if wanted == found else f"{wanted} {found}")
"""


@pytest.fixture
def python_guest(api: Api, make_instance: Make) -> Callable[[dict[str, str]], Callable[[str], int]]:
    """Makes a container that can run Python, the host's, and returns what runs a script in it."""

    def make(config: dict[str, str]) -> Callable[[str], int]:
        shown = {
            name: {"type": "disk", "source": f"/{name}", "path": f"/srv/{name}", "readonly": "true"}
            for name in ("usr",)
        }
        name = make_instance(config=config, devices=shown)
        loader = next(Path("/usr").glob("lib*/x86_64-linux-gnu/ld-linux-x86-64.so.2"), None) or Path(
            "/usr/lib64/ld-linux-x86-64.so.2"
        )
        libraries = "/srv/usr/lib/x86_64-linux-gnu"
        program = ["/srv" + str(loader), "--library-path", libraries, "/srv/usr/bin/python3", "-ISc"]
        links = "ln -s /srv/usr/lib /usr/ && ln -s /srv/usr/lib /srv/usr/lib64 /"
        setup = f"mkdir -p /usr && rm -rf /lib /lib64 /usr/lib && {links}"
        assert api.execute(name, "sh", "-c", setup) == 0

        def run(script: str) -> int:
            return api.execute(name, *program, script)

        return run

    return make


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize("privileged", ["false", "true"])
def test_system_calls(python_guest: Callable[[dict[str, str]], Callable[[str], int]], privileged: str) -> None:
    run = python_guest({"security.privileged": privileged})
    assert run("") == 0
    assert run(CALLS.replace("NUMBERS", repr([*SYSCALLS.values()]))) == 0


def test_commands_bring_nothing_of_the_host(daemon: Daemon, api: Api, make_instance: Make) -> None:
    """No descriptor, no variable, no group, no limit, no keyring of the daemon's comes in with a command."""
    for privileged in ("false", "true"):
        name = make_instance(config={"security.privileged": privileged})
        script = (
            "for fd in /proc/self/fd/*; do case $(readlink $fd) in "
            f"*{daemon.dir}*|anon_inode*|socket*|/dev/vd*|/dev/sd*|/dev/loop*) exit 10;; esac; done; "
            "ls /proc/self/fd | grep -qvE '^(0|1|2|3|10|255)$' && exit 11; "
            "env | grep -qiE 'LXD|CORRAL|SSH|SUDO|VIRTUAL_ENV|PYTHON' && exit 12; "
            "[ $(id -G | wc -w) = 1 ] || exit 13; "
            f"ls {daemon.dir} 2>/dev/null && exit 14; "
            "grep -q '^NoNewPrivs:.*0' /proc/self/status || exit 15; exit 0"
        )
        assert api.execute(name, "sh", "-c", script) == 0


IMPOSTOR = """#!/proc/self/exe
import os, sys
place = os.stat("/proc/self/exe")
if (place.st_dev, place.st_ino) == HOST:
    sys.exit(10)
try:
    os.close(os.open("/proc/self/exe", os.O_WRONLY))
except OSError:
    sys.exit(11)
sys.exit(12)
"""


def test_programs_of_the_host_cannot_be_changed(
    api: Api, python_guest: Callable[[dict[str, str]], Callable[[str], int]]
) -> None:
    """A script that names the program which executes it as its interpreter (CVE-2019-5736) gets a copy at most."""
    for config in ({"security.privileged": "true"}, {"security.privileged": "false"}):
        run = python_guest(config)
        host = os.stat(getattr(sys, "_base_executable", sys.executable))
        script = IMPOSTOR.replace("HOST", repr((host.st_dev, host.st_ino)))
        code = f"import os\nopen('/impostor', 'w').write({script!r})\nos.chmod('/impostor', 0o755)"
        assert run(code) == 0
        name = api.get("/1.0/instances")[-1].rpartition("/")[2]
        assert api.execute(name, "/impostor") == 11


KEYCTL, JOIN_SESSION, SEARCH, SESSION = 250, 1, 10, -3
ADD_KEY = 248

LOOK_FOR_KEYS = f"""
import ctypes, sys
libc = ctypes.CDLL(None, use_errno=True)
sys.exit(10 if libc.syscall({KEYCTL}, {SEARCH}, {SESSION}, b"user", b"secret-of-the-host", 0) >= 0 else 0)
"""


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers are x86_64's")
@pytest.mark.parametrize("privileged", ["false", "true"])
def test_keys_of_the_hosts_session(
    daemon: Daemon, python_guest: Callable[[dict[str, str]], Callable[[str], int]], privileged: str
) -> None:
    """What the daemon was started with are not the keys of commands."""
    libc = ctypes.CDLL(None, use_errno=True)
    daemon.kill()
    assert libc.syscall(KEYCTL, JOIN_SESSION, 0) >= 0
    try:
        assert libc.syscall(ADD_KEY, b"user", b"secret-of-the-host", b"secret", 6, SESSION) >= 0
        daemon.start()
        assert libc.syscall(KEYCTL, SEARCH, SESSION, b"user", b"secret-of-the-host", 0) >= 0
        run = python_guest({"security.privileged": privileged})
        assert run(LOOK_FOR_KEYS) == 0
        # Nor is one's the other's: a key that a command leaves is not the next one's.
        add = LOOK_FOR_KEYS.replace(f"{KEYCTL}, {SEARCH}, {SESSION}, b", f"{ADD_KEY}, b").replace(
            'host", 0)', f"host\", b'x', 1, {SESSION})"
        )
        assert run(add) == 10
        assert run(LOOK_FOR_KEYS) == 0
    finally:
        libc.syscall(KEYCTL, JOIN_SESSION, 0)


@pytest.fixture
def isolated(api: Api) -> Iterator[list[str]]:
    names = [f"island{number}" for number in range(6)]
    yield names
    for name in names:
        remove_instance(api, name)


def ranges_of(config: dict[str, str], key: str) -> list[tuple[int, int]]:
    entries = [one for one in json.loads(config[key]) if one["Isuid"]]
    return [(one["Hostid"], one["Hostid"] + one["Maprange"]) for one in entries]


def test_isolated_containers_share_no_id(daemon: Daemon, api: Api, isolated: list[str]) -> None:
    """Also when they are made at once, and when one runs on with the ids that its config had before."""

    def create(name: str) -> None:
        with daemon.api() as own:
            own.create(name, "busybox", config={"security.idmap.isolated": "true"})

    threads = [threading.Thread(target=create, args=(name,)) for name in isolated[:5]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    configs = {name: api.get(f"/1.0/instances/{name}")["config"] for name in isolated[:5]}
    found = sorted(range_ for config in configs.values() for range_ in ranges_of(config, "volatile.idmap.next"))
    assert all(first[1] <= second[0] for first, second in itertools.pairwise(found))
    runs = isolated[0]
    api.set_state(runs, "start")
    kept = ranges_of(api.get(f"/1.0/instances/{runs}")["config"], "volatile.idmap.current")
    api.call("PATCH", f"/1.0/instances/{runs}", {"config": {"security.idmap.isolated": "false"}})
    create(isolated[5])
    new = ranges_of(api.get(f"/1.0/instances/{isolated[5]}")["config"], "volatile.idmap.next")
    assert not [one for one in new for other in kept if one[0] < other[1] and other[0] < one[1]]


@pytest.mark.parametrize(
    "config", [{"raw.idmap": "both 1 1000"}, {"security.idmap.isolated": "true", "security.idmap.base": "0"}]
)
def test_ids_that_nobody_set_aside(api: Api, make_instance: Make, config: dict[str, str]) -> None:
    """The host's users are no container's, unless /etc/subuid says so, as in LXD."""
    name = make_instance(start=False, config=config)
    with pytest.raises(ApiError, match="/etc/subuid does not set aside"):
        api.set_state(name, "start")
