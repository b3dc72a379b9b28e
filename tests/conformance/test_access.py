"""Server configuration, profiles, projects, remotes and trust by the unmodified `lxc` client."""

import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from harness.api import Api
from harness.client import Client
from harness.daemon import Daemon

_ports = itertools.count(18443)


@pytest.fixture
def lxc(bare: Daemon) -> Client:
    from conftest import client_of

    return client_of(bare)


@pytest.fixture
def api(bare: Daemon) -> Iterator[Api]:
    with bare.api() as api:
        yield api


@pytest.fixture
def address(lxc: Client) -> Iterator[str]:
    """The server serves its API over HTTPS here, with the trust password `foo`."""
    address = f"127.0.0.1:{next(_ports)}"
    lxc("config", "set", f"core.https_address={address}", "core.trust_password=foo")
    yield address
    lxc("config", "unset", "core.https_address")
    lxc("config", "unset", "core.trust_password")


class Stranger:
    """A client with a configuration, and so a certificate, of its own."""

    def __init__(self, program: Path, directory: Path) -> None:
        self._program = program
        self.directory = directory
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LXD_")}
        self._environment = environment | {"LXD_CONF": str(directory), "HOME": str(directory)}

    def run(self, *args: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [self._program, *args],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )

    def __call__(self, *args: str) -> str:
        done = self.run(*args)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def fails(self, *args: str) -> str:
        done = self.run(*args)
        assert done.returncode != 0, done.stdout
        return done.stderr


@pytest.fixture
def stranger(lxc: Client, tmp_path: Path) -> Iterator[Stranger]:
    """Another client; what it became trusted by is removed after the test."""
    yield Stranger(lxc.program, tmp_path)
    for line in lxc("config", "trust", "list", "--format", "csv").splitlines():
        lxc("config", "trust", "remove", line.split(",")[3])


def test_server_configuration(lxc: Client) -> None:
    assert lxc("config", "get", "user.key") == "\n"
    lxc("config", "set", "user.key", "value")
    assert lxc("config", "get", "user.key") == "value\n"
    assert yaml.safe_load(lxc("config", "show")) == {"config": {"user.key": "value"}}
    lxc("config", "edit", stdin="config: {user.other: x}\n")
    assert yaml.safe_load(lxc("config", "show")) == {"config": {"user.other": "x"}}
    lxc("config", "unset", "user.other")
    assert "cannot set 'nonsense' to 'x': unknown key" in lxc.fails("config", "set", "nonsense", "x")
    assert "invalid integer" in lxc.fails("config", "set", "images.auto_update_interval", "x")
    lxc("config", "set", "core.trust_password", "secret")
    assert yaml.safe_load(lxc("config", "show"))["config"] == {"core.trust_password": True}
    lxc("config", "unset", "core.trust_password")


def test_the_configuration_outlives_the_daemon(bare: Daemon, lxc: Client, address: str) -> None:
    fingerprint = yaml.safe_load(lxc("info"))["environment"]["certificate_fingerprint"]
    bare.kill()
    bare.start()
    environment = yaml.safe_load(lxc("info"))["environment"]
    assert environment["addresses"] == [address]
    assert environment["certificate_fingerprint"] == fingerprint
    host, _, port = address.rpartition(":")
    socket.create_connection((host, int(port)), 5).close()


def test_environment(api: Api, bare: Daemon) -> None:
    server = api.get("/1.0")
    environment = server["environment"]
    assert environment["server_pid"] == bare.pid
    assert environment["driver"].startswith("lxc")
    assert environment["firewall"] == "nftables"
    assert environment["server_clustered"] is False
    assert {driver["Name"] for driver in environment["storage_supported_drivers"]} >= {"dir"}
    assert environment["kernel_features"]["seccomp_listener"] in ("true", "false")
    assert len(server["api_extensions"]) == len(set(server["api_extensions"]))


def test_profiles(lxc: Client, api: Api) -> None:
    lxc("profile", "create", "p1")
    lxc("profile", "set", "p1", "limits.cpu", "2")
    lxc("profile", "device", "add", "p1", "none", "none")
    lxc("profile", "copy", "p1", "p2")
    lxc("profile", "rename", "p2", "p3")
    shown = yaml.safe_load(lxc("profile", "show", "p3"))
    assert shown["config"] == {"limits.cpu": "2"}
    assert shown["devices"] == {"none": {"type": "none"}}
    assert "Unknown configuration key" in lxc.fails("profile", "set", "p1", "nonsense", "1")
    assert "already exists" in lxc.fails("profile", "create", "p1")
    assert "cannot be deleted" in lxc.fails("profile", "delete", "default")
    assert "cannot be renamed" in lxc.fails("profile", "rename", "default", "x")
    for name in ("p1", "p3"):
        lxc("profile", "delete", name)
    assert "not found" in lxc.fails("profile", "show", "p1")
    assert api.get("/1.0/profiles") == ["/1.0/profiles/default"]


def test_projects(lxc: Client) -> None:
    lxc("project", "create", "foo", "-c", "limits.containers=3")
    lxc("project", "switch", "foo")
    assert lxc("profile", "list", "--format", "csv").startswith("default,Default LXD profile for project foo,0")
    lxc("profile", "create", "mine")
    lxc("project", "switch", "default")
    assert "Only empty projects can be removed" in lxc.fails("project", "delete", "foo")
    assert "Only empty projects can be renamed" in lxc.fails("project", "rename", "foo", "bar")
    assert "on non-empty projects" in lxc.fails("project", "set", "foo", "features.profiles", "false")
    lxc("profile", "delete", "mine", "--project", "foo")
    lxc("project", "rename", "foo", "bar")
    assert "CONTAINERS,3,0" in lxc("project", "info", "bar", "--format", "csv")
    assert yaml.safe_load(lxc("project", "show", "bar"))["used_by"] == ["/1.0/profiles/default?project=bar"]
    lxc("project", "delete", "bar")
    assert "cannot be deleted" in lxc.fails("project", "delete", "default")
    assert "not found" in lxc.fails("project", "show", "bar")


def test_a_remote_by_password(lxc: Client, address: str, stranger: Stranger) -> None:
    add = ("remote", "add", "there", f"https://{address}", "--accept-certificate", "--password")
    assert "not authorized" in stranger.fails(*add, "wrong")
    stranger(*add, "foo")
    assert "default" in stranger("profile", "list", "there:", "--format", "csv")
    assert stranger("list", "there:", "--format", "csv") == ""
    trusted = json.loads(stranger("query", "there:/1.0"))
    assert trusted["auth"] == "trusted"
    lxc("config", "trust", "remove", lxc("config", "trust", "list", "--format", "csv").split(",")[3])
    assert "not authorized" in stranger.fails("profile", "list", "there:")


def test_a_remote_by_token(lxc: Client, address: str, stranger: Stranger) -> None:
    token = lxc("config", "trust", "add", "--name", "by-token", "-q").strip().splitlines()[-1]
    assert "by-token" in lxc("config", "trust", "list-tokens")
    stranger("remote", "add", "there", token)
    assert "by-token" in lxc("config", "trust", "list", "--format", "csv")
    assert "default" in stranger("profile", "list", "there:", "--format", "csv")


def test_a_restricted_client(lxc: Client, address: str, stranger: Stranger) -> None:
    for name in ("mine", "other"):
        lxc("project", "create", name)
    token = lxc("config", "trust", "add", "--name", "r", "--restricted", "--projects", "mine", "-q").split()[-1]
    stranger("remote", "add", "there", token)
    (listed,) = stranger("project", "list", "there:", "--format", "csv").splitlines()
    assert listed.startswith("mine (current)")
    stranger("profile", "create", "there:p", "--project", "mine")
    for command in (
        ("profile", "list", "there:", "--project", "default"),
        ("profile", "list", "there:", "--project", "other"),
        ("project", "show", "there:other"),
        ("project", "create", "there:more"),
        ("storage", "create", "there:pool", "dir"),
        ("config", "set", "there:", "user.x", "y"),
    ):
        assert "not authorized" in stranger.fails(*command), command
    lxc("profile", "delete", "p", "--project", "mine")
    for name in ("mine", "other"):
        lxc("project", "delete", name)


def test_the_address_moves_under_its_own_client(lxc: Client, address: str, stranger: Stranger) -> None:
    stranger("remote", "add", "there", f"https://{address}", "--accept-certificate", "--password", "foo")
    moved = f"127.0.0.1:{next(_ports)}"
    stranger("config", "set", "there:", "core.https_address", moved)
    stranger("remote", "set-url", "there", f"https://{moved}")
    assert json.loads(stranger("query", "there:/1.0"))["config"]["core.https_address"] == moved
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = f"127.0.0.1:{taken.getsockname()[1]}"
        assert "in use" in lxc.fails("config", "set", "core.https_address", wanted)
    assert lxc("config", "get", "core.https_address").strip() == moved


def test_warnings(lxc: Client, api: Api) -> None:
    for warning in json.loads(lxc("warning", "list", "--all", "--format", "json")):
        lxc("warning", "delete", warning["uuid"])
    api.call("POST", "/internal/testing/warnings", {"type_code": 0, "message": "one"})
    api.call("POST", "/internal/testing/warnings", {"type_code": 0, "message": "two", "project": "default"})
    found = {one["last_message"]: one for one in json.loads(lxc("warning", "list", "--format", "json"))}
    assert set(found) == {"one", "two"}
    lxc("warning", "acknowledge", found["one"]["uuid"])
    assert [one["last_message"] for one in json.loads(lxc("warning", "list", "--format", "json"))] == ["two"]
    for one in found.values():
        lxc("warning", "delete", one["uuid"])
    assert "not found" in lxc.fails("warning", "show", found["one"]["uuid"])


def test_resources(lxc: Client, api: Api) -> None:
    text = lxc("info", "--resources")
    for line in ("CPU (", "Memory:", "  Total:", "Disk"):
        assert line in text
    assert api.get("/1.0/resources")["cpu"]["total"] == os.cpu_count()


def test_not_clustered(lxc: Client, api: Api) -> None:
    assert api.get("/1.0/cluster") == {"enabled": False, "member_config": [], "server_name": ""}
    assert "isn't part of a cluster" in lxc.fails("cluster", "list")
