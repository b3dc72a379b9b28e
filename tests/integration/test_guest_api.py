"""The guest API against guests that lie, stall and flood, and over the daemon's end and restart."""

import contextlib
import http.client
import json
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from corral.server.rest.guest_crowd import BURST, RATE_PER_S
from harness.api import Api, ApiError
from harness.daemon import Daemon
from harness.guest import Guest
from harness.waiting import soon, until

PRIVILEGED = {"security.privileged": "true"}


def pid_of(api: Api, name: str) -> int:
    pid: int = api.get(f"/1.0/instances/{name}/state")["pid"]
    return pid


def set_config(api: Api, name: str, **values: str) -> None:
    config = {key.replace("__", ".").replace("_", "-"): value for key, value in values.items()}
    api.call("PATCH", f"/1.0/instances/{name}", {"config": config})


@pytest.fixture
def two(api: Api, make_instance: Callable[..., str]) -> Iterator[tuple[Guest, Guest]]:
    """The root users of two containers whose `user.me` is `one` and `other`."""
    names = [make_instance(config={"user.me": word}) for word in ("one", "other")]
    with Guest(pid_of(api, names[0])) as one, Guest(pid_of(api, names[1])) as other:
        yield one, other


def me(guest: Guest) -> str:
    return guest.text("/1.0/config/user.me")


def test_each_guest_sees_itself(two: tuple[Guest, Guest], api: Api, make_instance: Callable[..., str]) -> None:
    assert [me(guest) for guest in two] == ["one", "other"]
    more = {
        "alone": {"security.idmap.isolated": "true"},
        "mighty": PRIVILEGED,
        "nesting": {"security.nesting": "true"},
    }
    for word, config in more.items():
        name = make_instance(config={**config, "user.me": word})
        with Guest(pid_of(api, name)) as guest, Guest(pid_of(api, name), nested=True) as nested:
            assert me(guest) == word
            # In a pid namespace of its own making, as the containers in a container are.
            assert me(nested) == word


def test_the_name_of_a_process_counts_for_nothing(api: Api, make_instance: Callable[..., str]) -> None:
    """A guest that calls itself the monitor of another container stays who it is."""
    victim, rogue = (make_instance(config={"user.me": word}) for word in ("victim", "rogue"))
    with Guest(pid_of(api, rogue), title=f"[lxc monitor] /var/lib/lxd/containers {victim}") as guest:
        assert me(guest) == "rogue"


def test_the_host_is_no_guest(daemon: Daemon, two: tuple[Guest, Guest]) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        end.settimeout(30)
        end.connect(str(daemon.state_dir / "devlxd" / "sock"))
        end.sendall(b"GET /1.0/config/user.me HTTP/1.1\r\nHost: lxd\r\n\r\n")
        answer = end.recv(4096)
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert answer.endswith(b"pid not in container?\n")


def test_readable_keys_tell_of_changes(api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance()
    with Guest(pid_of(api, name)) as guest, guest.watch() as events, guest.stream() as lines:
        set_config(api, name, cloud_init__user_data="#cloud-config\n{}")
        change = {"key": "cloud-init.user-data", "old_value": "", "value": "#cloud-config\n{}"}
        assert events.next()["metadata"] == lines.next()["metadata"] == change
        # A guest that loses the API loses what it watches too.
        set_config(api, name, security__devlxd="false")
        assert events.ended()
        assert lines.ended()


def test_root_is_who_it_was_at_the_start(api: Api, make_instance: Callable[..., str]) -> None:
    """The id map of the next start says nothing about who asks now."""
    name = make_instance(config={"user.me": "one"})
    with Guest(pid_of(api, name)) as guest:
        for changed in ({"security__privileged": "true"}, {"security__privileged": "false"}):
            set_config(api, name, **changed)
            assert me(guest) == "one"
        set_config(api, name, security__idmap__isolated="true")
        assert me(guest) == "one"


def test_mount_is_read_only(api: Api, make_instance: Callable[..., str]) -> None:
    name = make_instance(config=PRIVILEGED)
    assert api.execute(name, "rm", "/dev/lxd/sock") != 0
    assert api.execute(name, "touch", "/dev/lxd/more") != 0
    set_config(api, name, security__devlxd="false")
    set_config(api, name, security__devlxd="true")
    assert api.execute(name, "rm", "/dev/lxd/sock") != 0
    assert api.execute(name, "test", "-S", "/dev/lxd/sock") == 0


def test_restart_of_the_daemon(daemon: Daemon, two: tuple[Guest, Guest]) -> None:
    one, other = two
    with one.watch() as events:
        daemon.kill()
        assert events.ended()
        with pytest.raises(ConnectionRefusedError):
            one.connect()
        daemon.start()
    assert (me(one), me(other)) == ("one", "other")
    with daemon.api() as api, one.watch() as events:
        names = {entry["config"]["user.me"]: entry["name"] for entry in api.get("/1.0/instances?recursion=1")}
        set_config(api, names["one"], user__me="still one")
        assert events.next()["metadata"]["value"] == "still one"


def test_idle_connections(api: Api, two: tuple[Guest, Guest]) -> None:
    """A guest keeps hundreds open: the oldest idle ones go, and nobody else notices."""
    one, other = two
    kept = [one.connect() for _ in range(200)]
    try:
        assert (me(one), me(other)) == ("one", "other")
        for end in kept:
            end.sendall(b"GET /1.0/config/user.me HTTP/1.1\r\nHost: lxd\r\n\r\n")
        assert all(end.recv(4096).endswith(b"one") for end in kept)
        kept += [one.connect() for _ in range(200)]
        assert (me(one), me(other)) == ("one", "other")
        until(lambda: sum(_is_closed(end) for end in kept) > 100, "the oldest connections are closed")
        assert not _is_closed(kept[-1])
        assert api.get("/1.0")["api_status"] == "stable"
    finally:
        for end in kept:
            end.close()


def _is_closed(end: socket.socket) -> bool:
    end.setblocking(False)
    try:
        return end.recv(1, socket.MSG_PEEK) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


def test_guest_that_does_not_read(api: Api, two: tuple[Guest, Guest], make_instance: Callable[..., str]) -> None:
    """It waits for its own answers only; its connections do not fill the daemon's memory."""
    name = make_instance(config={"user.me": "slow", "user.big": "x" * 2_000_000})
    with Guest(pid_of(api, name)) as slow:
        ends = [slow.connect() for _ in range(40)]
        try:
            for end in ends:
                end.sendall(b"GET /1.0/config/user.big HTTP/1.1\r\nHost: lxd\r\n\r\n" * 20)
            with soon("others are answered"):
                assert [me(guest) for guest in two] == ["one", "other"]
                assert api.get(f"/1.0/instances/{name}")["status"] == "Running"
        finally:
            for end in ends:
                end.close()
        assert me(slow) == "slow"


def test_guest_that_does_not_read_its_events(api: Api, make_instance: Callable[..., str]) -> None:
    """It is cut off, whatever it does not read."""
    name = make_instance()
    with Guest(pid_of(api, name)) as guest, contextlib.ExitStack() as stack:
        watches = [stack.enter_context(guest.watch() if number % 2 else guest.stream()) for number in range(32)]
        assert {watch.status for watch in watches} == {101, 200}
        with guest.watch() as one_more:
            assert one_more.status == 503
        for number in range(1, 4):
            set_config(api, name, user__big=str(number) * 300_000)
        until(lambda: all(watch.was_cut_off() for watch in watches), "all are cut off")
        with guest.watch() as again:
            assert again.status == 101


def test_guest_that_asks_without_end(api: Api, two: tuple[Guest, Guest]) -> None:
    """It is made to wait; others are answered at once."""
    one, other = two
    request = b"GET /1.0/config/user.me HTTP/1.1\r\nHost: lxd\r\n\r\n"
    ends = [one.connect() for _ in range(10)]
    began = time.monotonic()
    try:
        for end in ends:
            end.sendall(request * 100)
        with soon("another guest is answered"):
            for _ in range(20):
                assert me(other) == "other"
        answered = 0
        for end in ends:
            end.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                while data := end.recv(65536):
                    answered += data.count(b"HTTP/1.1 200")
        assert 0 < answered <= BURST + RATE_PER_S * (time.monotonic() - began)
    finally:
        for end in ends:
            end.close()


def test_guest_that_connects_without_end(api: Api, two: tuple[Guest, Guest]) -> None:
    """It is turned away after a while; others are served all the same."""
    one, other = two

    def flood() -> bool:
        with one.flooding() as end:
            for _ in range(30):
                assert me(other) == "other"
                assert api.get("/1.0")["api_status"] == "stable"
            return end() > 0

    until(flood, "the guest is turned away", 60)
    until(lambda: _serves(one), "the guest is served again")


def _serves(guest: Guest) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return me(guest) == "one"
    return False


@pytest.mark.parametrize(
    "nonsense",
    [
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: lxd\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: lxd\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
        b"\0\1\2\3 nonsense\r\n\r\n",
        b"GET /1.0/config/user.%zz HTTP/1.1\r\nHost: lxd\r\n\r\n",
        b"GET /1.0/config/user.%ff HTTP/1.1\r\nHost: lxd\r\n\r\n",
    ],
)
def test_nonsense(two: tuple[Guest, Guest], nonsense: bytes) -> None:
    one, other = two
    with one.connect() as end:
        with contextlib.suppress(ConnectionError):
            end.sendall(nonsense)
        assert end.recv(4096).split(b"\r\n")[0].endswith(b" 400 Bad Request")
    assert (me(one), me(other)) == ("one", "other")


def test_long_body(two: tuple[Guest, Guest]) -> None:
    """Nobody reads it."""
    with two[0].connect() as end:
        end.sendall(b"POST /1.0/config/user.me HTTP/1.1\r\nHost: lxd\r\nContent-Length: 1000000000000\r\n\r\n")
        assert end.recv(4096).endswith(b"one")
        with contextlib.suppress(ConnectionError):
            for _ in range(10_000):
                end.sendall(b"x" * 65536)
            pytest.fail("the body was read to its end")


def test_images_of_other_projects(api: Api, make_instance: Callable[..., str]) -> None:
    """Only images of the default project and of the guest's own are within its reach."""
    fingerprint = api.get("/1.0/images/aliases/busybox")["target"]
    name = make_instance(config={"security.devlxd.images": "true"})
    api.call("PATCH", f"/1.0/images/{fingerprint}", {"public": True})
    api.call("POST", "/1.0/projects", {"name": "other", "config": {"features.images": "true"}})
    try:
        with Guest(pid_of(api, name)) as guest:
            path = f"/1.0/images/{fingerprint}/export"
            status, _, content = guest.request(f"{path}?project=other")
            assert (status, json.loads(content)["error"]) == (404, "Image not found")
            with ThreadPoolExecutor(4) as pool:
                ends = [guest.connect() for _ in range(4)]
                answers = list(pool.map(lambda end: Guest.ask(end, path)[0], ends))
                assert answers == [200] * 4
            for end in ends:
                end.close()
            stalled = [guest.connect() for _ in range(6)]
            for end in stalled:
                end.sendall(f"GET {path} HTTP/1.1\r\nHost: lxd\r\n\r\n".encode())
            # Downloads that stall take nothing from the other answers.
            assert guest.get("/1.0")["api_version"] == "1.0"
            for end in stalled:
                end.close()
    finally:
        api.call("DELETE", "/1.0/projects/other")
        api.call("PATCH", f"/1.0/images/{fingerprint}", {"public": False})


def test_a_value_that_is_no_truth_value_is_refused(api: Api, instance: str) -> None:
    with pytest.raises(ApiError, match=r"security\.devlxd"):
        set_config(api, instance, security__devlxd="perhaps")
    assert api.execute(instance, "test", "-S", "/dev/lxd/sock") == 0
