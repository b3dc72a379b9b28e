"""AppArmor on Debian's kernel."""

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


def test_a_profile_for_each_container(api: Api, lxc: Client, daemon: Daemon, make_instance: Make) -> None:
    types = [warning["type"] for warning in api.get("/1.0/warnings?recursion=1")]
    assert "AppArmor support has been disabled" not in types
    name = make_instance()
    init = api.get(f"/1.0/instances/{name}/state")["pid"]
    assert label_of(init).startswith(f"lxd-{name}_<{daemon.state_dir}>")
    # What a command is confined by, as it sees it from the namespace of profiles inside.
    show = "cat /proc/self/attr/current /proc/1/attr/current"
    own, of_init = lxc("exec", name, "--", *show.split()).splitlines()
    assert own == of_init
    assert fails(lxc, name, "echo 1 > /proc/sys/vm/drop_caches")
    assert not fails(lxc, name, "mkdir /mnt && mount -t tmpfs none /mnt && umount /mnt && echo a > /root/secret")
    assert len(loaded(name)) == 1
    # Lines of its own, which apply at once.
    lxc("config", "set", name, "raw.apparmor", "deny /root/secret r,")
    assert fails(lxc, name, "cat /root/secret")
    assert "Parse AppArmor profile" in lxc.fails("config", "set", name, "raw.apparmor", "this is no rule")
    file = daemon.state_dir / "security/apparmor/profiles" / f"lxd-{name}"
    assert file.exists()
    api.set_state(name, "stop", force=True)
    assert loaded(name) == []
    api.delete(name)
    assert not file.exists()


def test_a_privileged_container_is_held_by_it(lxc: Client, make_instance: Make) -> None:
    # Its system calls are filtered too: commands get both.
    name = make_instance(config={"security.privileged": "true", "security.syscalls.deny": "symlink errno 1"})
    for path in ("/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/sys/kernel/uevent_helper"):
        assert fails(lxc, name, f"echo x > {path}"), path
    assert not fails(lxc, name, "mkdir -p /mnt && mount --bind /etc /mnt && umount /mnt")
    assert fails(lxc, name, "mount --bind /proc /mnt")
    assert fails(lxc, name, "ln -s a /root/link")
