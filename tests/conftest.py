"""Fixtures for every test: a daemon and instances on the real kernel, and the check that nothing is left behind.

Tests below `integration`, `conformance` and `drivers` run in network and mount namespaces of their own. With
CORRAL_TEST_PEER=real the daemon is the real LXD, which shows whether a test is right; CORRAL_TEST_CLIENT=ours takes
our own `lxc` for the client. CORRAL_TEST_DRIVER names the storage driver of the pool (btrfs).
"""

import asyncio
import contextlib
import inspect
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from harness import images, leaks, programs, scene
from harness.api import Api, ApiError
from harness.client import Client
from harness.daemon import Daemon
from harness.programs import Programs
from harness.waiting import PATIENCE, until

ON_A_KERNEL = ("integration", "conformance", "guest")
"""The folders whose tests need root and a scene of their own."""

SLOW_STEP = re.compile(r"level=warning msg=.(A step of the event loop took .*)")
FAULTS = re.compile(r"Traceback \(most recent call last\)|panic: |Task was destroyed|never awaited")

_daemons: list[Daemon] = []
"""The daemons that run now."""

_slow: list[str] = []
"""What blocked a daemon's event loop, told at the end."""


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(Path(__file__).parent).parts[0]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on a real kernel need root."""
    if os.geteuid() != 0:
        for item in items:
            if _folder(item) in ON_A_KERNEL:
                item.add_marker(pytest.mark.skip(reason="needs root"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Enter the scene before anything is started and while this process has one thread."""
    if session.config.option.collectonly or os.geteuid() != 0:
        return
    if any("cloud_image" in getattr(item, "fixturenames", ()) for item in session.items):
        # From the host's mirror, which the scene does not reach; a failure is that of the tests that want it.
        with contextlib.suppress(Exception):
            images.debian_cloud()
    if any(_folder(item) in ON_A_KERNEL for item in session.items):
        scene.enter()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell what blocked the event loop of the daemons, where time means something."""
    if _slow and PATIENCE == 1:
        terminalreporter.section("the daemon's event loop was blocked")
        for line in _slow[:20]:
            terminalreporter.line(line)


@pytest.fixture(scope="session")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Programs:
    """The programs under test."""
    if os.environ.get("CORRAL_TEST_PEER") == "real":
        found = programs.real()
        assert found is not None, "CORRAL_TEST_PEER=real needs the Debian package lxd"
        return found
    return programs.ours(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="session")
def busybox_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A unified busybox image."""
    return images.busybox(tmp_path_factory.mktemp("images") / "busybox.tar")


@pytest.fixture(scope="module")
def cloud_image(daemon: Daemon) -> str:
    """The alias of our own Debian image with cloud-init, imported into the daemon."""
    metadata, root = images.debian_cloud()
    client_of(daemon)("image", "import", metadata, root, "--alias", "debian/12/cloud", timeout_s=300)
    with daemon.api() as api:
        # The pool's copy of the image is made with the first instance.
        api.create("first", "debian/12/cloud")
        api.delete("first")
    return "debian/12/cloud"


@pytest.fixture(scope="module")
def make_daemon(peer: Programs) -> Iterator[Callable[[], Daemon]]:
    """Make daemons with a state directory of their own; all are removed after the module."""
    before = leaks.snapshot([])
    made: list[Daemon] = []

    def make() -> Daemon:
        daemon = Daemon(peer)
        made.append(daemon)
        _daemons.append(daemon)
        return daemon

    yield make
    problems = []
    for daemon in made:
        try:
            daemon.stop()
        except Exception as error:
            problems.append(f"it did not stop: {error}\n{daemon.output()}")
        problems += [line for line in leaks.added_since(before, []) if str(daemon.dir) in line and "/lxd" not in line]
        _daemons.remove(daemon)
        daemon.remove()
    problems += leaks.added_since(before, [])
    assert not problems, "the daemon left behind: " + "\n".join(problems)


@pytest.fixture(scope="module")
def bare(make_daemon: Callable[[], Daemon]) -> Daemon:
    """A daemon with nothing: no pool, no network, no image."""
    daemon = make_daemon()
    daemon.start()
    return daemon


@pytest.fixture(scope="module")
def daemon(make_daemon: Callable[[], Daemon], busybox_image: Path) -> Daemon:
    """A daemon with a pool, a bridge, a default profile and the image `busybox`."""
    daemon = make_daemon()
    daemon.start()
    daemon.set_up(os.environ.get("CORRAL_TEST_DRIVER", "btrfs"))
    with daemon.api() as api:
        api.upload_image(busybox_image, "busybox")
        # The pool's copy of the image is made with the first instance.
        api.create("first", "busybox")
        api.delete("first")
    return daemon


@pytest.fixture
def api(daemon: Daemon) -> Iterator[Api]:
    """A connection to the daemon."""
    with daemon.api() as api:
        yield api


@pytest.fixture
def lxc(daemon: Daemon) -> Client:
    """The command line, set up for the daemon: the unmodified one unless CORRAL_TEST_CLIENT=ours."""
    return client_of(daemon)


def client_of(daemon: Daemon) -> Client:
    """The command line for a daemon."""
    if os.environ.get("CORRAL_TEST_CLIENT") == "ours":
        return Client(daemon.programs.lxc, daemon)
    found = programs.real_client()
    if found is None:
        pytest.skip("needs the Debian package lxd-client")
    return Client(found, daemon)


@pytest.fixture
def make_instance(daemon: Daemon, api: Api, request: pytest.FixtureRequest) -> Iterator[Callable[..., str]]:
    """Create instances that are removed after the test: `make_instance(start=True, **fields of the request)`."""
    made: list[str] = []
    stem = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")

    def make(name: str = "", *, start: bool = True, image: str = "busybox", **more: object) -> str:
        name = name or f"{stem}-{len(made) + 1}"
        made.append(name)
        api.create(name, image, **more)
        if start:
            api.set_state(name, "start")
        return name

    yield make
    if daemon.running:
        with daemon.api() as own:  # the test may have started the daemon again
            for name in made:
                remove_instance(own, name)


def remove_instance(api: Api, name: str) -> None:
    """Delete an instance, running or not, where it still exists."""

    def gone() -> bool:
        try:
            if api.get(f"/1.0/instances/{name}")["status"] != "Stopped":
                api.set_state(name, "stop", force=True)
            api.delete(name)
        except ApiError as error:
            # It is stopping by itself, or an ephemeral one that went with its stop.
            if "busy" in error.message or "already stopped" in error.message:
                return False
            if "not found" not in error.message:
                raise
        return True

    until(gone, f"{name} is deleted")


@pytest.fixture
def instance(make_instance: Callable[..., str]) -> str:
    """A running busybox container."""
    return make_instance()


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves anything behind, or during which the daemon logged a fault."""
    if _folder(request.node) not in ON_A_KERNEL or os.geteuid() != 0:
        yield
        return
    # Fixtures of the module come first: what they make is not this test's.
    for name in ("daemon", "cloud_image"):
        if name in request.fixturenames:
            request.getfixturevalue(name)
    known = list(_daemons)
    before = leaks.snapshot(known)
    read = {daemon: daemon.log_size() for daemon in known}
    yield
    faults = []
    for daemon, offset in read.items():
        text = daemon.log_since(offset)
        _slow.extend(f"{request.node.nodeid}: {line}" for line in SLOW_STEP.findall(text))
        if FAULTS.search(text):
            faults.append(text[max(0, FAULTS.search(text).start() - 500) :][:4000])  # type: ignore[union-attr]
    assert not faults, "the daemon's log has a fault:\n" + "\n".join(faults)
    added = leaks.added_since(before, known)
    if any(daemon not in known for daemon in _daemons):
        return  # it started a daemon that outlives it, which the module's end checks
    assert not added, "left behind:\n" + "\n".join([*added, *_log_of_helpers(read)])


def _log_of_helpers(read: dict[Daemon, int]) -> list[str]:
    """What the daemons logged of the programs that they run beside containers."""
    lines = [line for daemon, offset in read.items() for line in daemon.log_since(offset).splitlines()]
    return [line for line in lines if "dnsmasq" in line or "put right" in line][-20:]


@pytest.fixture(autouse=True)
def no_task_left(request: pytest.FixtureRequest) -> None:
    """Fail an async test that leaves a task."""
    if inspect.iscoroutinefunction(getattr(request, "function", None)):
        request.getfixturevalue("_count_tasks")


@pytest.fixture
async def _count_tasks() -> AsyncIterator[None]:
    yield
    own = asyncio.current_task()
    # One turn of the loop lets what was just cancelled end.
    await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() if task is not own and not task.done()]
    assert not left, f"tasks left behind: {left}"
