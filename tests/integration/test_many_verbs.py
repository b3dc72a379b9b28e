"""Verbs of all kinds at once on one instance: each is done or refused, and what is left is whole."""

import contextlib
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.api import Api, ApiError
from harness.cgroups import cgroup_file
from harness.daemon import Daemon
from harness.waiting import until

Make = Callable[..., str]
Verb = Callable[[Api, random.Random], object]

LASTS_S = 8.0
WORKERS = 20
SEED = 20221101

REFUSALS = re.compile(
    r"(?i)busy|not running|isn't running|already|not found|doesn't exist|does not exist|is running|stopped|frozen"
    r"|Failed to enter the instance|exists|being|cancel|in use|no such|ended"
)
"""What a verb may be told when others are at work."""


def verbs(name: str, directory: Path) -> list[Verb]:
    """What users do to one instance."""
    url = f"/1.0/instances/{name}"
    disk = {"type": "disk", "source": str(directory), "path": "/mnt/shared"}
    nic = {"type": "nic", "nictype": "p2p", "name": "eth5"}

    def state(action: str, **more: object) -> Verb:
        return lambda api, rng: api.run("PUT", f"{url}/state", {"action": action, "timeout": 5, **more})

    def patch(config: Callable[[random.Random], dict[str, str]]) -> Verb:
        return lambda api, rng: api.call("PATCH", url, {"config": config(rng)})

    def devices(wanted: dict[str, dict[str, str]]) -> Verb:
        return lambda api, rng: api.run("PUT", url, {**api.get(url), "devices": wanted})

    def snapshots(method: str) -> Verb:
        def change(api: Api, rng: random.Random) -> None:
            snapshot = f"s{rng.randrange(3)}"
            if method == "restore":
                api.run("PUT", url, {"restore": snapshot})
            elif method == "POST":
                api.run("POST", f"{url}/snapshots", {"name": snapshot})
            else:
                api.run("DELETE", f"{url}/snapshots/{snapshot}")

        return change

    def file(api: Api, rng: random.Random) -> None:
        api.raw("POST", f"{url}/files?path=/root/f{rng.randrange(3)}", b"x" * 1000)

    return [
        state("start"),
        state("start"),
        state("stop", force=True),
        state("restart", force=True),
        state("freeze"),
        state("unfreeze"),
        patch(lambda rng: {"limits.memory": f"{rng.randrange(64, 256)}MiB"}),
        patch(lambda rng: {"limits.processes": str(rng.randrange(100, 200))}),
        patch(lambda rng: {"user.x": str(rng.random())}),
        devices({"shared": disk}),
        devices({"wire": nic}),
        devices({}),
        snapshots("POST"),
        snapshots("DELETE"),
        snapshots("restore"),
        file,
        lambda api, rng: api.execute(name, "true"),
        lambda api, rng: api.get(f"{url}/state"),
        lambda api, rng: api.get("/1.0/instances?recursion=2"),
    ]


def check_whole(api: Api, name: str, veths: set[str]) -> None:
    """Record, container and host agree, the snapshots can be restored, and the instance can be restarted."""
    url = f"/1.0/instances/{name}"
    with contextlib.suppress(ApiError):
        api.set_state(name, "unfreeze")
    if api.get(url)["status"] != "Running":
        api.set_state(name, "start")
    until(lambda: api.get(url)["status"] == "Running", "it runs")
    record, pid = api.get(url), api.get(f"{url}/state")["pid"]
    assert (api.execute(name, "test", "-e", "/mnt/shared/file") == 0) == ("shared" in record["devices"])
    assert (api.execute(name, "test", "-e", "/sys/class/net/eth5") == 0) == ("wire" in record["devices"])
    wire = {record["config"]["volatile.wire.host_name"]} if "wire" in record["devices"] else set()
    eth0 = {record["config"]["volatile.eth0.host_name"]} if "volatile.eth0.host_name" in record["config"] else set()
    assert {path.name for path in Path("/sys/class/net").glob("veth*")} == veths | wire | eth0
    if "limits.processes" in record["config"]:
        assert (
            cgroup_file(pid, "pids", "pids.max", "pids.max").read_text().strip() == record["config"]["limits.processes"]
        )
    listed = {path.rpartition("/")[2] for path in api.get(f"{url}/snapshots")}
    assert listed <= {"s0", "s1", "s2"}
    for snapshot in sorted(listed):
        api.run("PUT", url, {"restore": snapshot})
    api.set_state(name, "restart", force=True)
    assert api.execute(name, "true") == 0


def test_many_verbs_at_once_on_one_instance(daemon: Daemon, api: Api, make_instance: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    name = make_instance("many-verbs", devices={"eth0": {"type": "none"}})
    choices, ends = verbs(name, tmp_path), time.monotonic() + LASTS_S
    done, unexpected = [0] * WORKERS, []

    def work(number: int) -> None:
        rng = random.Random(SEED + number)
        with daemon.api(60) as own:
            while time.monotonic() < ends:
                try:
                    rng.choice(choices)(own, rng)
                    done[number] += 1
                except ApiError as error:
                    if not REFUSALS.search(error.message):
                        unexpected.append(error.message)

    veths = {path.name for path in Path("/sys/class/net").glob("veth*")}
    with ThreadPoolExecutor(WORKERS) as pool:
        jobs = [pool.submit(work, number) for number in range(WORKERS)]

        def ended() -> bool:
            if time.monotonic() > ends:
                # A command that was begun waits as long as its container is frozen.
                with contextlib.suppress(ApiError):
                    api.set_state(name, "unfreeze")
            return all(job.done() for job in jobs)

        until(ended, "all verbs are done", LASTS_S + 60, 0.1)
        for job in jobs:
            job.result()
    assert not unexpected, "\n".join(unexpected)
    assert min(done) > 0
    check_whole(api, name, veths)
