"""The entry point: dispatch, help, errors and exit codes, with no server."""

from pathlib import Path

import pytest

from corral.cli import main as program
from corral.cli.main import ENTRIES, main


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LXD_DIR", str(tmp_path / "no-daemon"))
    monkeypatch.setenv("LXD_CONF", str(tmp_path))
    monkeypatch.setenv("CORRAL_DIR", str(tmp_path / "no-daemon"))
    monkeypatch.setenv("CORRAL_CONF", str(tmp_path))
    monkeypatch.delenv("LXC_ALIASES", raising=False)


def run(capfdbinary: pytest.CaptureFixture[bytes], *argv: str) -> tuple[int, str, str]:
    code = main(["lxc", *argv])
    out, err = capfdbinary.readouterr()
    return code, out.decode(), err.decode()


@pytest.mark.parametrize("word", sorted(ENTRIES))
def test_every_command_has_help(word: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, err = run(capfdbinary, word, "--help")
    assert (code, err) == (0, "")
    assert out.startswith("Description:\n  ")
    assert f"Usage:\n  lxc {word}" in out
    assert "{" not in out.replace("profiles: {}", "")


@pytest.mark.parametrize("word", sorted(ENTRIES))
def test_the_table_agrees_with_the_declarations(word: str) -> None:
    module, name, summary, hidden = ENTRIES[word]
    command = program._load(module, name)
    assert (command.name, command.short, command.hidden) == (word, summary, hidden)
    for alias in command.aliases:
        assert program.WORD_ALIASES[alias] == word


def test_no_argument_at_all(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, _ = run(capfdbinary)
    assert code == 0
    assert "Available Commands:\n  alias       Manage command aliases\n" in out
    assert out == run(capfdbinary, "--help")[1] == run(capfdbinary, "help")[1]
    assert "  monitor " in run(capfdbinary, "help", "--all")[1]


def test_help_of_what_lies_deeper(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(capfdbinary, "help", "image", "alias") == run(capfdbinary, "image", "alias", "--help")


@pytest.mark.parametrize(
    ("argv", "error"),
    [
        (["bogus"], 'unknown command "bogus" for "lxc"'),
        (["lis"], 'unknown command "lis" for "lxc"\n\nDid you mean this?\n\talias\n\tlist\n'),
        (["image", "bogus"], 'unknown command "bogus" for "lxc image"'),
        (["list", "--bogus"], "unknown flag: --bogus"),
        (["rename", "a", "b", "c"], "Invalid number of arguments"),
        (["list", "nope:"], 'The remote "nope" doesn\'t exist'),
        (["list", "--project", "x", "--all-projects"], "Can't specify --project with --all-projects"),
        (["exec", "c1", "-t", "-T", "ls"], "You can't pass -t and -T at the same time"),
        (["query", "nope"], "Query path must start with /"),
    ],
)
def test_errors(argv: list[str], error: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, _, err = run(capfdbinary, *argv)
    assert (code, err) == (1, f"Error: {error}\n")


def test_too_few_arguments_show_the_help(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, err = run(capfdbinary, "exec")
    assert (code, err) == (0, "")
    assert "Usage:\n  lxc exec [<remote>:]<instance>" in out


def test_a_group_alone_shows_its_usage(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    code, out, err = run(capfdbinary, "image")
    assert (code, out) == (0, "")
    assert err.startswith("Usage:\n  lxc image [flags]\n  lxc image [command]\n")


def test_a_missing_daemon_is_named(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    code, _, err = run(capfdbinary, "list")
    assert code == 1
    assert err == (
        f"Error: Cannot reach the LXD daemon at its socket {tmp_path}/no-daemon/unix.socket: "
        "No such file or directory\n"
        "Start it, or name its directory in LXD_DIR\n"
    )


def test_versions(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(capfdbinary, "--version")[1] == "5.0.2\n"
    assert run(capfdbinary, "version")[1] == "Client version: 5.0.2\nServer version: unreachable\n"
    assert main(["/usr/local/bin/corral", "--version"]) == 0
    assert capfdbinary.readouterr()[0] == b"0.1.0\n"


def test_an_alias_is_followed_once(capfdbinary: pytest.CaptureFixture[bytes], tmp_path: Path) -> None:
    (tmp_path / "config.yml").write_text("aliases:\n  version: version local\n  v: version\n")
    assert run(capfdbinary, "v")[1].startswith("Client version: 5.0.2\n")


def test_the_old_name_of_profile(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(capfdbinary, "config", "profile", "list", "--help") == run(capfdbinary, "profile", "list", "--help")
