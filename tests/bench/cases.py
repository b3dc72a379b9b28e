"""What the bench measures: each case runs once on each server in turn and returns its times by figure."""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from bench import http_load
from bench.servers import Server
from harness.api import ApiError

Times = dict[str, float]

EXECS = 5
PARALLEL = 50
PARALLEL_WORKERS = 50
MANY = 1000
RUNNING = 200
SETTLE_S = 15.0
IDLE_S = 75.0
"""Long enough for everything that is done once a minute."""
PUT_FIELDS = ("architecture", "config", "devices", "ephemeral", "profiles", "description")


@dataclass(frozen=True)
class Case:
    """One thing to measure. `rounds` is how often, unless told otherwise."""

    name: str
    run: Callable[[Server], Times]
    rounds: int = 7


@contextmanager
def timed(times: Times, figure: str) -> Iterator[None]:
    """Note how long the body took, in milliseconds."""
    started = time.perf_counter()
    yield
    times[figure] = (time.perf_counter() - started) * 1000


def life(image: str) -> Callable[[Server], Times]:
    """A container's life, step by step."""

    def run(server: Server) -> Times:
        times: Times = {}
        api = server.api
        with timed(times, f"launch {image}"):
            with timed(times, f"copy of image {image}"):
                api.create("c1", image)
            api.set_state("c1", "start")
        for number in range(EXECS):
            with timed(times, f"exec {image} {number}"):
                assert api.execute("c1", "true") == 0
        with timed(times, f"stop -f {image}"):
            api.set_state("c1", "stop", force=True)
        with timed(times, f"start {image}"):
            api.set_state("c1", "start")
        wait_for_init(server, "c1", image)
        with timed(times, f"stop {image}"):
            api.set_state("c1", "stop", timeout_s=30)
        with timed(times, f"delete {image}"):
            api.delete("c1")
        execs = sorted(times.pop(f"exec {image} {number}") for number in range(EXECS))
        times[f"exec {image}"] = execs[EXECS // 2]
        return times

    return run


def wait_for_init(server: Server, name: str, image: str) -> None:
    """Until the system inside listens to the signal that asks it to end."""
    # systemd answers 1 where it runs with failed units; the test's busybox mounts /run once it is up.
    probe = "systemctl is-system-running --wait" if image == "debian" else "grep -q ' /run ' /proc/mounts"
    up = (0, 1) if image == "debian" else (0,)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            if server.api.execute(name, "sh", "-c", probe) in up:
                return
        except ApiError as error:  # the exit codes 126 and 127 are failures of the operation
            raise AssertionError(f"{probe} in {name}: {error}") from error
        time.sleep(0.05)
    raise AssertionError(f"the system in {name} did not come up")


def parallel_launches(server: Server) -> Times:
    """Launches at the same time, and the memory that they take."""
    times: Times = {}
    with timed(times, f"{PARALLEL} parallel launches"):
        server.in_parallel(PARALLEL, PARALLEL_WORKERS, "launch")
    times["memory per container (KiB)"] = server.monitor_kb() / PARALLEL
    times["daemon memory (KiB)"] = server.daemon_kb()
    server.in_parallel(PARALLEL, 8, "delete")
    return times


def command(server: Server, *args: str) -> None:
    """Run the server's own client."""
    program = [str(server.daemon.programs.lxc), *args]
    subprocess.run(
        program,
        env=server.daemon.environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        timeout=60,
    )


def ensure_many(server: Server, count: int) -> None:
    """Have so many instances, which an earlier round or case may have left."""
    # Not the server's own connection: it was idle for longer than a server keeps it.
    with server.daemon.api() as api:
        is_empty = not api.get("/1.0/instances")
    if is_empty:
        server.in_parallel(count, 4, "empty")


def client(count: int, *, repeats: int = 5, last: bool = False) -> Callable[[Server], Times]:
    """The command line with so many instances, and lists through the API; the last ones need not remove them."""

    def run(server: Server) -> Times:
        ensure_many(server, count)
        figures: dict[str, list[float]] = {}

        def note(figure: str, started: float) -> None:
            figures.setdefault(figure, []).append((time.perf_counter() - started) * 1000)

        for _ in range(repeats):
            started = time.perf_counter()
            command(server, "list")
            note(f"CLI list of {count}", started)
            started = time.perf_counter()
            command(server, "--help")
            note("CLI --help", started)
            started = time.perf_counter()
            assert len(server.api.get("/1.0/instances?recursion=2")) == count
            note(f"list of {count} at recursion 2", started)
        if not last:
            server.in_parallel(count, 4, "delete")
        return {figure: sorted(values)[len(values) // 2] for figure, values in figures.items()}

    return run


def verbs(server: Server) -> Times:
    """What is done to a container that runs, and with its snapshots and copies."""
    api, times = server.api, Times()
    api.create("c1", "busybox")
    api.set_state("c1", "start")
    wait_for_init(server, "c1", "busybox")
    with timed(times, "change a limit"):
        api.call("PATCH", "/1.0/instances/c1", {"config": {"limits.memory": "200MiB"}})
    whole = {key: value for key, value in api.get("/1.0/instances/c1").items() if key in PUT_FIELDS}
    whole["config"]["limits.memory"] = "300MiB"
    with timed(times, "change a limit by PUT"):
        api.run("PUT", "/1.0/instances/c1", whole)
    with timed(times, "snapshot"):
        api.run("POST", "/1.0/instances/c1/snapshots", {"name": "s1"})
    api.set_state("c1", "stop", force=True)
    with timed(times, "snapshot of a stopped one"):
        api.run("POST", "/1.0/instances/c1/snapshots", {"name": "s2"})
    for figure, name, source in (
        ("copy", "c2", {"source": "c1", "instance_only": True}),
        ("copy of a snapshot", "c3", {"source": "c1/s1"}),
        ("copy with snapshots", "c4", {"source": "c1"}),
    ):
        body = {"name": name, "profiles": ["default"], "source": {"type": "copy", **source}}
        with timed(times, figure):
            api.run("POST", "/1.0/instances", body)
    with timed(times, "restore"):
        api.run("PUT", "/1.0/instances/c1", {"restore": "s1"})
    api.set_state("c1", "start")
    with timed(times, "restore of a running one"):
        api.run("PUT", "/1.0/instances/c1", {"restore": "s2"})
    with timed(times, "delete a snapshot"):
        api.run("DELETE", "/1.0/instances/c1/snapshots/s1")
    api.set_state("c1", "stop", force=True)
    for name in ("c1", "c2", "c3", "c4"):
        api.delete(name)
    return times


def idle(count: int) -> Callable[[Server], Times]:
    """So many containers that run: what the daemon takes while nobody asks it anything."""

    def run(server: Server) -> Times:
        times: Times = {}
        with timed(times, f"{count} launches, 4 at once"):
            server.in_parallel(count, 4, "launch")
        time.sleep(SETTLE_S)
        before = server.daemon_cpu_s()
        time.sleep(IDLE_S)
        times[f"idle with {count} (% of a CPU)"] = (server.daemon_cpu_s() - before) / IDLE_S * 100
        times[f"daemon memory with {count} (KiB)"] = server.daemon_kb()
        with server.daemon.api() as api:
            assert len(api.get("/1.0/instances?recursion=2")) == count
        times[f"daemon memory with {count}, after a list (KiB)"] = server.daemon_kb()
        server.in_parallel(count, 4, "delete")
        return times

    return run


def http(count: int) -> Callable[[Server], Times]:
    """Plain GETs with so many instances: the time of one, and the time per request of eight connections at once."""

    def run(server: Server) -> Times:
        ensure_many(server, count)
        times: Times = {}
        path = server.daemon.state_dir / "unix.socket"
        for name, target, repeats in (
            ("GET /1.0", "/1.0", 200),
            ("GET one instance", "/1.0/instances/p1", 200),
            (f"GET list of {count}", "/1.0/instances?recursion=1", 10),
        ):
            times[f"{name}, latency"] = http_load.latency_ms(path, target, repeats)
            times[f"{name}, ms per request of 8"] = 1000 / http_load.requests_per_second(path, target, 8, 2.0)
        return times

    return run


CASES = (
    Case("busybox", life("busybox"), 9),
    Case("debian", life("debian"), 3),
    Case("few", client(5), 3),
    Case("parallel", parallel_launches, 2),
    Case("verbs", verbs, 7),
    Case("many", idle(RUNNING), 1),
    Case("list", client(MANY, last=True), 1),
    Case("http", http(MANY), 3),
)

TARGETS = {
    "launch busybox": 0.35,
    "launch debian": 0.15,
    "start busybox": 0.40,
    "start debian": 0.40,
    "stop -f busybox": 0.35,
    "stop -f debian": 0.35,
    "exec busybox": 0.50,
    "exec debian": 0.50,
    "delete busybox": 0.30,
    "delete debian": 0.30,
    f"{PARALLEL} parallel launches": 0.25,
    f"list of {MANY} at recursion 2": 0.05,
    "memory per container (KiB)": 0.15,
    "daemon memory (KiB)": 1.0,
    "CLI list of 5": 3.0,
    f"CLI list of {MANY}": 0.5,
    "snapshot": 0.35,
    "copy": 0.25,
    "restore": 0.5,
    "change a limit": 0.5,
    "change a limit by PUT": 0.5,
    **{
        f"{name}, {figure}": 0.33
        for name in ("GET /1.0", "GET one instance", f"GET list of {MANY}")
        for figure in ("latency", "ms per request of 8")
    },
}
"""The ratio to the real LXD, in the same run, that we want to stay below."""

LIMITS = {
    f"idle with {RUNNING} (% of a CPU)": 2.0,
    f"daemon memory with {RUNNING} (KiB)": 120.0 * 1024,
    f"daemon memory with {RUNNING}, after a list (KiB)": 120.0 * 1024,
}
"""What ours must stay below, whatever the real LXD takes."""
