"""Specs and the liblxc configuration that is made of them."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from corral.errors import NotSupported
from corral.server.devices.model import Attachment, Mount, Nic
from corral.server.host.isolation.apparmor import AppArmor
from corral.server.host.isolation.cgroup import Hierarchies
from corral.server.host.isolation.idmap import IdRange
from corral.server.instances.container.lxc_config import lxc_config
from corral.server.instances.model import Instance
from corral.server.instances.security import idmaps, nvidia
from corral.server.instances.spec import (
    HostFacts,
    InstanceSpec,
    Paths,
    compose,
    compose_limits,
    memory_limit,
    parse_allowance,
    plan_cpus,
)
from harness import records

UNIFIED = Hierarchies({}, Path("/sys/fs/cgroup"), frozenset({"cpu", "cpuset", "memory", "pids", "io", "devices"}))
V1 = Hierarchies(
    {name: Path("/sys/fs/cgroup") / name for name in ("cpu", "cpuset", "memory", "pids", "blkio", "devices")}, None
)
FACTS = HostFacts(
    hierarchies=UNIFIED,
    memory_total=8 << 30,
    cpus=(0, 1, 2, 3),
    has_swap_limit=True,
    passthrough=(("/dev/fuse", False), ("/sys/kernel/debug", True)),
    lxcfs=("/proc/meminfo",),
)
PATHS = Paths(Path("/pool/c1/rootfs"), Path("/logs/c1"), Path("/state/run/c1.target"), Path("/state/seccomp/c1"))
IDMAP = idmaps.plan({}, idmaps.HostIds(IdRange(100000, 65536), IdRange(100000, 65536)), ()).idmap
NIC = Nic((("type", "veth"), ("link", "br0"), ("name", "eth0")), "veth1")


DEVICES = [
    f"lxc.cgroup2.devices.allow = {rule}"
    for rule in (
        "b *:* m",
        "c *:* m",
        "c 136:* rwm",
        *(f"c 1:{minor} rwm" for minor in (3, 5, 7, 8, 9)),
        *(f"c 5:{minor} rwm" for minor in (0, 1, 2)),
        "c 10:229 rwm",
        "c 10:200 rwm",
    )
]


def instance(**config: str) -> Instance:
    values = {key.replace("__", "."): value for key, value in config.items()}
    return records.instance(config=values)


def rendered(facts: HostFacts = FACTS, privileged: bool = False, **config: str) -> list[str]:
    idmap = (None, False) if privileged else (IDMAP, True)
    spec = compose(instance(**config), facts, PATHS, idmap, [Attachment(nic=NIC)])
    return lxc_config(spec, facts).splitlines()


def test_an_unprivileged_container() -> None:
    assert rendered() == [
        "lxc.log.file = /logs/c1/lxc.log",
        "lxc.log.level = warn",
        "lxc.console.buffer.size = auto",
        "lxc.console.size = auto",
        "lxc.console.logfile = /logs/c1/console.log",
        "lxc.mount.auto = proc:rw sys:rw cgroup:rw:force",
        "lxc.autodev = 1",
        "lxc.pty.max = 1024",
        "lxc.tty.max = 0",
        "lxc.arch = linux64",
        "lxc.uts.name = c1",
        "lxc.hook.version = 1",
        'lxc.hook.post-stop = 3>/dev/null; echo "$LXC_TARGET" > /state/run/c1.target; [ "$LXC_TARGET" != reboot ]',
        "lxc.apparmor.profile = unconfined",
        "lxc.seccomp.profile = /state/seccomp/c1",
        "lxc.idmap = u 0 100000 65536",
        "lxc.idmap = g 0 100000 65536",
        "lxc.cgroup2.devices.deny = a",
        *DEVICES,
        "lxc.rootfs.path = dir:/pool/c1/rootfs",
        "lxc.rootfs.options = idmap=container",
        "lxc.mount.entry = /dev/fuse dev/fuse none bind,create=file,optional 0 0",
        "lxc.mount.entry = /sys/kernel/debug sys/kernel/debug none rbind,create=dir,optional 0 0",
        "lxc.mount.entry = /dev/mqueue dev/mqueue none rbind,create=dir,optional 0 0",
        "lxc.mount.entry = /var/lib/lxcfs/proc/meminfo proc/meminfo none bind,optional 0 0",
        "lxc.net.0.type = veth",
        "lxc.net.0.link = br0",
        "lxc.net.0.name = eth0",
    ]


def test_a_privileged_container() -> None:
    lines = rendered(privileged=True)
    assert "lxc.mount.auto = proc:mixed sys:mixed cgroup:rw:force" in lines
    assert "lxc.cap.drop = sys_time sys_module sys_rawio mac_admin mac_override" in lines
    assert "lxc.cgroup2.devices.deny = a" in lines
    assert not [line for line in lines if "idmap" in line]
    inside = rendered(replace(FACTS, in_user_namespace=True), privileged=True)
    assert not [line for line in inside if "devices" in line]


@pytest.mark.parametrize(
    "config",
    [
        {"raw__lxc": "lxc.mount.entry = /dev/kvm dev/kvm none bind,create=file"},
        {"raw__lxc": "lxc.cgroup2.devices.allow = c 1:11 rwm"},
        {"raw__lxc": "lxc.hook.mount = /usr/local/bin/nodes"},
        {"raw__lxc": "lxc.include = /etc/extra.conf"},
        {"nvidia__runtime": "true"},
    ],
)
def test_who_is_shown_devices_otherwise_may_use_them(config: Any) -> None:
    assert "lxc.cgroup2.devices.deny = a" not in rendered(**config)
    assert "lxc.cgroup2.devices.deny = a" in rendered(**{**config, "security__privileged": "true"}, privileged=True)


def test_what_says_nothing_of_devices_changes_nothing_for_them() -> None:
    assert "lxc.cgroup2.devices.deny = a" in rendered(raw__lxc="lxc.signal.halt = SIGTERM")
    assert "lxc.cgroup.devices.deny = a" in rendered(replace(FACTS, hierarchies=V1))
    assert "lxc.cgroup.devices.deny = a" not in rendered(replace(FACTS, hierarchies=Hierarchies({}, None)))


def test_a_priority_that_the_host_does_not_know() -> None:
    facts = replace(FACTS, has_io_weight=False)
    with pytest.raises(NotSupported, match="Cannot apply"):
        compose_limits({"limits.disk.priority": "5"}, facts)
    assert not [setting for setting in compose_limits({}, facts, live=True) if setting.controller == "io"]
    assert [setting for setting in compose_limits({}, FACTS, live=True) if setting.controller == "io"]


def test_what_the_kernel_offers_to_guard_containers() -> None:
    lines = rendered(replace(FACTS, core_scheduling=True, apparmor=AppArmor(stacking=True)), privileged=True)
    assert "lxc.sched.core = 1" in lines
    assert "lxc.cap.drop = sys_time sys_module sys_rawio" in lines
    paths = replace(PATHS, apparmor="lxd-c1_</x>", intercept=Path("/state/run/1.intercept"))
    spec = compose(instance(), FACTS, paths, (IDMAP, True), [])
    assert {"lxc.apparmor.profile = lxd-c1_</x>", "lxc.seccomp.notify.proxy = unix:/state/run/1.intercept"} <= set(
        lxc_config(spec, FACTS).splitlines()
    )


def test_the_control_groups_of_version_1() -> None:
    lines = rendered(replace(FACTS, hierarchies=V1), limits__memory="64MiB", limits__processes="9")
    assert "lxc.mount.auto = proc:rw sys:rw cgroup:mixed" in lines
    assert "lxc.cgroup.memory.limit_in_bytes = 67108864" in lines
    assert "lxc.cgroup.memory.memsw.limit_in_bytes = 67108864" in lines
    assert "lxc.cgroup.pids.max = 9" in lines


def test_limits_environment_and_raw_lines() -> None:
    lines = rendered(
        limits__memory="50%",
        limits__cpu="0-1",
        limits__cpu__allowance="25ms/100ms",
        limits__kernel__nofile="1000:2000",
        environment__A="b c",
        security__nesting="true",
        raw__lxc="lxc.signal.halt = SIGTERM",
    )
    limits = [line for line in lines if line.startswith("lxc.cgroup2.") and ".devices." not in line]
    assert limits == [
        "lxc.cgroup2.memory.high = max",
        f"lxc.cgroup2.memory.max = {(8 << 30) // 100 * 50}",
        "lxc.cgroup2.memory.swap.max = 0",
        "lxc.cgroup2.cpu.max = 25000 100000",
        "lxc.cgroup2.cpuset.cpus = 0-1",
    ]
    assert "lxc.environment = A=b c" in lines
    assert "lxc.prlimit.nofile = 1000:2000" in lines
    assert "lxc.mount.entry = proc dev/.lxc/proc proc create=dir,optional 0 0" in lines
    assert lines[-1] == "lxc.signal.halt = SIGTERM"


def test_mounts_and_no_nic() -> None:
    mount = Mount(Path("/srv/my data"), "/mnt/a b", ("bind", "create=dir"), shifted=True)
    spec = compose(instance(), FACTS, PATHS, (IDMAP, False), [Attachment(mounts=(mount,))])
    lines = lxc_config(spec, FACTS).splitlines()
    assert "lxc.net.0.type = empty" in lines
    assert lines[-1] == "lxc.mount.entry = /srv/my\\040data mnt/a\\040b none bind,create=dir,idmap=container 0 0"
    assert "lxc.rootfs.options = idmap=container" not in lines


@pytest.mark.parametrize(
    ("allowance", "priority", "whole", "expected"),
    [
        ("", 10, 1024, (1024, None, 100000)),
        ("", 0, 1024, (1014, None, 100000)),
        ("", 7, 100, (97, None, 100000)),
        ("50%", 10, 1024, (512, None, 100000)),
        ("50%", 9, 100, (49, None, 100000)),
        ("100%", 10, 1024, (1024, None, 100000)),
        ("150%", 10, 1024, (1536, None, 100000)),
        ("0%", 0, 1024, (0, None, 100000)),
        ("20ms/50ms", 10, 1024, (1024, 20000, 50000)),
    ],
)
def test_cpu_allowances(allowance: str, priority: int, whole: int, expected: tuple[int, int | None, int]) -> None:
    assert parse_allowance(allowance, priority, whole) == expected


def test_memory_limits() -> None:
    assert memory_limit("512MiB", 1000) == 512 << 20
    assert memory_limit("10%", 1000) == 100


def spread(wanted: dict[str, str], count: int, nodes: dict[str, str] | None = None) -> dict[str, str]:
    limits = {name: {"limits.cpu": text} for name, text in wanted.items()}
    for name, text in (nodes or {}).items():
        limits.setdefault(name, {})["limits.cpu.nodes"] = text
    places = {cpu: cpu // 2 for cpu in range(count)}
    return plan_cpus(limits, replace(FACTS, cpus=tuple(range(count)), numa_nodes=places))


def test_cpus_are_spread() -> None:
    assert spread({"a": "2", "b": "2", "c": "1"}, 4) == {"a": "0-1", "b": "2-3", "c": "0"}
    assert spread({"pinned": "0-1", "a": "1", "b": "9"}, 3) == {"a": "2", "b": "0-2"}
    assert spread({"none": ""}, 2) == {}


def test_cpus_are_of_the_nodes() -> None:
    assert spread({"a": "1", "b": "1", "c": "3"}, 4, {"a": "1", "b": "1", "c": "0-1"}) == {
        "a": "2",
        "b": "3",
        "c": "0-2",
    }
    assert spread({}, 4, {"all": "1"}) == {"all": "2-3"}
    # A set of CPUs says more than nodes; nodes that are not there do not keep a container from running.
    assert spread({"pinned": "0-1"}, 4, {"pinned": "1"}) == {}
    assert spread({"a": "1"}, 4, {"a": "7"}) == {"a": "0"}


def test_the_nvidia_runtime_is_a_hook_with_variables() -> None:
    share = Attachment(nvidia_devices=("MIG-1",))
    config = {"nvidia__runtime": "true", "nvidia__require__cuda": "cuda>=11"}
    spec = compose(instance(**config), FACTS, PATHS, (IDMAP, True), [share])
    lines = lxc_config(spec, FACTS).splitlines()
    assert f"lxc.hook.mount = {nvidia.HOOK}" in lines
    assert {
        "lxc.environment = NVIDIA_VISIBLE_DEVICES=MIG-1",
        "lxc.environment = NVIDIA_DRIVER_CAPABILITIES=compute,utility",
        "lxc.environment = NVIDIA_REQUIRE_CUDA=cuda>=11",
    } <= set(lines)
    assert "NVIDIA_VISIBLE_DEVICES=none" in "\n".join(rendered(nvidia__runtime="true"))
    assert not any("NVIDIA" in line or "hook.mount" in line for line in rendered())


def test_only_hooks_of_the_user_need_a_search_path() -> None:
    def spec(**config: str) -> InstanceSpec:
        return compose(instance(**config), FACTS, PATHS, (IDMAP, True), [])

    assert not spec(nvidia__runtime="true").has_users_hooks
    assert spec(raw__lxc="lxc.hook.pre-start=/opt/x").has_users_hooks


def test_guest_api() -> None:
    paths = replace(PATHS, guest_api=Path("/var/lib/with space/devlxd"))
    lines = lxc_config(compose(instance(), FACTS, paths, (IDMAP, True), []), FACTS).splitlines()
    assert "lxc.mount.entry = /var/lib/with\\040space/devlxd dev/lxd none bind,ro,create=dir 0 0" in lines
    assert not [line for line in rendered() if "dev/lxd" in line]


def test_shares_of_what_containers_have_in_common() -> None:
    shared = replace(FACTS, shares=(("user.max_inotify_instances", "100"),))
    assert "lxc.sysctl.user.max_inotify_instances = 100" in rendered(shared)
    assert not any("max_inotify" in line for line in rendered(shared, privileged=True))
    # Who sets it has their way.
    own = rendered(shared, linux__sysctl__user__max_inotify_instances="7")
    assert [line for line in own if "max_inotify" in line] == ["lxc.sysctl.user.max_inotify_instances = 7"]
