"""What is told of the config keys."""

from typing import Any

from corral.server.instances.keys import KEYS
from corral.server.rest.routes import metadata


def keys_of(thing: str) -> dict[str, dict[str, Any]]:
    groups = metadata.compose()["configs"][thing].values()
    return {name: told for group in groups for one in group["keys"] for name, told in one.items()}


def test_every_key_of_instances_is_told() -> None:
    told = keys_of("instance")
    assert {key.name for key in KEYS} <= told.keys()
    assert {"user.*", "user.user-data", "limits.kernel.nofile", "volatile.<name>.hwaddr"} <= told.keys()
    assert all(one["shortdesc"] for one in told.values())


def test_what_holds_for_keys_that_are_unset() -> None:
    told = keys_of("instance")
    assert told["limits.cpu.allowance"]["defaultdesc"] == "`100%`"
    assert told["security.syscalls.deny_default"]["defaultdesc"] == "`true`"
    assert told["limits.memory"]["liveupdate"] == "yes"
    assert told["limits.kernel.nofile"]["liveupdate"] == "no"
    assert "defaultdesc" not in told["limits.memory"]
