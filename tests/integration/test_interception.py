"""System calls of containers that the host answers: from the init's children and from commands, and under fire."""

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.waiting import soon, until

Make = Callable[..., str]

PREFIX = "security.syscalls.intercept."
EPERM = 1

PROBE = """
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
def attempt(call):
    try:
        call()
    except OSError as error:
        sys.exit(error.errno)
def check(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result
"""


@pytest.fixture
def make_guest(make_instance: Make, api: Api, daemon: Daemon) -> Callable[..., str]:
    """Start containers that have the host's Python: `make_guest(mknod=True, **{"mount.allowed": "ext4"})`."""

    def make(config: dict[str, str] | None = None, rc: str = "", devices: dict[str, object] | None = None) -> str:
        wanted = {PREFIX + key: value for key, value in (config or {}).items()}
        usr = {"type": "disk", "source": "/usr", "path": "/usr", "readonly": "true"}
        name = make_instance(start=False, config=wanted, devices={"usr": usr, **(devices or {})})
        if rc:
            # The init's script, as the image has it but for the end.
            script = "#!/bin/sh\nip link set lo up\n" + rc + "\ntouch /root/rc-ended\n"
            headers = {"X-LXD-type": "file", "X-LXD-mode": "0755"}
            status, _, content = api.raw("POST", f"/1.0/instances/{name}/files?path=/etc/rc", script.encode(), headers)
            assert status == 200, content
        api.set_state(name, "start")
        assert api.execute(name, "/bin/sh", "-c", "ln -s usr/lib64 /lib64; ln -s usr/lib /lib") == 0
        return name

    return make


def python(api: Api, name: str, code: str) -> int:
    """Run code in a container; the exit code is 0 or an error number."""
    return api.execute(name, "/usr/bin/python3", "-c", PROBE + code)


def shell(api: Api, name: str, command: str) -> int:
    return api.execute(name, "/bin/sh", "-c", command)


def helpers_of(daemon: Daemon) -> list[int]:
    """The processes that answer system calls."""
    files = (daemon.state_dir / "run").glob("*.intercept.pid")
    return [int(file.read_text().split()[0]) for file in files]


def inside(daemon: Daemon, name: str, path: str) -> Path:
    """A file of a container, as the host has it."""
    return daemon.state_dir / "containers" / name / "rootfs" / path


NODE = 'attempt(lambda: os.mknod("/root/node", 0o600 | 0o020000, os.makedev(%d, %d)))'


def test_nodes(api: Api, make_guest: Callable[..., str]) -> None:
    plain = make_guest()
    assert python(api, plain, NODE % (1, 3)) == EPERM
    name = make_guest({"mknod": "true"}, rc="mknod /root/by-init c 1 3; mknod /root/by-init-refused c 1 1")
    until(lambda: shell(api, name, "test -e /root/rc-ended") == 0, "the init's script has ended")
    assert shell(api, name, "test -c /root/by-init && ! test -e /root/by-init-refused") == 0
    for major, minor in ((1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 1)):
        assert python(api, name, NODE % (major, minor)) == 0, (major, minor)
        assert shell(api, name, "test -c /root/node && rm /root/node") == 0
    for major, minor in ((1, 1), (8, 0), (10, 200), (1, 2)):
        assert python(api, name, NODE % (major, minor)) == EPERM, (major, minor)
    assert python(api, name, 'attempt(lambda: os.mknod("/root/b", 0o060600, os.makedev(1, 3)))') == EPERM


def test_a_node_is_made_with_the_rights_of_who_asks(api: Api, make_guest: Callable[..., str]) -> None:
    name = make_guest({"mknod": "true"})
    assert python(api, name, "os.umask(0o077); os.chdir('/root'); attempt(lambda: os.mknod('r', 0o020666, 0x103))") == 0
    assert shell(api, name, 'test "$(stat -c "%a %u %g" /root/r)" = "600 0 0"') == 0
    code = "d = os.open('/root', os.O_PATH); attempt(lambda: os.mknod('d', 0o020666, 0x103, dir_fd=d))"
    assert python(api, name, code) == 0
    assert shell(api, name, "test -c /root/d && mkdir -m 777 /free && mkdir -m 700 /closed") == 0
    user = "os.setresgid(1000, 1000, 1000); os.setresuid(1000, 1000, 1000)\n"
    assert python(api, name, user + "attempt(lambda: os.mknod('/free/u', 0o020666, 0x103))") == EPERM
    # All capabilities in a namespace of one's own open no foreign directory.
    own = (
        user
        + """check(libc.prctl(4, 1, 0, 0, 0))
check(libc.unshare(0x10000000))
for file, text in (("setgroups", "deny"), ("uid_map", "0 1000 1"), ("gid_map", "0 1000 1")):
    open("/proc/self/" + file, "w").write(text)
"""
    )
    assert python(api, name, own + "attempt(lambda: os.mknod('/closed/u', 0o020666, 0x103))") == errno.EACCES
    assert python(api, name, own + "attempt(lambda: os.mknod('/free/u', 0o020666, 0x103))") == 0
    assert shell(api, name, 'test "$(stat -c "%u %g" /free/u)" = "1000 1000"') == 0
    assert python(api, name, "attempt(lambda: os.mknod('/free/u', 0o020666, 0x103))") == errno.EEXIST
    assert python(api, name, "attempt(lambda: os.mknod('/no/u', 0o020666, 0x103))") == errno.ENOENT


def test_an_attribute(api: Api, daemon: Daemon, make_guest: Callable[..., str]) -> None:
    code = 'os.makedirs("/root/d", exist_ok=True); attempt(lambda: os.setxattr("/root/d", "%s", b"%s"))'
    plain, name = make_guest(), make_guest({"setxattr": "true"})
    assert python(api, plain, code % ("trusted.overlay.opaque", "y")) == EPERM
    assert python(api, name, code % ("trusted.overlay.opaque", "y")) == 0
    assert os.getxattr(inside(daemon, name, "root/d"), "trusted.overlay.opaque") == b"y"
    assert python(api, name, code % ("trusted.overlay.opaque", "x")) == EPERM
    assert python(api, name, code % ("trusted.other", "y")) == EPERM
    assert python(api, name, code % ("user.mine", "y")) == 0
    user = "os.setresuid(1000, 1000, 1000)\n"
    assert python(api, name, user + code.replace("os.makedirs", "print") % ("trusted.overlay.opaque", "y")) != 0


@contextmanager
def block_device(directory: Path) -> Iterator[str]:
    """A loop device with an ext4 file system."""
    file = directory / "image"
    with open(file, "wb") as image:
        image.truncate(8 << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "root_owner=0:0", file], check=True)
    device = subprocess.run(
        ["losetup", "-f", "--show", file], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], check=True)


MOUNT = "libc.mount(b'/dev/data', b'/mnt', b'ext4', 0, None)"


def test_mounts(api: Api, make_guest: Callable[..., str], tmp_path: Path) -> None:
    with block_device(tmp_path) as device:
        disk = {"disk": {"type": "unix-block", "source": device, "path": "/dev/data"}}
        plain = make_guest(devices=disk)
        command = "mkdir -p /mnt && mount -t ext4 /dev/data /mnt"
        assert shell(api, plain, command) != 0
        name = make_guest({"mount": "true", "mount.allowed": "xfs,ext4"}, devices=disk)
        assert shell(api, name, command) == 0
        assert shell(api, name, "grep -q '^/dev/data /mnt ext4 rw' /proc/mounts") == 0
        assert shell(api, name, 'test "$(stat -c %u /mnt)" = 65534 && umount /mnt') == 0
        assert shell(api, name, "mount -t ext4 -o ro,nosuid /dev/data /mnt && grep ' /mnt ' /proc/mounts") == 0
        assert shell(api, name, "grep -q '^/dev/data /mnt ext4 ro,nosuid' /proc/mounts && umount /mnt") == 0
        # Live: the ids of the container, then not at all.
        key = PREFIX + "mount.shift"
        api.call("PATCH", f"/1.0/instances/{name}", {"config": {key: "true"}})
        assert shell(api, name, command + ' && test "$(stat -c %u /mnt)" = 0 && touch /mnt/x && umount /mnt') == 0
        user = "os.setresuid(1000, 1000, 1000); check(libc.unshare(0x10020000)); "
        assert python(api, name, user + f"attempt(lambda: check({MOUNT}))") in (EPERM, errno.EACCES)
        api.call("PATCH", f"/1.0/instances/{name}", {"config": {PREFIX + "mount.allowed": "xfs"}})
        assert shell(api, name, command) != 0
        assert shell(api, name, "mount -t tmpfs none /mnt && umount /mnt") == 0
        for one in (plain, name):
            api.set_state(one, "stop", force=True)


def test_a_mount_by_a_fuse_program(api: Api, make_guest: Callable[..., str]) -> None:
    name = make_guest({"mount": "true", "mount.fuse": "ext4=fuse2fs"})
    script = '#!/bin/sh\necho "$(id -u) $$ $*" > /root/told\nenv > /root/env\nexit $(cat /root/code)\n'
    headers = {"X-LXD-type": "file", "X-LXD-mode": "0755"}
    api.raw("POST", f"/1.0/instances/{name}/files?path=/sbin/mount.fuse", script.encode(), headers)
    assert shell(api, name, "mkdir /mnt; echo 0 > /root/code; mount -t ext4 -o ro,nosuid /dev/data /mnt") == 0
    assert shell(api, name, "grep -Eq '^0 [0-9]+ fuse2fs#/dev/data /mnt -o ro,nosuid$' /root/told") == 0
    assert shell(api, name, "! grep -q LXD /root/env") == 0
    assert shell(api, name, "echo 3 > /root/code; mount -t ext4 /dev/data /mnt") != 0


def test_sysinfo(api: Api, make_guest: Callable[..., str]) -> None:
    code = """
buffer = ctypes.create_string_buffer(112)
check(libc.sysinfo(buffer))
uptime, _, _, _, total, free, _, _, _, _, processes = struct.unpack_from("=q3Q6QH", buffer.raw)
sys.exit(not (total == 256 << 20 and 0 < free < total and uptime < 300 and processes < 50))
"""
    plain, name = make_guest(), make_guest({"sysinfo": "true"})
    for one in (plain, name):
        api.call("PATCH", f"/1.0/instances/{one}", {"config": {"limits.memory": "256MiB"}})
    assert python(api, plain, code) == 1
    assert python(api, name, code) == 0


def test_scheduling(api: Api, make_guest: Callable[..., str]) -> None:
    # Real time needs a share of the control group on some kernels; to leave SCHED_IDLE is also for the host's root.
    code = """
target = eval("%s")
os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
attempt(lambda: os.sched_setscheduler(target, os.SCHED_OTHER, os.sched_param(0)))
sys.exit(os.sched_getscheduler(0) != os.SCHED_OTHER)
"""
    plain, name = make_guest(), make_guest({"sched_setscheduler": "true"})
    assert python(api, plain, code % "0") == EPERM
    assert python(api, name, code % "0") == 0
    assert python(api, name, code % "os.getpid()") == 0
    assert python(api, name, code % "54321") == errno.ESRCH
    assert python(api, name, "os.setresuid(1000, 1000, 1000)\n" + code % "0") == EPERM
    assert python(api, name, "attempt(lambda: os.sched_setscheduler(0, 77, os.sched_param(0)))") == errno.EINVAL


def test_device_programs(api: Api, make_guest: Callable[..., str]) -> None:
    code = """
# r0 = 1; exit
program = ctypes.create_string_buffer(struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0))
words = ctypes.create_string_buffer(b"GPL")
def bpf(command, packed):
    buffer = ctypes.create_string_buffer(packed.ljust(72, b"\\0"), 72)
    return check(libc.syscall(321, command, buffer, 72))
def load(kind):
    return bpf(5, struct.pack("=IIQQ", kind, 2, ctypes.addressof(program), ctypes.addressof(words)))
os.makedirs("/groups", exist_ok=True)
check(libc.mount(b"none", b"/groups", b"cgroup2", 0, None))
os.makedirs("/groups/below", exist_ok=True)
def run():
    code = load(15)
    group = os.open("/groups/below", os.O_RDONLY)
    bpf(8, struct.pack("=IIII", group, code, 6, 2))
    bpf(9, struct.pack("=IIII", group, code, 6, 0))
"""
    plain, name = make_guest({"bpf": "true"}), make_guest({"bpf": "true", "bpf.devices": "true"})
    assert python(api, plain, code + "attempt(run)") == EPERM
    assert python(api, name, code + "attempt(run)") == 0
    # A filter of sockets is none of ours.
    assert python(api, name, code + "attempt(lambda: load(2))") == EPERM


def test_a_flood_disturbs_nobody(api: Api, daemon: Daemon, make_guest: Callable[..., str]) -> None:
    attacker, other = make_guest({"mknod": "true"}), make_guest({"mknod": "true"})
    flood = "while :; do mknod /root/n-$i c 1 3; rm -f /root/n-$i; done"
    assert shell(api, attacker, f"for i in 1 2 3 4 5 6; do ({flood}) </dev/null >/dev/null 2>&1 & done") == 0
    with soon("the daemon answers"):
        for _ in range(10):
            assert api.get(f"/1.0/instances/{attacker}/state")["status"] == "Running"
    with soon("another guest has its node"):
        assert python(api, other, NODE % (1, 3)) == 0
    with soon("the attacker is stopped"):
        api.set_state(attacker, "stop", force=True)
    assert len(helpers_of(daemon)) == 1


HANG = """
fuse = os.open("/dev/channel", os.O_RDWR)
place = "/hang%d" % os.getpid()
os.mkdir(place)
check(libc.mount(b"hang", place.encode(), b"fuse", 0, b"fd=%d,rootmode=40000,user_id=0,group_id=0" % fuse))
if os.fork() == 0:
    os.setsid()
    attempt(lambda: os.mknod(place + "/node", 0o020666, 0x103))
"""


def test_a_file_system_that_never_answers(api: Api, make_guest: Callable[..., str]) -> None:
    channel = {"type": "unix-char", "source": "/dev/fuse", "path": "/dev/channel", "mode": "0666"}
    name = make_guest({"mknod": "true"}, devices={"channel": channel})
    waited = HANG + "_, status = os.wait()\nsys.exit(os.waitstatus_to_exitcode(status))"
    with soon("the call is given up"):
        assert python(api, name, waited) == errno.ETIMEDOUT
    # Who waits in such a call is killed with the container at once.
    assert python(api, name, HANG + "import time; time.sleep(0.5); os._exit(0)") == 0
    with soon("the container is stopped"):
        api.set_state(name, "stop", force=True)


def test_the_daemon_may_die(api: Api, daemon: Daemon, make_guest: Callable[..., str]) -> None:
    name = make_guest({"mknod": "true"})
    loop = "while :; do rm -f /root/n; mknod /root/n c 1 3 2>/dev/null && echo >> /root/made; sleep 0.05; done"
    assert shell(api, name, f"({loop}) </dev/null >/dev/null 2>&1 &") == 0
    made = inside(daemon, name, "root/made")

    def more() -> bool:
        size = made.stat().st_size if made.exists() else 0
        return bool(until(lambda: made.exists() and made.stat().st_size > size + 2, "nodes are made"))

    assert more()
    (helper,) = helpers_of(daemon)
    daemon.kill()
    assert more()
    daemon.start()
    assert helpers_of(daemon) == [helper]
    assert more()
    os.kill(helper, signal.SIGKILL)
    until(lambda: helpers_of(daemon) not in ([], [helper]), "what answers was started again")
    assert more()
    # It ended while no daemon was there.
    (helper,) = helpers_of(daemon)
    daemon.kill()
    os.kill(helper, signal.SIGKILL)
    daemon.start()
    until(lambda: helpers_of(daemon) not in ([], [helper]), "what answers was started again")
    assert more()
    with daemon.api() as again:
        again.set_state(name, "restart", force=True)
        assert python(again, name, NODE % (1, 3)) == 0
        again.set_state(name, "stop", force=True)
    assert helpers_of(daemon) == []
    assert not list((daemon.state_dir / "run").glob("*.intercept*"))


def test_a_privileged_container_needs_none(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(config={PREFIX + "mknod": "true", "security.privileged": "true"})
    assert helpers_of(daemon) == []
    assert shell(api, name, "mknod /root/n c 1 3") == 0


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"mount": "true", "mount.fuse": "ext4"}, "not of the form"),
        ({"mount": "true", "mount.fuse": "ext4=fuse2fs", "mount.allowed": "xfs,ext4"}, "Filesystem ext4 cannot appear"),
    ],
)
def test_what_is_refused(api: Api, make_instance: Make, config: dict[str, str], reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        make_instance(start=False, config={PREFIX + key: value for key, value in config.items()})
