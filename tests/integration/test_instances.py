"""Instances on a real kernel, through the API."""

import json
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.api import Api, ApiError
from harness.cgroups import cgroup_file
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]


def get(api: Api, name: str) -> Any:
    return api.get(f"/1.0/instances/{name}")


def pid_of(api: Api, name: str) -> int:
    pid: int = api.get(f"/1.0/instances/{name}/state")["pid"]
    return pid


def test_the_keys_of_a_life(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(start=False, config={"user.a": "b"})
    config = get(api, name)["config"]
    assert config["user.a"] == "b"
    assert config["volatile.apply_template"] == "create"
    assert config["volatile.eth0.hwaddr"].startswith("00:16:3e:")
    assert config["volatile.last_state.idmap"] == "[]"
    assert get(api, name)["last_used_at"].startswith("1970")
    api.set_state(name, "start")
    started = get(api, name)
    assert started["status"] == "Running"
    assert "volatile.apply_template" not in started["config"]
    assert started["config"]["volatile.last_state.power"] == "RUNNING"
    assert started["config"]["volatile.idmap.current"] == started["config"]["volatile.idmap.next"]
    assert Path("/sys/class/net", started["config"]["volatile.eth0.host_name"]).exists()
    assert not started["last_used_at"].startswith("1970")
    directory = daemon.state_dir / "containers" / name
    base = json.loads(config["volatile.idmap.next"])[0]["Hostid"]
    assert (directory.stat().st_mode & 0o777, directory.stat().st_uid) == (0o100, base)
    assert (directory / "backup.yaml").exists()
    api.set_state(name, "stop", force=True)
    stopped = get(api, name)["config"]
    assert stopped["volatile.last_state.power"] == "STOPPED"
    assert "volatile.eth0.host_name" not in stopped
    assert (directory.stat().st_mode & 0o777, directory.stat().st_uid) == (0o100, 0)


def test_state(api: Api, instance: str) -> None:
    def addressed() -> Any:
        state = api.get(f"/1.0/instances/{instance}/state")
        addresses = state["network"]["eth0"]["addresses"]
        return state if any(one["scope"] == "global" and one["family"] == "inet" for one in addresses) else None

    state = until(addressed, "the container has an IPv4 address")
    assert state["pid"] > 1
    assert state["processes"] >= 1
    assert state["cpu"]["usage"] > 0
    assert state["memory"]["usage"] > 0
    eth0 = state["network"]["eth0"]
    assert eth0["host_name"] == get(api, instance)["config"]["volatile.eth0.host_name"]
    assert (eth0["type"], eth0["state"], eth0["mtu"]) == ("broadcast", "up", 1500)
    assert eth0["counters"]["bytes_sent"] > 0
    assert state["network"]["lo"]["type"] == "loopback"


def test_lists(api: Api, make_instance: Make) -> None:
    running, stopped = make_instance(), make_instance(start=False)
    names = sorted([running, stopped])
    assert api.get("/1.0/instances") == [f"/1.0/instances/{name}" for name in names]
    assert api.get("/1.0/containers") == [f"/1.0/containers/{name}" for name in names]
    assert api.get("/1.0/virtual-machines") == []
    full = {one["name"]: one for one in api.get("/1.0/instances?recursion=2")}
    assert full[running]["state"]["status"] == "Running"
    assert full[stopped]["state"] | {"disk": None} == {
        "status": "Stopped",
        "status_code": 102,
        "disk": None,
        "network": None,
        "pid": 0,
        "processes": 0,
        "cpu": {"usage": 0},
        "memory": {"usage": 0, "usage_peak": 0, "total": 0, "swap_usage": 0, "swap_usage_peak": 0},
    }
    assert full[stopped]["snapshots"] is None
    only = api.get("/1.0/instances?recursion=1&filter=status%20eq%20Running")
    assert [one["name"] for one in only] == [running]
    assert api.get(f"/1.0/instances/{running}?recursion=1")["state"]["pid"] > 0


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"name": "x", "source": {"type": "image", "alias": "nope"}}, "not found"),
        ({"name": "x", "source": {"type": "image", "fingerprint": "abcdef"}}, "not found"),
        ({"name": "x", "source": {"type": "image"}}, "Must specify one of alias, fingerprint or properties"),
        ({"name": "x", "source": {"type": "teapot"}}, "Unknown source type teapot"),
        ({"name": "1x", "source": {"type": "none"}}, "Name must not start with a number"),
        ({"name": "a/b", "source": {"type": "none"}}, "reserved for snapshots"),
        ({"name": "x", "source": {"type": "none"}, "profiles": ["nope"]}, "doesn't exist"),
        ({"name": "x", "source": {"type": "none"}, "profiles": []}, "No root device could be found"),
        ({"name": "x", "source": {"type": "none"}, "config": {"no.such": "1"}}, "Unknown configuration key: no.such"),
        ({"name": "x", "source": {"type": "none"}, "architecture": "s390x"}, "isn't supported by this host"),
        ({"name": "x", "source": {"type": "none"}, "devices": {"d": {"type": "teapot"}}}, "Unsupported device type"),
        (
            {
                "name": "x",
                "source": {"type": "none"},
                "devices": {"root": {"type": "disk", "path": "/", "pool": "nope"}},
            },
            "Storage pool not found",
        ),
        (
            {"name": "x", "source": {"type": "none"}, "devices": {"n": {"type": "nic", "network": "nope"}}},
            'Failed to load network "nope" for project "default"',
        ),
    ],
)
def test_what_cannot_be_made(api: Api, body: dict[str, Any], reason: str) -> None:
    with pytest.raises(ApiError, match=reason):
        api.run("POST", "/1.0/instances", body)
    assert api.get("/1.0/instances") == []


def test_an_image_by_its_properties_and_a_generated_name(api: Api) -> None:
    properties = api.get("/1.0/images?recursion=1")[0]["properties"]
    done = api.run("POST", "/1.0/instances", {"source": {"type": "image", "properties": properties}})
    (url,) = done["resources"]["instances"]
    assert done["description"] == "Creating instance"
    assert done["resources"]["containers"] == [url.replace("instances", "containers")]
    api.run("DELETE", url)


def test_an_empty_instance(api: Api, daemon: Daemon) -> None:
    api.run("POST", "/1.0/instances", {"name": "empty", "source": {"type": "none"}})
    try:
        assert (daemon.state_dir / "containers/empty/rootfs").is_dir()
        with pytest.raises(ApiError, match=r"Failed to start the container empty: .*init"):
            api.set_state("empty", "start")
        assert get(api, "empty")["status"] == "Stopped"
    finally:
        api.delete("empty")
    assert not (daemon.state_dir / "containers/empty").exists()


def test_a_taken_name_leaves_the_first_alone(api: Api, instance: str) -> None:
    with pytest.raises(ApiError, match=f'Instance "{instance}" already exists'):
        api.create(instance, "busybox")
    assert get(api, instance)["status"] == "Running"


def test_lists_and_patches_at_once(daemon: Daemon, make_instance: Make) -> None:
    """Changes to single keys lose none of each other's, and each is in the next list, whoever asks."""
    name = make_instance(start=False)

    def work(number: int) -> None:
        with daemon.api() as own:
            for turn in range(5):
                patch = {"config": {f"user.{number}.{turn}": "yes"}}
                own.call("PATCH", f"/1.0/instances/{name}", patch)
                listed = {one["name"]: one for one in own.get("/1.0/instances?recursion=1")}
                assert listed[name]["config"][f"user.{number}.{turn}"] == "yes"

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with daemon.api() as own:
        config = own.get(f"/1.0/instances/{name}")["config"]
    assert sum(key.startswith("user.") for key in config) == 20


def test_limits_change_live(api: Api, instance: str) -> None:
    change = {"limits.memory": "64MiB", "limits.processes": "77", "limits.cpu": "1"}
    api.call("PATCH", f"/1.0/instances/{instance}", {"config": change})
    pid = pid_of(api, instance)
    memory = cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")
    processes = cgroup_file(pid, "pids", "pids.max", "pids.max")
    assert (memory.read_text().strip(), processes.read_text().strip()) == (str(64 << 20), "77")
    assert cgroup_file(pid, "cpuset", "cpuset.cpus", "cpuset.cpus").read_text().strip().isdecimal()
    api.call("PATCH", f"/1.0/instances/{instance}", {"config": {"limits.memory": "", "limits.processes": ""}})
    assert memory.read_text().strip() in ("9223372036854771712", "max")
    assert processes.read_text().strip() == "max"
    api.set_state(instance, "restart", force=True)
    assert pid_of(api, instance) != pid


def test_limits_hold_from_the_start(api: Api, make_instance: Make) -> None:
    name = make_instance(config={"limits.memory": "32MiB", "limits.cpu.allowance": "20ms/100ms"})
    pid = pid_of(api, name)
    memory = cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max")
    assert memory.read_text().strip() == str(32 << 20)
    quota = cgroup_file(pid, "cpu", "cpu.cfs_quota_us", "cpu.max").read_text().split()[0]
    assert quota == "20000"


@pytest.fixture
def plain_bridge() -> Iterator[str]:
    """A bridge of the host's own: two NICs of one instance on a managed one would have the same name in its DNS."""
    subprocess.run(["ip", "link", "add", "ctplain0", "type", "bridge"], check=True)
    yield "ctplain0"
    subprocess.run(["ip", "link", "delete", "ctplain0"], check=True)


def test_a_nic_comes_and_goes(api: Api, plain_bridge: str, instance: str) -> None:
    nic = {"type": "nic", "nictype": "bridged", "parent": plain_bridge, "name": "extra"}
    api.call("PATCH", f"/1.0/instances/{instance}", {"devices": {"second": nic}})
    networks = api.get(f"/1.0/instances/{instance}/state")["network"]
    assert networks["extra"]["type"] == "broadcast"
    whole = get(api, instance)
    host_name = whole["config"]["volatile.second.host_name"]
    assert Path("/sys/class/net", plain_bridge, "brif", host_name).exists()
    del whole["devices"]["second"]
    api.run("PUT", f"/1.0/instances/{instance}", whole)
    assert "extra" not in api.get(f"/1.0/instances/{instance}/state")["network"]
    assert not Path("/sys/class/net", host_name).exists()
    assert not [key for key in get(api, instance)["config"] if key.startswith("volatile.second.")]


def test_a_profile_reaches_its_instances(api: Api, instance: str) -> None:
    profile = api.get("/1.0/profiles/default")
    try:
        api.call("PATCH", "/1.0/profiles/default", {"config": {"limits.processes": "55"}})
        assert get(api, instance)["expanded_config"]["limits.processes"] == "55"
        assert cgroup_file(pid_of(api, instance), "pids", "pids.max", "pids.max").read_text().strip() == "55"
        with pytest.raises(ApiError, match="relies on this profile's root disk device"):
            api.call("PUT", "/1.0/profiles/default", profile | {"devices": {}})
        assert api.get("/1.0/profiles/default")["devices"] == profile["devices"]
    finally:
        api.call("PUT", "/1.0/profiles/default", profile)


def test_a_directory_of_the_host(api: Api, daemon: Daemon, make_instance: Make, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("hello")
    tmp_path.chmod(0o755)
    disk = {"type": "disk", "source": str(tmp_path), "path": "/mnt/it", "readonly": "true"}
    name = make_instance(devices={"it": disk})
    root = Path(f"/proc/{pid_of(api, name)}/root")
    assert (root / "mnt/it/file").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only"):
        (root / "mnt/it/new").write_text("x")
    assert (daemon.state_dir / "devices" / name / "disk.it.mnt-it/file").exists()
    api.set_state(name, "stop", force=True)
    assert not (daemon.state_dir / "devices" / name).exists()
    with pytest.raises(ApiError, match="Missing source path"):
        make_instance(start=False, devices={"it": disk | {"source": "/nope/nope"}})


def test_a_privileged_container(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(config={"security.privileged": "true"})
    assert Path(f"/proc/{pid_of(api, name)}/uid_map").read_text().split() == ["0", "0", "4294967295"]
    api.set_state(name, "stop", force=True)
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"security.privileged": "false"}})
    api.set_state(name, "start")
    assert Path(f"/proc/{pid_of(api, name)}/uid_map").read_text().split()[:2] != ["0", "0"]
    assert get(api, name)["config"]["volatile.last_state.idmap"] == "[]"
    assert (daemon.state_dir / "containers" / name / "rootfs/bin").stat().st_uid == 0


def test_isolated_maps_differ(api: Api, make_instance: Make) -> None:
    first = make_instance(config={"security.idmap.isolated": "true"})
    second = make_instance(config={"security.idmap.isolated": "true"})
    maps = [Path(f"/proc/{pid_of(api, name)}/uid_map").read_text().split() for name in (first, second)]
    assert maps[0][2] == maps[1][2] == "65536"
    assert int(maps[1][1]) - int(maps[0][1]) == 65536


def test_rename(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance()
    with pytest.raises(ApiError, match="Renaming of running container not allowed"):
        api.run("POST", f"/1.0/instances/{name}", {"name": "renamed"})
    api.set_state(name, "stop", force=True)
    api.run("POST", f"/1.0/instances/{name}", {"name": "renamed"})
    try:
        assert not (daemon.state_dir / "containers" / name).is_symlink()
        assert (daemon.state_dir / "containers/renamed/rootfs").is_dir()
        api.set_state("renamed", "start")
        assert api.execute("renamed", "sh", "-c", "test $(hostname) = renamed") == 0
        api.set_state("renamed", "stop", force=True)
        with pytest.raises(ApiError, match="already in use"):
            api.run("POST", "/1.0/instances/renamed", {"name": make_instance(start=False)})
    finally:
        api.delete("renamed")


def test_freeze(api: Api, instance: str) -> None:
    api.set_state(instance, "freeze")
    assert get(api, instance)["status"] == "Frozen"
    with pytest.raises(ApiError, match="already frozen"):
        api.set_state(instance, "freeze")
    api.set_state(instance, "unfreeze")
    assert get(api, instance)["status"] == "Running"
    api.set_state(instance, "freeze")
    api.set_state(instance, "stop", force=True)
    assert get(api, instance)["status"] == "Stopped"
    api.set_state(instance, "start")
    api.set_state(instance, "freeze")
    api.set_state(instance, "stop")
    assert get(api, instance)["status"] == "Stopped"


def test_one_verb_at_a_time(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance()
    # An init that is stopped by a signal cannot answer the request to power off.
    slow = api.start("PUT", f"/1.0/instances/{name}/state", {"action": "stop", "timeout": 60})
    with pytest.raises(ApiError, match='Instance is busy running a "stop" operation'):
        api.set_state(name, "freeze")
    with pytest.raises(ApiError, match='Instance is busy running a "stop" operation'):
        api.run("PUT", f"/1.0/instances/{name}", get(api, name))
    api.set_state(name, "stop", force=True)
    api.wait(slow)
    assert get(api, name)["status"] == "Stopped"
    api.set_state(name, "start")
    for pending in ("stop", "restart"):
        slow = api.start("PUT", f"/1.0/instances/{name}/state", {"action": pending, "timeout": 60})
        api.set_state(name, "restart", force=True)
        api.wait(slow)
        assert get(api, name)["status"] == "Running"


def test_two_starts_are_one(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(start=False)
    results: list[str] = []

    def start() -> None:
        with daemon.api() as own:
            try:
                own.set_state(name, "start")
                results.append("started")
            except ApiError as error:
                results.append(error.message)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "started" in results
    assert set(results) <= {"started", "The instance is already running"}
    assert get(api, name)["status"] == "Running"


def test_bulk(api: Api, make_instance: Make) -> None:
    names = sorted(make_instance(start=False) for _ in range(3))
    done = api.run("PUT", "/1.0/instances", {"state": {"action": "start"}})
    assert done["resources"]["instances"] == [f"/1.0/instances/{name}" for name in names]
    assert {one["status"] for one in api.get("/1.0/instances?recursion=1")} == {"Running"}
    api.run("PUT", "/1.0/instances", {"state": {"action": "stop", "force": True}})
    assert {one["status"] for one in api.get("/1.0/instances?recursion=1")} == {"Stopped"}
    with pytest.raises(ApiError, match="Unknown action: 'dance'"):
        api.run("PUT", "/1.0/instances", {"state": {"action": "dance"}})


def test_protection(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False, config={"security.protection.delete": "true"})
    with pytest.raises(ApiError, match="Container is protected"):
        api.delete(name)
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"security.protection.delete": "false"}})


def test_what_cannot_be_changed(api: Api, make_instance: Make) -> None:
    name = make_instance(start=False)
    whole = get(api, name)
    config = {key: value for key, value in whole["config"].items() if key != "volatile.idmap.next"}
    with pytest.raises(ApiError, match="Volatile idmap keys can't be deleted by the user"):
        api.run("PUT", f"/1.0/instances/{name}", whole | {"config": config})
    with pytest.raises(ApiError, match="Unknown configuration key"):
        api.run("PUT", f"/1.0/instances/{name}", whole | {"config": whole["config"] | {"nope": "1"}})
    with pytest.raises(ApiError, match="Requested profile"):
        api.run("PUT", f"/1.0/instances/{name}", whole | {"profiles": ["nope"]})
    with pytest.raises(ApiError, match="ETag"):
        api.call("PUT", f"/1.0/instances/{name}", whole, **{"If-Match": "nonsense"})
    assert get(api, name) == whole


def test_a_failing_start_says_why_and_leaves_nothing(api: Api, daemon: Daemon, make_instance: Make) -> None:
    name = make_instance(start=False, config={"raw.lxc": "lxc.mount.entry = /nope mnt none bind 0 0"})
    with pytest.raises(ApiError, match="Failed to mount"):
        api.set_state(name, "start")
    assert get(api, name)["status"] == "Stopped"
    assert not list((daemon.state_dir / "run").iterdir())
    assert not list((daemon.state_dir / "security/seccomp").iterdir())
    assert not list(Path("/sys/fs/cgroup").rglob(f"lxc.*.{name}*"))


def test_permissions_of_a_file_that_is_there(api: Api, make_instance: Callable[..., str]) -> None:
    path = f"/1.0/instances/{make_instance()}/files?path=/root/f"

    def push(**headers: str) -> None:
        sent = {f"X-LXD-{key.replace('_', '-')}": value for key, value in headers.items()}
        assert api.raw("POST", path, b"text", sent)[0] == 200

    def shown() -> tuple[str, str]:
        headers = {name.lower(): value for name, value in api.raw("GET", path)[1].items()}
        return headers["x-lxd-mode"], headers["x-lxd-uid"]

    push(mode="0640", uid="5")
    push(mode="0600", uid="6")
    assert shown() == ("0640", "5")
    push(mode="0600", uid="6", modify_perm="mode")
    assert shown() == ("0600", "5")


def test_an_image_that_needs_nesting(api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False, config={"image.requirements.nesting": "true"})
    with pytest.raises(ApiError, match="requires nesting"):
        api.set_state(name, "start")
    api.call("PATCH", f"/1.0/instances/{name}", {"config": {"security.nesting": "true"}})
    api.set_state(name, "start")


def test_the_generation_is_new_once_an_instance_goes_back(api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False)

    def identities() -> tuple[str, str]:
        config = get(api, name)["config"]
        return config["volatile.uuid"], config["volatile.uuid.generation"]

    identity, generation = identities()
    assert identity == generation
    api.run("POST", f"/1.0/instances/{name}/snapshots", {"name": "s"})
    api.run("PUT", f"/1.0/instances/{name}", {"restore": "s"})
    assert identities()[0] == identity
    assert identities()[1] != generation


def test_what_snapshots_take(api: Api, make_instance: Callable[..., str]) -> None:
    root = {"type": "disk", "path": "/", "pool": "default", "size": "1GiB"}
    name = make_instance(devices={"root": root})
    path = f"/1.0/instances/{name}"
    assert api.execute(name, "sh", "-c", "head -c 3000000 /dev/urandom > /gone; sync") == 0
    api.run("POST", f"{path}/snapshots", {"name": "s"})
    assert api.execute(name, "sh", "-c", "rm /gone; sync") == 0

    def size() -> int:
        found: int = api.get(f"{path}/snapshots/s")["size"]
        return found

    until(lambda: size() > 2500000, "the snapshot alone has what is gone")
    assert api.get(f"{path}/snapshots?recursion=1")[0]["size"] == size()
    assert api.get(f"{path}?recursion=1")["snapshots"][0]["size"] == size()


@pytest.mark.skipif(os.uname().machine != "x86_64", reason="another machine runs no such programs")
def test_a_container_of_32_bits(api: Api, make_instance: Make) -> None:
    """Its programs, and the commands that come in, see a machine of 32 bits."""
    name = make_instance(start=False)
    url = f"/1.0/instances/{name}"
    api.run("PUT", url, {**api.get(url), "architecture": "i686"})
    api.set_state(name, "start")
    assert api.execute(name, "sh", "-c", "test $(uname -m) = i686") == 0
    api.set_state(name, "stop", force=True)
    api.run("PUT", url, {**api.get(url), "architecture": "x86_64"})
    api.set_state(name, "start")
    assert api.execute(name, "sh", "-c", "test $(uname -m) = x86_64") == 0
