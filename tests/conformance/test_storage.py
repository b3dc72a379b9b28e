"""`lxc storage` of the unmodified client: what it prints of our pools and volumes."""

import csv
import io
import json
from collections.abc import Iterator

import pytest
import yaml

from conftest import client_of
from harness.client import Client
from harness.daemon import Daemon


@pytest.fixture
def lxc(bare: Daemon) -> Iterator[Client]:
    """The client; pools are removed after the test."""
    lxc = client_of(bare)
    yield lxc
    for pool, *_ in rows(lxc("storage", "list", "--format", "csv")):
        for kind, volume, *_ in rows(lxc("storage", "volume", "list", pool, "--format", "csv")):
            if kind == "custom":
                lxc("storage", "volume", "delete", pool, volume)
        lxc("storage", "delete", pool)


def rows(text: str) -> list[list[str]]:
    return list(csv.reader(io.StringIO(text)))


def test_pools(lxc: Client, bare: Daemon) -> None:
    assert lxc("storage", "create", "p1", "dir") == "Storage pool p1 created\n"
    assert lxc("storage", "create", "b1", "btrfs", "size=256MiB") == "Storage pool b1 created\n"
    loop, directory = f"{bare.state_dir}/disks/b1.img", f"{bare.state_dir}/storage-pools/p1"
    assert rows(lxc("storage", "list", "--format", "csv")) == [
        ["b1", "btrfs", loop, "", "0", "CREATED"],
        ["p1", "dir", directory, "", "0", "CREATED"],
    ]
    assert [pool["name"] for pool in json.loads(lxc("storage", "list", "--format", "json"))] == ["b1", "p1"]
    assert lxc("storage", "show", "b1") == (
        f'config:\n  size: 256MiB\n  source: {loop}\ndescription: ""\nname: b1\ndriver: btrfs\n'
        "used_by: []\nstatus: Created\nlocations:\n- none\n"
    )
    shown = yaml.safe_load(lxc("storage", "info", "--bytes", "b1"))
    assert shown["info"]["driver"] == "btrfs"
    assert int(shown["info"]["total space"]) == 256 * 2**20
    assert shown["used by"] == {}


def test_settings_of_pools(lxc: Client) -> None:
    lxc("storage", "create", "b1", "btrfs", "size=256MiB")
    lxc("storage", "set", "b1", "size", "512MiB")
    assert lxc("storage", "get", "b1", "size") == "512MiB\n"
    assert int(yaml.safe_load(lxc("storage", "info", "--bytes", "b1"))["info"]["total space"]) == 512 * 2**20
    lxc("storage", "set", "b1", "btrfs.mount_options", "noatime")
    lxc("storage", "set", "b1", "user.x", "y")
    lxc("storage", "unset", "b1", "user.x")
    assert lxc("storage", "get", "b1", "user.x").strip() == ""
    shown = yaml.safe_load(lxc("storage", "show", "b1"))
    shown["description"] = "words"
    lxc("storage", "edit", "b1", stdin=yaml.safe_dump(shown))
    assert yaml.safe_load(lxc("storage", "show", "b1")) == shown


def test_what_scripts_read_of_errors(lxc: Client) -> None:
    lxc("storage", "create", "p1", "dir")
    assert "Error: The storage pool already exists" in lxc.fails("storage", "create", "p1", "dir")
    assert "Error: Storage pool not found" in lxc.fails("storage", "show", "nope")
    assert 'Error: Invalid option "foo"' in lxc.fails("storage", "set", "p1", "foo", "bar")
    lxc("storage", "volume", "create", "p1", "v1")
    assert "Error: Volume by that name already exists" in lxc.fails("storage", "volume", "create", "p1", "v1")
    assert "Error: The storage pool is currently in use" in lxc.fails("storage", "delete", "p1")
    assert "not found" in lxc.fails("storage", "volume", "delete", "p1", "nope")


def test_volumes(lxc: Client) -> None:
    lxc("storage", "create", "p1", "dir")
    assert lxc("storage", "volume", "create", "p1", "v1") == "Storage volume v1 created\n"
    assert rows(lxc("storage", "volume", "list", "p1", "--format", "csv")) == [["custom", "v1", "", "filesystem", "0"]]
    shown = yaml.safe_load(lxc("storage", "volume", "show", "p1", "v1"))
    assert shown.pop("created_at") is not None
    assert shown == {
        "config": {},
        "content_type": "filesystem",
        "description": "",
        "location": "none",
        "name": "v1",
        "project": "default",
        "type": "custom",
        "used_by": [],
    }
    lxc("storage", "volume", "set", "p1", "v1", "user.a", "b")
    assert lxc("storage", "volume", "get", "p1", "v1", "user.a") == "b\n"
    assert lxc("storage", "volume", "rename", "p1", "v1", "v2") == 'Renamed storage volume from "v1" to "v2"\n'
    assert lxc("storage", "volume", "delete", "p1", "v2") == "Storage volume v2 deleted\n"


def test_snapshots_of_volumes(lxc: Client) -> None:
    lxc("storage", "create", "b1", "btrfs", "size=256MiB")
    lxc("storage", "volume", "create", "b1", "v1", "size=20MiB")
    lxc("storage", "volume", "snapshot", "b1", "v1")
    lxc("storage", "volume", "snapshot", "b1", "v1", "s1")
    listed = rows(lxc("storage", "volume", "list", "b1", "--format", "csv"))
    assert [row[:2] for row in listed] == [
        ["custom", "v1"],
        ["custom (snapshot)", "v1/s1"],
        ["custom (snapshot)", "v1/snap0"],
    ]
    shown = lxc("storage", "volume", "info", "b1", "v1")
    assert shown.startswith("Name: v1\nType: custom\nContent type: filesystem\nUsage: ")
    assert "Total: 20.00MiB\n" in shown
    assert "| s1 " in shown
    lxc("storage", "volume", "rename", "b1", "v1/s1", "v1/s2")
    lxc("storage", "volume", "restore", "b1", "v1", "s2")
    assert yaml.safe_load(lxc("storage", "volume", "show", "b1", "v1/s2"))["config"] == {"size": "20MiB"}
    lxc("storage", "volume", "delete", "b1", "v1/s2")
    lxc("storage", "volume", "delete", "b1", "v1")
