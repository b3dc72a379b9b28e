"""The configuration file: reading what the Go client wrote, writing it back, and what arguments mean."""

from pathlib import Path

import pytest

from corral.client.remotes import Remotes, load_remotes, parse_plain_yaml
from corral.errors import CorralError
from corral.product import LXD

FILE = """default-remote: far
remotes:
  far:
    addr: https://10.0.0.1:8443
    auth_type: tls
    project: web
    protocol: lxd
    public: false
  images:
    addr: https://images.linuxcontainers.org
    protocol: simplestreams
    public: true
  local:
    addr: unix://
    project: mine
    public: false
aliases:
  mylist: list -c ns
"""


def load(directory: Path, content: str) -> Remotes:
    (directory / "config.yml").write_text(content)
    return load_remotes(LXD, str(directory))


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("LXC_REMOTE", raising=False)
    monkeypatch.setenv("LXD_GLOBAL_CONF", str(tmp_path / "global"))


def test_load(tmp_path: Path) -> None:
    remotes = load(tmp_path, FILE)
    assert remotes.default_remote == "far"
    assert remotes.aliases == {"mylist": "list -c ns"}
    assert remotes.remotes["far"].project == "web"
    assert not remotes.remotes["far"].public
    assert remotes.remotes["images"].public
    assert remotes.remotes["local"].is_static
    assert remotes.remotes["local"].project == "mine"
    assert set(remotes.remotes) == {"far", "images", "local", "ubuntu", "ubuntu-daily"}


def test_save_writes_what_was_read(tmp_path: Path) -> None:
    remotes = load(tmp_path, FILE)
    remotes.save()
    assert (tmp_path / "config.yml").read_text() == FILE


def test_defaults(tmp_path: Path) -> None:
    remotes = load_remotes(LXD, str(tmp_path / "none"))
    remotes.save()
    assert (tmp_path / "none" / "config.yml").read_text() == (
        "default-remote: local\nremotes:\n  images:\n    addr: https://images.linuxcontainers.org\n"
        "    protocol: simplestreams\n    public: true\n  local:\n    addr: unix://\n    public: false\naliases: {}\n"
    )


def test_the_environment_chooses_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LXC_REMOTE", "images")
    assert load(tmp_path, FILE).default_remote == "images"


def test_global_remotes_are_not_saved(tmp_path: Path) -> None:
    (tmp_path / "global").mkdir()
    (tmp_path / "global" / "config.yml").write_text(
        "remotes:\n  shared:\n    addr: https://s:8443\n    public: false\n"
    )
    remotes = load(tmp_path, FILE)
    assert remotes.remotes["shared"].is_global
    remotes.save()
    assert "shared" not in (tmp_path / "config.yml").read_text()


@pytest.mark.parametrize(
    ("raw", "meaning"),
    [
        ("c1", ("far", "c1")),
        ("local:c1", ("local", "c1")),
        ("local:", ("local", "")),
        ("", ("far", "")),
        ("c1/snap:2", ("far", "c1/snap:2")),
        ("local:c1/snap", ("local", "c1/snap")),
    ],
)
def test_parse(tmp_path: Path, raw: str, meaning: tuple[str, str]) -> None:
    assert load(tmp_path, FILE).parse(raw) == meaning


def test_an_unknown_remote_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorralError, match='The remote "nope" doesn\'t exist'):
        load(tmp_path, FILE).parse("nope:c1")


def test_image_servers_run_no_instances(tmp_path: Path) -> None:
    with pytest.raises(CorralError, match="isn't a private LXD server"):
        load(tmp_path, FILE).server("images")


@pytest.mark.parametrize(
    "content",
    [
        "aliases:\n  a: 'quoted'\n",
        "a:\n- b\n",
        "# comment\n",
        "a: {b: c}\n",
        "a:\n    b: c\n",
        "a: null\n",
        "a: b: c\n",
    ],
)
def test_what_is_not_plain_is_left_to_the_yaml_library(content: str) -> None:
    assert parse_plain_yaml(content) is None


def test_quoted_files_are_read_too(tmp_path: Path) -> None:
    remotes = load(tmp_path, "# mine\naliases:\n  a: 'exec @ARGS@ -- sh -c \"x\"'\n")
    assert remotes.aliases == {"a": 'exec @ARGS@ -- sh -c "x"'}


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CorralError, match="Unable to decode the configuration: yaml"):
        load(tmp_path, "a: [\n")
