"""What changes when a client sends a configuration."""

import pytest

from corral.errors import InvalidRequest
from corral.server.settings import change


def test_only_differences_change() -> None:
    present = {"core.proxy_http": "a", "user.x": "1", "core.proxy_https": "b"}
    assert change.plan(present, {"core.proxy_http": "a", "user.x": "2"}) == {"user.x": "2", "core.proxy_https": ""}
    assert change.plan(present, present) == {}


def test_a_default_is_not_stored() -> None:
    assert change.plan({}, {"images.auto_update_interval": "6"}) == {}
    assert change.plan({"images.auto_update_interval": "5"}, {"images.auto_update_interval": "6"}) == {
        "images.auto_update_interval": ""
    }


def test_booleans_are_normal() -> None:
    assert change.plan({}, {"core.https_allowed_credentials": "YES"}) == {"core.https_allowed_credentials": "true"}
    assert change.plan({}, {"core.https_allowed_credentials": "off"}) == {}
    assert change.plan({}, {"images.auto_update_cached": "0"}) == {"images.auto_update_cached": "false"}
    assert change.plan({}, {"images.auto_update_cached": "on"}) == {}


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"foo": "bar"}, "cannot set 'foo' to 'bar': unknown key"),
        ({"a": "1", "b": "2"}, "cannot set 'a' to '1': unknown key (and 1 more errors)"),
        ({"core.shutdown_timeout": "x"}, "cannot set 'core.shutdown_timeout' to 'x': invalid integer"),
        ({"core.metrics_authentication": "x"}, "cannot set 'core.metrics_authentication' to 'x': invalid boolean"),
    ],
)
def test_problems_in_lxds_words(wanted: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        change.plan({}, wanted)
    assert str(caught.value) == message


def test_what_clients_send() -> None:
    present = {"core.trust_password": "hash"}
    sent = {"core.trust_password": True, "user.a": None, "core.proxy_http": "p"}
    assert change.parse_sent(present, sent) == {"core.trust_password": "hash", "user.a": "", "core.proxy_http": "p"}
    for value, kind in ((5, "float64"), (1.5, "float64"), (True, "bool"), ({}, "map"), ([], "slice")):
        with pytest.raises(InvalidRequest, match=f"cannot set 'user.a': invalid type {kind}"):
            change.parse_sent({}, {"user.a": value})


def test_secrets_and_defaults_are_not_shown() -> None:
    config = {"core.trust_password": "hash", "images.auto_update_interval": "6", "user.a": "b", "core.proxy_http": "p"}
    assert change.shown(config) == {"core.trust_password": True, "user.a": "b", "core.proxy_http": "p"}
