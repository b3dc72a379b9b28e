"""When an instance is another machine to cloud-init."""

from dataclasses import replace

import pytest

from corral.server.instances import identities
from corral.server.instances.model import Devices
from harness import records

NICS: Devices = {"eth0": {"type": "nic", "name": "eth0"}, "second": {"type": "nic"}, "root": {"type": "disk"}}
OLD = records.instance(
    config={"volatile.second.name": "eth1"},
    expanded_config={"user.user-data": "a", "user.foo": "b"},
    expanded_devices=NICS,
)


@pytest.mark.parametrize(
    ("config", "devices", "is_another"),
    [
        ({"user.user-data": "a", "user.foo": "c"}, NICS, False),
        ({"user.user-data": "b"}, NICS, True),
        ({}, NICS, True),
        ({"user.user-data": "a", "cloud-init.network-config": "version: 2"}, NICS, True),
        ({"user.user-data": "a"}, {**NICS, "root": {"type": "disk", "size": "1GiB"}}, False),
        ({"user.user-data": "a"}, {**NICS, "eth0": {"type": "nic", "name": "eth0", "mtu": "1400"}}, False),
        ({"user.user-data": "a"}, {**NICS, "eth0": {"type": "nic", "name": "lan"}}, True),
        ({"user.user-data": "a"}, {"eth0": NICS["eth0"]}, True),
    ],
)
def test_is_another_machine(config: dict[str, str], devices: Devices, is_another: bool) -> None:
    new = replace(OLD, expanded_config=config, expanded_devices=devices)
    assert identities.is_another_machine(OLD, new) is is_another
