"""`lxc file` by the unmodified client, on running and stopped instances, and never outside their root."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from harness.client import Client


@pytest.fixture(params=["running", "stopped"])
def target(request: pytest.FixtureRequest, make_instance: Callable[..., str]) -> str:
    """An instance in both states."""
    return make_instance(start=request.param == "running")


def test_push_and_pull(lxc: Client, target: str, tmp_path: Path) -> None:
    source, back = tmp_path / "source", tmp_path / "back"
    source.write_bytes(os.urandom(3 << 20))
    lxc("file", "push", "--mode", "0640", "--uid", "1000", "--gid", "1000", source, f"{target}/root/file")
    lxc("file", "pull", f"{target}/root/file", back)
    assert back.read_bytes() == source.read_bytes()
    assert back.stat().st_mode & 0o777 == 0o640


def test_ownership_is_the_guests(lxc: Client, instance: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    lxc("file", "push", "--mode", "0640", "--uid", "1000", "--gid", "1000", tmp_path / "file", f"{instance}/tmp/file")
    assert lxc("exec", instance, "--", "stat", "-c", "%u %g %a", "/tmp/file").split() == ["1000", "1000", "640"]


def test_from_and_to_a_pipe(lxc: Client, target: str) -> None:
    lxc("file", "push", "-", f"{target}/root/piped", stdin="from a pipe\n")
    assert lxc("file", "pull", f"{target}/root/piped", "-") == "from a pipe\n"


def test_directories(lxc: Client, target: str, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "deep" / "er").mkdir(parents=True)
    (tree / "a").write_text("a")
    (tree / "deep" / "er" / "b").write_text("b")
    (tree / "link").symlink_to("a")
    lxc("file", "push", "-r", "-p", tree, f"{target}/root/new/place/")
    lxc("file", "pull", "-r", f"{target}/root/new/place/tree", tmp_path / "back")
    back = tmp_path / "back" / "tree"
    assert (back / "a").read_text() == "a"
    assert (back / "deep" / "er" / "b").read_text() == "b"
    # The client makes the pulled link absolute.
    assert os.readlink(back / "link").endswith("a")


def test_create_a_directory_on_the_way(lxc: Client, target: str) -> None:
    assert "not found" in lxc.fails("file", "push", "-", f"{target}/root/no/such/file", stdin="x").lower()
    lxc("file", "push", "-p", "-", f"{target}/root/no/such/file", stdin="x")
    assert lxc("file", "pull", f"{target}/root/no/such/file", "-") == "x"


def test_delete(lxc: Client, target: str) -> None:
    lxc("file", "push", "-", f"{target}/root/gone", stdin="x")
    lxc("file", "delete", f"{target}/root/gone")
    assert "not found" in lxc.fails("file", "pull", f"{target}/root/gone", "-").lower()


def test_edit(lxc: Client, target: str) -> None:
    lxc("file", "push", "-", f"{target}/root/edited", stdin="before\n")
    lxc("file", "edit", f"{target}/root/edited", stdin="after\n")
    assert lxc("file", "pull", f"{target}/root/edited", "-") == "after\n"


@pytest.mark.parametrize("link", ["/etc", "../../../../../../etc"])
def test_links_never_lead_outside(lxc: Client, instance: str, link: str) -> None:
    host = Path("/etc/corral-escape")
    lxc("exec", instance, "--", "ln", "-s", link, "/root/out")
    lxc.run("file", "push", "-", f"{instance}/root/out/corral-escape", stdin="escaped")
    assert not host.exists()
    lxc("stop", instance, "--force")
    lxc.run("file", "push", "-", f"{instance}/root/out/corral-escape", stdin="escaped")
    assert not host.exists()
    assert lxc("file", "pull", f"{instance}/etc/corral-escape", "-") == "escaped"


def test_a_missing_file_is_named(lxc: Client, target: str) -> None:
    assert "not found" in lxc.fails("file", "pull", f"{target}/missing", "-").lower()
