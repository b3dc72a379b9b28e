"""The daemon's sub-commands without a daemon: flags, what decides an activation, presets and their undoing."""

import io
import socket
import sqlite3
from pathlib import Path
from typing import Any, ClassVar, cast

import pytest

from corral.cli.daemon import activate
from corral.cli.daemon.interactive import Interview
from corral.cli.daemon.main import main
from corral.cli.daemon.preseed import apply_preseed, merge, read_preseed
from corral.client.server import ApiError, Server
from corral.errors import CorralError


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LXD_DIR", str(tmp_path))


@pytest.mark.parametrize("argv", [[], ["--debug"], ["--logfile", "init", "-v"], ["--group", "lxd"]])
def test_the_daemon_starts_without_a_sub_command(argv: list[str]) -> None:
    assert main(["lxd", *argv]) is None


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["import", "x"], 'Command has been replaced with "lxd recover"'),
        (["bogus"], 'unknown command "bogus" for "lxd"'),
        (["launch", "x"], 'unknown command "launch" for "lxd"\n\nThat is a command of the client: lxc launch'),
        (["--bogus"], "unknown flag: --bogus"),
        (["init", "--auto", "--preseed"], "Can't use --auto and --preseed together"),
        (["init", "--minimal", "--preseed"], "Can't use --minimal and --preseed together"),
        (["init", "--minimal", "--auto"], "Can't use --minimal and --auto together"),
        (["init", "--storage-backend", "dir"], "Configuration flags require --auto"),
        (["init", "--dump", "--auto"], "Can't use --dump with other flags"),
    ],
)
def test_refused(argv: list[str], error: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["lxd", *argv]) == 1
    assert capfd.readouterr().err == f"Error: {error}\n"


class Fresh:
    """A server without pools and networks."""

    info: ClassVar = {"environment": {"storage_supported_drivers": [{"Name": "dir"}, {"Name": "btrfs"}]}}

    def get(self, path: str, query: dict[str, str]) -> list[dict[str, str]]:
        return [{"name": "taken"}]


def interview(monkeypatch: pytest.MonkeyPatch, *answers: str) -> dict[str, Any]:
    monkeypatch.setattr("sys.stdin", io.StringIO("".join(f"{answer}\n" for answer in answers)))
    return Interview(cast(Server, Fresh()), "LXD", "lxdbr9", "dir").hold()


def test_the_questions_of_init_are_in_the_order_of_lxd(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = ["no", "yes", "store", "dir", "no", "yes", "br7", "10.9.9.1/24", "no", "none", "no", "no"]
    preseed = interview(monkeypatch, *answers)
    assert preseed["storage_pools"] == [{"name": "store", "driver": "dir", "config": {}, "description": ""}]
    assert preseed["networks"][0]["name"] == "br7"
    assert preseed["networks"][0]["config"] == {
        "ipv4.address": "10.9.9.1/24",
        "ipv4.nat": "false",
        "ipv6.address": "none",
    }
    assert sorted(preseed["profiles"][0]["devices"]) == ["eth0", "root"]
    assert preseed["config"] == {"images.auto_update_interval": "0"}


def test_wrong_answers_are_asked_again_and_defaults_hold(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    answers = ["maybe", "", "", "taken", "", "zfs", "btrfs", "", "no", "0", "7", "", "", "taken", "", "10.0.0.1"]
    answers += ["auto", "", "yes", "no-address", "::1", "70000", "8444", "secret", "yes"]
    preseed = interview(monkeypatch, *answers)
    assert preseed["storage_pools"][0]["config"] == {"size": "7GiB"}
    assert preseed["networks"][0]["config"] == {"ipv4.address": "auto", "ipv6.address": "auto"}
    assert preseed["config"] == {"core.https_address": "[::1]:8444", "core.trust_password": "secret"}
    shown = capfd.readouterr().out
    assert "already exists" in shown
    assert "secret" not in shown


def test_what_init_cannot_do_and_answers_that_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CorralError, match="Clustering is not available"):
        interview(monkeypatch, "yes")
    with pytest.raises(CorralError, match="MAAS is not supported"):
        interview(monkeypatch, "no", "no", "yes")
    with pytest.raises(CorralError, match="input ended"):
        interview(monkeypatch, "no", "no")


def test_manual_pages(tmp_path: Path) -> None:
    assert main(["lxd", "manpage", str(tmp_path)]) == 0
    page = (tmp_path / "lxd-init.1").read_text()
    assert "lxd init \\-\\-auto" in page
    assert "{daemon}" not in page


def test_version(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["lxd", "--version"]) == main(["lxd", "version"]) == 0
    assert capfd.readouterr().out == "5.0.2\n5.0.2\n"


def test_waiting_has_an_end(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("corral.cli.daemon.control._RETRY_S", 0.01)
    assert main(["lxd", "waitready", "--timeout", "1"]) == 1
    assert "LXD still not running after 1s timeout (" in capfd.readouterr().err


def test_waiting_has_an_end_where_nobody_answers(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LXD_SOCKET", str(tmp_path / "socket"))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        listener.listen()
        assert main(["lxd", "waitready", "--timeout", "1"]) == 1
    assert "LXD still not running after 1s timeout (timed out)" in capfd.readouterr().err


class Databases:
    """A local and a cluster database with the tables that decide."""

    def __init__(self, directory: Path) -> None:
        self.local = str(directory / "local.db")
        self.cluster = str(directory / "db.bin")
        self.execute(self.local, "CREATE TABLE config (key TEXT, value TEXT)")
        for statement in (
            "CREATE TABLE instances_config (instance_id INTEGER, key TEXT, value TEXT)",
            "CREATE TABLE instances_profiles (instance_id INTEGER, profile_id INTEGER, apply_order INTEGER)",
            "CREATE TABLE profiles_config (profile_id INTEGER, key TEXT, value TEXT)",
            "CREATE TABLE storage_volumes (id INTEGER, type INTEGER)",
            "CREATE TABLE storage_volumes_config (storage_volume_id INTEGER, key TEXT, value TEXT)",
        ):
            self.execute(self.cluster, statement)

    def execute(self, path: str, statement: str) -> None:
        connection = sqlite3.connect(path)
        connection.execute(statement)
        connection.commit()
        connection.close()

    def reason(self) -> tuple[str, bool]:
        return activate.find_reason(self.local, self.cluster)


@pytest.fixture
def databases(tmp_path: Path) -> Databases:
    return Databases(tmp_path)


def test_nothing_to_do(databases: Databases) -> None:
    assert databases.reason() == ("No need to start the daemon now", False)


def test_no_databases(tmp_path: Path) -> None:
    assert activate.find_reason(str(tmp_path / "x"), str(tmp_path / "y")) == (
        "No local database, so no need to start the daemon now",
        False,
    )


def test_an_address_activates(databases: Databases) -> None:
    databases.execute(databases.local, "INSERT INTO config VALUES ('core.https_address', '[::]:8443')")
    assert databases.reason() == ("Daemon has core.https_address set, activating...", True)


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("volatile.last_state.power", "RUNNING", "Daemon has auto-started instances, activating..."),
        ("boot.autostart", "true", "Daemon has auto-started instances, activating..."),
        ("snapshots.schedule", "@daily", "Daemon has scheduled instance snapshots, activating..."),
    ],
)
@pytest.mark.parametrize("by_profile", [False, True])
def test_an_instance_activates(databases: Databases, key: str, value: str, reason: str, by_profile: bool) -> None:
    if by_profile:
        databases.execute(databases.cluster, "INSERT INTO instances_profiles VALUES (1, 7, 1)")
        databases.execute(databases.cluster, f"INSERT INTO profiles_config VALUES (7, '{key}', '{value}')")
    else:
        databases.execute(databases.cluster, f"INSERT INTO instances_config VALUES (1, '{key}', '{value}')")
    assert databases.reason() == (reason, True)


def test_own_config_hides_that_of_profiles(databases: Databases) -> None:
    databases.execute(databases.cluster, "INSERT INTO instances_profiles VALUES (1, 7, 1), (1, 8, 2)")
    databases.execute(databases.cluster, "INSERT INTO profiles_config VALUES (7, 'boot.autostart', 'true')")
    databases.execute(databases.cluster, "INSERT INTO profiles_config VALUES (8, 'boot.autostart', 'false')")
    assert databases.reason()[1] is False
    databases.execute(databases.cluster, "INSERT INTO instances_config VALUES (1, 'boot.autostart', 'true')")
    assert databases.reason()[1] is True


def test_a_volume_activates(databases: Databases) -> None:
    databases.execute(databases.cluster, "INSERT INTO storage_volumes VALUES (3, 2)")
    databases.execute(
        databases.cluster, "INSERT INTO storage_volumes_config VALUES (3, 'snapshots.schedule', '@hourly')"
    )
    assert databases.reason() == ("Daemon has scheduled volume snapshots, activating...", True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"bogus: 1\n", "field bogus not found"),
        (b"networks:\n- nmae: x\n", "field nmae not found in a networks entry"),
        (b"networks: x\n", "networks must be a list"),
        (b"- a\n", "expected a mapping"),
    ],
)
def test_bad_preseeds(content: bytes, message: str) -> None:
    with pytest.raises(CorralError, match=f"Failed to parse the preseed: yaml: .*{message}"):
        read_preseed(content)


def test_merge() -> None:
    before = {"config": {"a": "1"}, "description": "old", "devices": {"root": {"pool": "p"}}}
    entry = {"config": {"b": "2"}, "devices": {"root": {"size": "1GB"}, "eth0": {"type": "nic"}}}
    assert merge(before, entry) == {
        "config": {"a": "1", "b": "2"},
        "description": "old",
        "devices": {"root": {"pool": "p", "size": "1GB"}, "eth0": {"type": "nic"}},
    }


class FakeServer(Server):
    """A server of records in memory; `refuse` is the path that fails to be written."""

    def __init__(self, records: dict[str, Any], refuse: str = "nothing") -> None:
        self.records = records
        self.refuse = refuse
        self.project = ""

    def with_project(self, project: str) -> Server:
        return self

    def get_tagged(self, path: str) -> tuple[Any, str]:
        return self.get(path), "tag"

    def get(self, path: str, query: dict[str, str] | None = None) -> Any:
        if path in self.records:
            return self.records[path]
        below = [f"/1.0{name}" for name in self.records if name.startswith(f"{path}/")]
        if path.count("/") == 1:
            return below
        raise ApiError("not found", 404)

    def put(self, path: str, body: Any, etag: str = "") -> None:
        if path == self.refuse:
            raise ApiError("refused", 400)
        self.records[path] = {**self.records[path], **body}

    def post(self, path: str, body: Any) -> None:
        if path == self.refuse:
            raise ApiError("refused", 400)
        self.records[f"{path}/{body['name']}"] = body

    def delete(self, path: str) -> None:
        del self.records[path]


PRESEED = """
config:
  core.https_address: 127.0.0.1:9999
  images.auto_update_interval: 15
storage_pools:
- {name: data, driver: dir}
networks:
- {name: br0, type: bridge, config: {ipv4.address: none}}
profiles:
- name: default
  devices:
    root: {path: /, pool: data, type: disk}
"""


def start_records() -> dict[str, Any]:
    return {
        "": {"config": {"a": "b"}},
        "/profiles/default": {"name": "default", "config": {}, "description": "", "devices": {}},
    }


def test_a_preseed_is_applied_and_undone() -> None:
    server = FakeServer(start_records())
    undo = apply_preseed(server, read_preseed(PRESEED.encode()))
    assert server.records[""]["config"] == {
        "a": "b",
        "core.https_address": "127.0.0.1:9999",
        "images.auto_update_interval": "15",
    }
    assert server.records["/networks/br0"]["config"] == {"ipv4.address": "none"}
    assert server.records["/profiles/default"]["devices"]["root"]["pool"] == "data"
    undo()
    assert server.records == start_records()


def test_a_failing_preseed_leaves_nothing() -> None:
    server = FakeServer(start_records(), refuse="/profiles/default")
    with pytest.raises(CorralError, match=r'^Failed to update profile "default": refused$'):
        apply_preseed(server, read_preseed(PRESEED.encode()))
    assert server.records == start_records()


def test_a_pool_of_another_driver_is_refused() -> None:
    server = FakeServer({"/storage-pools/data": {"driver": "btrfs", "config": {}, "description": ""}})
    with pytest.raises(CorralError, match='Storage pool "data" is of type "btrfs" instead of "dir"'):
        apply_preseed(server, {"storage_pools": [{"name": "data", "driver": "dir"}]})
