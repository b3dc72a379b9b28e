"""AppArmor and intercepted system calls on Debian's kernel, which has what confines containers."""

from collections.abc import Callable
from pathlib import Path

from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon

Make = Callable[..., str]
PROFILES = Path("/sys/kernel/security/apparmor/policy/profiles")


def fails(lxc: Client, name: str, command: str) -> bool:
    return lxc.run("exec", name, "--", "sh", "-c", command).returncode != 0


def loaded(name: str) -> list[str]:
    return [entry.name for entry in PROFILES.iterdir() if f"-{name}_" in entry.name]


def label_of(pid: int) -> str:
    return Path(f"/proc/{pid}/attr/current").read_text().strip()


def test_there_is_apparmor(api: Api) -> None:
    types = [warning["type"] for warning in api.get("/1.0/warnings?recursion=1")]
    assert "AppArmor support has been disabled" not in types


def test_a_profile_for_each_container(api: Api, lxc: Client, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance()
    profile = f"lxd-{name}_<{daemon.state_dir}>"
    init = api.get(f"/1.0/instances/{name}/state")["pid"]
    assert label_of(init).startswith(profile)
    # What a command is confined by, as it sees it from the namespace of profiles inside.
    own = lxc("exec", name, "--", "cat", "/proc/self/attr/current")
    assert own == lxc("exec", name, "--", "cat", "/proc/1/attr/current")
    assert fails(lxc, name, "echo 1 > /proc/sys/vm/drop_caches")
    assert not fails(lxc, name, "mount -t tmpfs none /mnt || mkdir /mnt && mount -t tmpfs none /mnt && umount /mnt")
    assert len(loaded(name)) == 1
    file = daemon.state_dir / "security/apparmor/profiles" / f"lxd-{name}"
    assert file.exists()
    api.set_state(name, "stop", force=True)
    assert loaded(name) == []
    api.delete(name)
    assert not file.exists()


def test_a_privileged_container_is_held_by_it(lxc: Client, make_instance: Make) -> None:
    name = make_instance(config={"security.privileged": "true"})
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper"):
        assert fails(lxc, name, f"echo x > {path}"), path
    assert not fails(lxc, name, "mkdir -p /mnt && mount --bind /etc /mnt && umount /mnt")
    assert fails(lxc, name, "mount --bind /proc /mnt")


def test_lines_of_its_own(api: Api, lxc: Client, make_instance: Make) -> None:
    name = make_instance()
    assert not fails(lxc, name, "echo a > /root/secret && cat /root/secret")
    lxc("config", "set", name, "raw.apparmor", "deny /root/secret r,")
    assert fails(lxc, name, "cat /root/secret")
    assert "Parse AppArmor profile" in lxc.fails("config", "set", name, "raw.apparmor", "this is no rule")
    assert fails(lxc, name, "cat /root/secret")
    lxc("config", "unset", name, "raw.apparmor")
    assert not fails(lxc, name, "cat /root/secret")


def test_nesting(lxc: Client, make_instance: Make) -> None:
    name = make_instance(config={"security.nesting": "true"})
    assert not fails(lxc, name, "mkdir -p /mnt && mount -t proc none /mnt && umount /mnt")
    lxc("config", "set", name, "security.nesting", "false")
    assert fails(lxc, name, "ls /proc/sys/fs/binfmt_misc && touch /proc/sys/fs/x")


def test_a_command_with_filtered_system_calls(lxc: Client, make_instance: Make) -> None:
    config = {"security.syscalls.intercept.mknod": "true", "security.syscalls.deny": "mkdirat errno 1\nmkdir errno 1"}
    name = make_instance(config=config)
    assert not fails(lxc, name, "mknod /root/node c 1 3 && test -c /root/node")
    assert fails(lxc, name, "mkdir /root/d")
    assert lxc("exec", name, "--", "cat", "/proc/self/attr/current") == lxc(
        "exec", name, "--", "cat", "/proc/1/attr/current"
    )
