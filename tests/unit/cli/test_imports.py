"""What the command line imports: the user waits for every module, so a new one needs a decision.

The lists below are the decision. They hold what a bare interpreter (`python3 -IS`) does not load by itself.
"""

import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[3] / "src"

BASE = {
    "__future__",
    "_collections_abc",
    "_stat",
    "corral",
    "corral.cli",
    "corral.cli.command",
    "corral.cli.main",
    "corral.cli.output",
    "corral.errors",
    "corral.product",
    "genericpath",
    "os",
    "os.path",
    "posixpath",
    "stat",
}
HELP = BASE | {"corral.cli.help"}
LIST = BASE | {
    "_json",
    "_socket",
    "corral.cli.commands",
    "corral.cli.commands.list",
    "corral.cli.commands.list_columns",
    "corral.cli.session",
    "corral.cli.table",
    "corral.client",
    "corral.client.codec",
    "corral.client.connection",
    "corral.client.remotes",
    "corral.client.server",
}

PROGRAM = """
import sys
before = set(sys.modules)
sys.path.insert(0, {sources!r})
from corral.cli.main import main
code = main(["lxc", *{argv!r}])
sys.stdout.flush()
print(code, *sorted(set(sys.modules) - before), file=sys.stderr)
"""

SERVER = """
import socket, sys
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(sys.argv[1])
    listener.listen()
    print("ready", flush=True)
    peer, _ = listener.accept()
    body = b'{"type":"sync","metadata":[{"name":"c1","status":"Stopped","status_code":102,"type":"container",' \\
        b'"location":"none","state":null,"snapshots":null}]}'
    peer.recv(65536)
    peer.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n" % len(body) + body)
    peer.recv(1)
"""


def imported_by(directory: Path, *argv: str) -> tuple[str, set[str]]:
    """(Standard output, imported modules) of a run."""
    (directory / "config.yml").write_text("remotes:\n  local:\n    addr: unix://\n    public: false\naliases: {}\n")
    done = subprocess.run(
        [sys.executable, "-IS", "-c", PROGRAM.format(sources=str(SOURCES), argv=list(argv))],
        env={"LXD_DIR": str(directory), "LXD_CONF": str(directory)},
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    code, *modules = done.stderr.split()
    assert code == "0", done.stderr
    return done.stdout, set(modules)


def test_help(tmp_path: Path) -> None:
    assert imported_by(tmp_path, "--help")[1] == HELP


def test_list(tmp_path: Path) -> None:
    socket = tmp_path / "unix.socket"
    with subprocess.Popen([sys.executable, "-c", SERVER, str(socket)], stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        shown, modules = imported_by(tmp_path, "list")
        assert server.wait(60) == 0
    assert "| c1   | STOPPED |" in shown
    assert modules == LIST


@pytest.mark.parametrize("module", ["json", "re", "socket", "typing", "dataclasses", "pathlib", "yaml", "ssl"])
def test_what_is_expensive_stays_out(module: str) -> None:
    assert module not in HELP | LIST
