"""Config keys: tables, families, typed reads."""

import pytest

from corral.errors import InvalidRequest
from corral.server import keys
from corral.server.keys import Config, Key, KeyTable

MEMORY = Key("limits.memory", keys.SIZE, default="1GiB")
CPU = Key("limits.cpu", keys.INTEGER)
SYSCTL = Key("linux.sysctl.*", keys.STRING)
HWADDR = Key("volatile.*.hwaddr", keys.matching(r"([0-9a-f]{2}:){5}[0-9a-f]{2}", "MAC address"))
MODE = Key("mode", keys.enum("fast", "slow"))
PORT = Key("port", keys.integer_between(1, 65535))
TABLE = KeyTable(MEMORY, CPU, SYSCTL, HWADDR, MODE, PORT)


def validate(table: KeyTable, config: dict[str, str]) -> None:
    table.validate(config, lambda name: f"There is no {name}", lambda name: f"Wrong {name}")


def test_typed_reads_use_the_default() -> None:
    config = Config({"limits.cpu": "4", "mode": ""})
    assert config[CPU] == 4
    assert config[MEMORY] == 2**30
    assert config[MODE] is None
    assert config["limits.cpu"] == "4"
    assert dict(config) == {"limits.cpu": "4", "mode": ""}
    assert len(config) == 2


def test_find_knows_exact_names_and_families() -> None:
    assert TABLE.find("limits.cpu") is CPU
    assert TABLE.find("linux.sysctl.net.ipv4.ip_forward") is SYSCTL
    assert TABLE.find("volatile.eth0.hwaddr") is HWADDR
    assert TABLE.find("volatile.a.b.hwaddr") is None
    assert TABLE.find("linux.sysctl.") is None
    assert {key.name for key in TABLE} == {
        "limits.memory",
        "limits.cpu",
        "linux.sysctl.*",
        "volatile.*.hwaddr",
        "mode",
        "port",
    }


def test_validate_accepts_free_and_empty_values() -> None:
    validate(
        TABLE, {"user.anything": "x", "limits.cpu": "", "mode": "fast", "volatile.eth0.hwaddr": "00:16:3e:00:00:01"}
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"nope": "1"}, "^There is no nope$"),
        ({"limits.cpu": "x"}, "^Wrong limits.cpu: "),
        ({"mode": "medium"}, "fast, slow"),
        ({"port": "70000"}, "between 1 and 65535"),
        ({"volatile.eth0.hwaddr": "zz"}, "MAC address"),
        ({"limits.memory": "1XB"}, "Wrong limits.memory: "),
    ],
)
def test_validate_names_what_is_wrong(config: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        validate(TABLE, config)


def test_value_errors_of_libraries_are_ours() -> None:
    with pytest.raises(InvalidRequest, match="address"):
        Key("address", keys.IPV4).check("1.2.3")


def test_tables_add_up() -> None:
    both = KeyTable(CPU, free=("a.",)) + KeyTable(MODE, free=("b.",))
    validate(both, {"a.x": "", "b.y": "1", "limits.cpu": "1", "mode": "slow"})
    with pytest.raises(InvalidRequest):
        validate(both, {"user.x": "1"})


def test_unsigned_and_bounds() -> None:
    with pytest.raises(InvalidRequest):
        keys.UNSIGNED.parse("-1")
    with pytest.raises(InvalidRequest):
        keys.INTEGER.parse(str(2**63))
    assert keys.WORDS.parse("a, b,,c") == ["a", "b", "c"]
