"""What our own client has beyond that of LXD 5.0.2: fields by --property, refreshed profiles, manual pages."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.client import Client
from harness.daemon import Daemon


@pytest.fixture
def ours(daemon: Daemon) -> Client:
    """Our own client: the unmodified one of 5.0.2 has none of this."""
    return Client(daemon.programs.lxc, daemon)


@pytest.fixture
def profile(ours: Client) -> Iterator[str]:
    ours("profile", "create", "p")
    yield "p"
    ours("profile", "delete", "p")


def test_fields_of_records(ours: Client, daemon: Daemon, profile: str) -> None:
    for noun, name in (
        ("profile", profile),
        ("network", daemon.bridge),
        ("storage", "default"),
        ("project", "default"),
    ):
        before = ours(noun, "get", "-p", name, "description")
        ours(noun, "set", "-p", name, "description=some words")
        assert ours(noun, "get", "--property", name, "description") == "some words\n"
        ours(noun, "unset", "-p", name, "description")
        assert ours(noun, "get", "-p", name, "description") == "\n"
        ours(noun, "set", "-p", name, "description", before.strip())
        assert "does not exist" in ours.fails(noun, "get", "-p", name, "nope")
        assert "cannot be set" in ours.fails(noun, "set", "-p", name, "config=x")


def test_fields_of_instances(ours: Client, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False)
    ours("config", "set", "-p", name, "ephemeral=true", "description=words")
    assert ours("config", "get", "-p", name, "ephemeral") == "true\n"
    assert "true or false" in ours.fails("config", "set", "-p", name, "ephemeral=perhaps")
    ours("config", "set", "-p", name, "ephemeral", "false")
    ours("config", "unset", "-p", name, "description")
    assert ours("config", "get", "-p", name, "description") == "\n"
    ours("snapshot", name, "s")
    ours("config", "set", "-p", f"{name}/s", "expires_at=2099-01-01T00:00:00Z")
    assert "2099" in ours("config", "get", "-p", f"{name}/s", "expires_at")
    assert "server" in ours.fails("config", "get", "-p", "config")


def test_fields_of_volumes(ours: Client) -> None:
    ours("storage", "volume", "create", "default", "v")
    ours("storage", "volume", "set", "-p", "default", "v", "description=words")
    assert ours("storage", "volume", "get", "-p", "default", "v", "description") == "words\n"
    ours("storage", "volume", "unset", "-p", "default", "v", "description")
    assert ours("storage", "volume", "get", "-p", "default", "v", "description") == "\n"
    ours("storage", "volume", "delete", "default", "v")


def test_a_profile_is_refreshed(ours: Client, profile: str) -> None:
    ours("profile", "set", profile, "user.x=1")
    ours("profile", "copy", profile, "q", "--refresh")
    ours("profile", "set", profile, "user.x=2")
    assert "already exists" in ours.fails("profile", "copy", profile, "q")
    ours("profile", "copy", profile, "q", "--refresh")
    assert ours("profile", "get", "q", "user.x") == "2\n"
    ours("profile", "delete", "q")


def test_manual_pages(ours: Client, tmp_path: Path) -> None:
    ours("manpage", str(tmp_path))
    page = (tmp_path / "lxc-config-device-add.1").read_text()
    assert page.startswith('.TH "LXC-CONFIG-DEVICE-ADD" 1\n.SH NAME\n')
    assert ".SH OPTIONS OF ALL COMMANDS" in page
    assert (tmp_path / "lxc.1").read_text().count(".BR") > 20
    assert "does not exist" in ours.fails("manpage", str(tmp_path / "nope"))


def test_a_move_changes_what_it_is_told_to(ours: Client, profile: str, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False, config={"user.old": "1", "user.kept": "2"})
    ours("storage", "create", "other", "dir")
    try:
        flags = ("-c", "user.old=", "-c", "user.new=3", "-d", "root,size=1GiB", "-p", "default", "-p", profile)
        ours("move", name, "--storage", "other", *flags)
        shown = ours("config", "show", name)
        assert 'user.new: "3"' in shown
        assert 'user.kept: "2"' in shown
        assert "user.old" not in shown
        assert "size: 1GiB" in shown
        assert "pool: other" in shown
        assert f"- {profile}\n" in shown
        assert "volatile" in ours.fails("move", name, "--storage", "default", "-c", "volatile.nonsense=x")
        ours("move", name, "--storage", "default", "--no-profiles")
        assert "profiles: []" in ours("config", "show", name)
    finally:
        ours("delete", "--force", name)
        ours("storage", "delete", "other")


def test_a_copy_without_a_name_gets_one(ours: Client, make_instance: Callable[..., str]) -> None:
    name = make_instance(start=False)
    answer = ours("copy", name)
    assert answer.startswith("Instance name is: ")
    copy = answer.split()[-1]
    assert copy != name
    ours("delete", copy)


def test_a_server_that_is_no_cluster(ours: Client) -> None:
    asked = (("add", "x"), ("group", "list"), ("role", "add", "x", "y"), ("remove", "x"), ("list",), ("list-tokens",))
    for words in asked:
        assert "isn't part of a cluster" in ours.fails("cluster", *words)
    assert "Clustering is not available" in ours.fails("cluster", "enable", "x")
