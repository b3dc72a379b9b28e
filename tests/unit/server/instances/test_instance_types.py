"""Instance types as limits."""

import pytest

from corral.errors import InvalidRequest
from corral.server.instances.instance_types import Types, load_types, parse_type
from corral.server.instances.validation import check_config

TYPES: Types = {"aws": {"t2.micro": {"cpu": 1, "mem": 1}, "twin": {"cpu": 1}}, "gce": {"twin": {"mem": 0.6}}}


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("c2-m4", {"limits.cpu": "2", "limits.memory": "4096MB"}),
        ("m4-c2", {"limits.cpu": "2", "limits.memory": "4096MB"}),
        ("c0.5-m0.2", {"limits.cpu": "1", "limits.cpu.allowance": "50%", "limits.memory": "204MB"}),
        ("c1.5", {"limits.cpu": "2", "limits.cpu.allowance": "75%"}),
        ("c0.001", {"limits.cpu": "1", "limits.cpu.allowance": "1%"}),
        ("m.5", {"limits.memory": "512MB"}),
        ("m0.0001", {"limits.memory": "1MB"}),
        ("t2.micro", {"limits.cpu": "1", "limits.memory": "1024MB"}),
        ("aws:t2.micro", {"limits.cpu": "1", "limits.memory": "1024MB"}),
        ("gce:twin", {"limits.memory": "614MB"}),
    ],
)
def test_types(text: str, limits: dict[str, str]) -> None:
    assert parse_type(text, TYPES) == limits
    check_config(limits, None)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("t2.huge", "doesn't exist: t2.huge"),
        ("aws:t2.huge", "doesn't exist"),
        ("nobody:t2.micro", "doesn't exist"),
        ("aws:c2-m4", "doesn't exist"),
        ("twin", "Ambiguous instance type provided: twin"),
        ("c", "doesn't exist"),
        ("-", "doesn't exist"),
        ("c2-", "doesn't exist"),
        ("c2-x4", "doesn't exist"),
        ("cx-m4", "Bad custom instance type: cx-m4"),
        ("c-1", "doesn't exist"),
        ("c1e3", "Bad custom"),
        ("cinf", "Bad custom"),
        ("cnan-m4", "Bad custom"),
        ("c9999999", "Bad custom"),
        ("c1\n", "Bad custom"),
        ("c١", "Bad custom"),
    ],
)
def test_what_is_no_type(text: str, reason: str) -> None:
    with pytest.raises(InvalidRequest, match=reason):
        parse_type(text, TYPES)


def test_the_table_that_comes_along_is_sound() -> None:
    types = load_types()
    assert set(types) == {"aws", "azure", "gce"}
    for provider, sizes in types.items():
        for name in sizes:
            limits = parse_type(f"{provider}:{name}", types)
            assert set(limits) >= {"limits.cpu", "limits.memory"}
            check_config(limits, None)
            assert parse_type(name, types) == limits, f"{name} is not clear without its provider"
    assert parse_type("f1-micro", types) == {
        "limits.cpu": "1",
        "limits.cpu.allowance": "20%",
        "limits.memory": "614MB",
    }
    assert parse_type("Standard_A1", types) == {"limits.cpu": "1", "limits.memory": "1792MB"}
