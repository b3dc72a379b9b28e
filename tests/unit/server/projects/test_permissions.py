"""Limits and restrictions of projects: what holds after each change, also where changes come at once."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from corral.errors import CorralError, Forbidden, InvalidRequest
from corral.server.db import schema
from corral.server.db.database import Database, Tx
from corral.server.instances import store as instances
from corral.server.instances.model import InstanceType
from corral.server.instances.store import NewInstance
from corral.server.profiles import store as profiles
from corral.server.projects import limits, permissions, restrictions, store
from corral.server.projects.contents import CONTAINER, PROFILE, VIRTUAL_MACHINE, Contents, Entity
from corral.server.projects.model import Project

ROOT = {"type": "disk", "path": "/", "pool": "default"}


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "db.bin")
    await database.open(schema.cluster)
    yield database
    await database.close()


def _project(config: Mapping[str, str]) -> Project:
    return Project(2, "p", "", config)


def _contents(
    config: Mapping[str, str], *entities: Entity, volumes: Mapping[str, str | None] | None = None
) -> Contents:
    return Contents(
        _project(config),
        tuple(one for one in entities if one.kind != PROFILE),
        tuple(one for one in entities if one.kind == PROFILE),
        volumes or {},
    )


def _container(config: Mapping[str, str] | None = None, **devices: Mapping[str, str]) -> Entity:
    return Entity(CONTAINER, "c1", config or {}, devices)


def _add(tx: Tx, name: str, config: Mapping[str, str]) -> None:
    new = NewInstance("p", name, InstanceType.CONTAINER, 2, "2026-01-01T00:00:00Z", config, {}, ("default",))
    instances.insert_instance(tx, new)
    permissions.check(tx, "p", "instance creation")


async def _attempt(db: Database, number: int) -> bool:
    try:
        await db.write(_add, f"c{number}", {"limits.memory": "100MiB"})
    except Forbidden:
        return False
    return True


@pytest.mark.parametrize("limit", [{"limits.containers": "3"}, {"limits.instances": "3"}, {"limits.memory": "300MiB"}])
async def test_limits_hold_under_parallel_requests(db: Database, limit: dict[str, str]) -> None:
    await db.write(store.insert_project, "p", "", {"features.profiles": "true", **limit})
    made = await asyncio.gather(*(_attempt(db, number) for number in range(10)))
    assert sum(made) == 3
    assert len(await db.read(instances.list_names, "p")) == 3


async def test_a_profile_cannot_lift_its_instances_above_a_limit(db: Database) -> None:
    await db.write(store.insert_project, "p", "", {"features.profiles": "true", "limits.processes": "20"})
    await db.write(profiles.update_profile, "p", "default", "", {"limits.processes": "10"}, {})
    await db.write(_add, "c1", {})

    def change(tx: Tx) -> None:
        profiles.update_profile(tx, "p", "default", "", {"limits.processes": "30"}, {})
        permissions.check_profile(tx, "p")

    with pytest.raises(Forbidden, match=r'Reached maximum aggregate value "20" for "limits.processes" in project "p"'):
        await db.write(change)
    assert (await db.read(profiles.get_profile, "p", "default")).config == {"limits.processes": "10"}


async def test_limits_cannot_be_set_below_what_is_there(db: Database) -> None:
    await db.write(store.insert_project, "p", "", {"features.profiles": "true"})
    await db.write(_add, "c1", {"limits.memory": "2GiB", "security.nesting": "true"})
    project = await db.read(store.get_project, "p")
    for key, text, message in (
        ("limits.containers", "0", "too low: there currently are 1 instances of type container"),
        ("limits.instances", "0", "too low: there currently are 1 total instances"),
        ("limits.memory", "1GiB", '"limits.memory" is too low: current total is "2.0GiB"'),
        ("limits.cpu", "1", 'has no "limits.cpu" config'),
        ("restricted.containers.nesting", "block", "Container nesting is forbidden"),
    ):
        with pytest.raises(InvalidRequest, match=message):
            await db.read(permissions.check_new_config, project, {**project.config, key: text})
    await db.read(permissions.check_new_config, project, {**project.config, "limits.memory": "2GiB"})


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("limits.cpu", "0,1", "CPUs can't be pinned"),
        ("limits.memory", "10%", "can't be a percentage"),
        ("limits.memory", "", "has no"),
    ],
)
def test_limits_that_cannot_be_summed(key: str, value: str, message: str) -> None:
    with pytest.raises(Forbidden, match='project "p"') as raised:
        limits.total(_contents({}, _container({key: value})), key)
    assert message in f"{raised.value} {raised.value.__cause__}"


def test_disk_is_summed_over_roots_and_volumes() -> None:
    root = {**ROOT, "size": "10MiB"}
    contents = _contents({}, _container(root=root), volumes={"default/v": "5MiB"})
    assert limits.total(contents, "limits.disk") == 15 * 2**20
    with pytest.raises(Forbidden, match='Custom volume "v" in project "p" has no "size"'):
        limits.total(_contents({}, volumes={"default/v": None}), "limits.disk")
    with pytest.raises(Forbidden, match="on the root device"):
        limits.total(_contents({}, _container(root=ROOT)), "limits.disk")


FORBIDDEN: list[tuple[Entity, str]] = [
    (_container({"security.nesting": "true"}), "Container nesting is forbidden"),
    (_container({"security.privileged": "true"}), "Privileged containers are forbidden"),
    (_container({"raw.lxc": "x"}), 'Use of low-level config "raw.lxc"'),
    (_container({"raw.idmap": "both 0 0"}), 'Use of low-level "raw.idmap" element 0'),
    (_container({"security.syscalls.intercept.mknod": "true"}), "syscall interception is forbidden"),
    (_container({"security.syscalls.intercept.mount.allowed": "ext4"}), "low-level"),
    (_container({"security.syscalls.intercept.mount.fuse": "ext4=fuse2fs"}), "syscall interception is forbidden"),
    (_container({"security.syscalls.intercept.sysinfo": "true"}), "syscall interception is forbidden"),
    (_container({"security.syscalls.intercept.sched_setscheduler": "true"}), "low-level"),
    (_container({"raw.apparmor": "x"}), "low-level"),
    (Entity(PROFILE, "x", {"raw.qemu.conf": "x"}, {}), "low-level"),
    (Entity(VIRTUAL_MACHINE, "x", {"raw.apparmor": "x"}, {}), "low-level"),
    (Entity(PROFILE, "x", {"raw.qemu": "x"}, {}), 'on profile "x" of project "p"'),
    (_container(d={"type": "unix-char"}), "Unix character devices are forbidden"),
    (_container(d={"type": "gpu"}), "GPU devices are forbidden"),
    (_container(d={"type": "proxy"}), "Proxy devices are forbidden"),
    (_container(d={"type": "nic", "nictype": "p2p"}), "Only managed network devices are allowed"),
    (_container(d={"type": "disk", "source": "/x", "path": "/y"}), "not backed by a pool"),
]


@pytest.mark.parametrize(("entity", "message"), FORBIDDEN)
def test_what_a_restricted_project_forbids(entity: Entity, message: str) -> None:
    with pytest.raises(Forbidden, match=message):
        restrictions.check(_contents({"restricted": "true"}, entity))


@pytest.mark.parametrize(
    ("allowed", "key", "value", "is_allowed"),
    [
        ("allow", "mknod", "true", True),
        ("allow", "mount", "true", True),
        ("allow", "mount.fuse", "ext4=fuse2fs", True),
        ("allow", "sysinfo", "true", True),
        ("allow", "mount.allowed", "ext4", False),
        ("allow", "mount.shift", "true", False),
        ("allow", "sched_setscheduler", "true", False),
        ("full", "mknod", "true", True),
        ("full", "mount.allowed", "ext4", True),
        ("full", "sched_setscheduler", "true", True),
        ("block", "bpf.devices", "true", False),
        ("block", "bpf.devices", "0", True),
    ],
)
def test_interception(allowed: str, key: str, value: str, is_allowed: bool) -> None:
    config = {"restricted": "true", "restricted.containers.interception": allowed}
    contents = _contents(config, _container({f"security.syscalls.intercept.{key}": value}))
    if is_allowed:
        restrictions.check(contents)
    else:
        with pytest.raises(Forbidden):
            restrictions.check(contents)


def test_maps_of_their_own() -> None:
    config = {"restricted": "true", "restricted.containers.privilege": "isolated"}
    restrictions.check(_contents(config, _container({"security.idmap.isolated": "true"})))
    restrictions.check(_contents(config, Entity(PROFILE, "x", {}, {})))
    for value in ({}, {"security.idmap.isolated": "false"}, {"security.idmap.isolated": ""}):
        with pytest.raises(Forbidden, match="Non-isolated containers"):
            restrictions.check(_contents(config, _container(value)))


ALLOWED: list[tuple[dict[str, str], Entity]] = [
    ({}, _container(root=ROOT)),
    ({}, _container({"security.syscalls.intercept.mknod": "false"})),
    ({}, _container(d={"type": "nic", "network": "lxdbr0"})),
    ({}, _container(d={"type": "disk", "pool": "default", "source": "v", "path": "/v"})),
    ({"restricted.containers.nesting": "allow"}, _container({"security.nesting": "true"})),
    ({"restricted.containers.lowlevel": "allow"}, _container({"raw.lxc": "x", "raw.idmap": "both 0 0"})),
    (
        {"restricted.idmap.uid": "1000-1010", "restricted.idmap.gid": "1000"},
        _container({"raw.idmap": "both 1000 1000\nuid 1005-1010 5-10"}),
    ),
    ({"restricted.devices.disk": "allow"}, _container(d={"type": "disk", "source": "/x", "path": "/y"})),
    (
        {"restricted.devices.disk": "allow", "restricted.devices.disk.paths": "/srv,/data"},
        _container(d={"type": "disk", "source": "/data/x", "path": "/y"}),
    ),
    ({"restricted.devices.nic": "allow"}, _container(d={"type": "nic", "nictype": "p2p"})),
    ({"restricted.devices.gpu": "allow"}, _container(d={"type": "gpu"})),
]


@pytest.mark.parametrize(("config", "entity"), ALLOWED)
def test_what_a_restricted_project_allows(config: dict[str, str], entity: Entity) -> None:
    restrictions.check(_contents({"restricted": "true", **config}, entity))


@pytest.mark.parametrize("source", ["/database", "/data/../etc", "/srv/..", "/"])
def test_paths_outside_of_the_allowed_ones(source: str) -> None:
    project = _project({"restricted": "true", "restricted.devices.disk.paths": "/data,/srv"})
    assert not restrictions.allows_path(project, source)


def test_networks() -> None:
    def allows(config: dict[str, str], name: str, *, managed: bool = True) -> bool:
        return restrictions.allows_network(_project(config), name, managed=managed)

    assert allows({"restricted.devices.nic": "block"}, "a")
    assert not allows({"restricted": "true", "restricted.devices.nic": "block"}, "a")
    assert not allows({"restricted": "true"}, "eth0", managed=False)
    assert allows({"restricted": "true", "restricted.devices.nic": "allow"}, "eth0", managed=False)
    access = {"restricted": "true", "restricted.networks.access": "a, b"}
    assert allows(access, "b")
    assert not allows(access, "c")


def test_volatile_keys_stay_the_servers() -> None:
    project = _project({"restricted": "true"})
    present = {"volatile.uuid": "x"}
    restrictions.check_volatile(project, CONTAINER, "c1", {"volatile.uuid": "x", "user.a": "1"}, present)
    restrictions.check_volatile(project, CONTAINER, "c1", {"volatile.eth0.hwaddr": "x"}, {})
    with pytest.raises(Forbidden, match=r'Changing "volatile.uuid" on container "c1" in project "p" is forbidden'):
        restrictions.check_volatile(project, CONTAINER, "c1", {"volatile.uuid": "y"}, present)
    with pytest.raises(Forbidden, match=r'Setting "volatile.uuid"'):
        restrictions.check_volatile(project, CONTAINER, "c1", {"volatile.uuid": "y"}, {})
    restrictions.check_volatile(_project({}), CONTAINER, "c1", {"volatile.uuid": "y"}, {})


async def test_snapshots_backups_and_targets(db: Database) -> None:
    await db.write(store.insert_project, "p", "", {"features.profiles": "true", "restricted": "true"})
    with pytest.raises(Forbidden, match="doesn't allow for snapshot creation"):
        await db.read(permissions.check_snapshots, "p")
    with pytest.raises(Forbidden, match="doesn't allow for backup creation"):
        await db.read(permissions.check_backups, "p")
    with pytest.raises(CorralError, match="targeting"):
        await db.read(permissions.check_target, "p", "member")
    for check in (permissions.check_snapshots, permissions.check_backups):
        await db.read(check, "default")


async def test_the_budget_of_images(db: Database) -> None:
    await db.write(store.insert_project, "p", "", {"features.images": "true", "limits.disk": "10MiB"})
    await db.write(store.insert_project, "q", "", {"limits.disk": "10MiB"})
    assert await db.read(permissions.image_budget, "p") == 10 * 2**20
    assert await db.read(permissions.image_budget, "q") is None
