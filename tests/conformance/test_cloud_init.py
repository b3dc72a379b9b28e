"""A Debian machine that configures itself by cloud-init, which asks the guest API who it is."""

import json
from collections.abc import Callable, Mapping

import yaml

from harness.api import Api
from harness.client import Client
from harness.waiting import until

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJx2yVtRZ4GSqFEvYSBdRGUCPEQ2yMjqQdo4BtNDuV0k guest@example"

USER_DATA = {
    "users": [
        {
            "name": "alice",
            "shell": "/bin/bash",
            "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "ssh_authorized_keys": [KEY],
        }
    ],
    "write_files": [{"path": "/srv/written", "content": "by cloud-init\n", "permissions": "0640"}],
    "runcmd": [["sh", "-c", "echo ran >>/srv/ran"]],
}
VENDOR_DATA = {"timezone": "Europe/Vienna"}
NETWORK = {
    "version": 1,
    "config": [
        {
            "type": "physical",
            "name": "eth0",
            "subnets": [{"type": "dhcp4"}, {"type": "static", "address": "10.123.45.67/24"}],
        }
    ],
}


LEGACY = {
    "user.user-data": "#cloud-config\nwrite_files: [{path: /srv/written, content: by a seed}]",
    "user.network-config": "version: 1\nconfig: disabled",
    "user.meta-data": "local-hostname: named-by-a-seed",
    "security.devlxd": "false",
}
"""What images find in their seed, which templates write, where there is no guest API to ask."""


def cloud_config(document: Mapping[str, object]) -> str:
    return f"#cloud-config\n{yaml.safe_dump(dict(document))}"


class Machine:
    """A Debian container."""

    def __init__(self, lxc: Client, name: str) -> None:
        self._lxc, self.name = lxc, name

    def __call__(self, *argv: str) -> str:
        return self._lxc("exec", self.name, "--", *argv)

    def wait(self) -> str:
        """Wait until cloud-init has done its work; its source of data."""
        done = self._lxc.run("exec", self.name, "--", "cloud-init", "status", "--wait", timeout_s=180)
        log = self._lxc.run("exec", self.name, "--", "tail", "-n", "60", "/var/log/cloud-init.log").stdout.decode()
        assert (done.returncode, "status: done" in done.stdout.decode()) == (0, True), f"{done.stdout.decode()}\n{log}"
        result = json.loads(self("cat", "/run/cloud-init/result.json"))["v1"]
        assert result["errors"] == []
        return str(result["datasource"])


def test_machines_configure_themselves(
    api: Api, lxc: Client, cloud_image: str, make_instance: Callable[..., str]
) -> None:
    config = {
        "cloud-init.user-data": cloud_config(USER_DATA),
        "cloud-init.vendor-data": cloud_config(VENDOR_DATA),
        "cloud-init.network-config": yaml.safe_dump(NETWORK),
    }
    asking = Machine(lxc, make_instance("asking", image=cloud_image, config=config))
    seeded = Machine(lxc, make_instance("seeded", image=cloud_image, config=LEGACY))
    assert asking.wait() == "DataSourceLXD"
    check(asking)
    assert seeded.wait().startswith("DataSourceNoCloud")
    assert seeded("cat", "/srv/written") == "by a seed"
    assert seeded("hostname").strip() == "named-by-a-seed"

    # Other data is another machine to cloud-init: what is done once is done once more.
    before = identity(api)
    changed = {**USER_DATA, "write_files": [{"path": "/srv/written", "content": "again\n"}]}
    lxc("config", "set", "asking", "cloud-init.user-data", cloud_config(changed))
    assert identity(api) != before
    lxc("restart", "asking", timeout_s=120)
    assert asking.wait() == "DataSourceLXD"
    assert asking("cat", "/srv/written") == "again\n"
    assert asking("cat", "/srv/ran") == "ran\nran\n"


def identity(api: Api) -> str:
    return str(api.get("/1.0/instances/asking")["config"]["volatile.cloud-init.instance-id"])


def check(machine: Machine) -> None:
    """Everything that was asked for is there."""
    assert "(alice)" in machine("id", "alice")
    assert machine("sudo", "-u", "alice", "sudo", "-n", "id", "-u").strip() == "0"
    assert machine("cat", "/home/alice/.ssh/authorized_keys").strip() == KEY
    assert machine("stat", "-c", "%a", "/srv/written").strip() == "640"
    assert machine("cat", "/srv/written") == "by cloud-init\n"
    assert machine("cat", "/srv/ran") == "ran\n"
    assert machine("readlink", "/etc/localtime").strip().endswith("Europe/Vienna")
    assert machine("hostname").strip() == "asking"

    def addresses() -> list[str]:
        shown = json.loads(machine("ip", "-j", "-4", "address", "show", "dev", "eth0"))
        return [one["local"] for one in shown[0]["addr_info"]]

    until(lambda: len(addresses()) == 2, "eth0 has an address by DHCP besides the one that was given")
    assert "10.123.45.67" in addresses()
