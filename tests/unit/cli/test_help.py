"""Help texts in the layout of the Go programs."""

from corral.cli.command import GLOBAL_FLAGS, Command, number, switch, text
from corral.cli.help import render_help, render_usage, suggestions_for

LEAF = Command(
    "stop [<remote>:]<instance>",
    "Stop instances",
    lambda _: 0,
    (1, 1),
    aliases=("halt",),
    long="Stop instances\n\nAll of them.",
    examples="lxc stop c1",
    flags=(
        switch("force", "Force it", "f"),
        number("timeout", "Time to wait", default=-1),
        text("console", "Attach", implied="console"),
        text("format", "Format", "F", "table"),
    ),
)
ROOT = Command("lxc", "", commands=[Command("stop", "Stop instances"), Command("init", "Hidden", hidden=True)])

EXPECTED_LEAF = """Description:
  Stop instances

  All of them.

Usage:
  lxc stop [<remote>:]<instance> [flags]

Aliases:
  stop, halt

Examples:
  lxc stop c1

Flags:
      --console[="console"]   Attach
  -f, --force                 Force it
  -F, --format                Format (default "table")
      --timeout               Time to wait (default -1)

Global Flags:
      --debug          Show all debug messages
      --force-local    Force using the local unix socket
  -h, --help           Print help
      --project        Override the source project
  -q, --quiet          Don't show progress information
      --sub-commands   Use with help or --help to view sub-commands
  -v, --verbose        Show all information messages
      --version        Print version number
"""


def test_help_of_a_command() -> None:
    assert render_help([ROOT, LEAF], GLOBAL_FLAGS) == EXPECTED_LEAF


def test_usage_of_a_group() -> None:
    group = Command("image", "Manage images", commands=[Command("get-property", "Get"), Command("list", "List")])
    usage = render_usage([ROOT, group], GLOBAL_FLAGS)
    assert usage.startswith(
        "Usage:\n  lxc image [flags]\n  lxc image [command]\n\n"
        "Available Commands:\n  get-property Get\n  list         List\n\nGlobal Flags:\n"
    )
    assert usage.endswith('\n\nUse "lxc image [command] --help" for more information about a command.\n')


def test_help_of_the_root_hides_what_is_hidden() -> None:
    shown = render_usage([ROOT], GLOBAL_FLAGS)
    assert "  help        Help about any command\n  stop        Stop instances\n" in shown
    assert "init" not in shown
    assert "  init        Hidden\n" in render_usage([ROOT], GLOBAL_FLAGS, all_commands=True)


def test_deep_help_shows_what_is_below() -> None:
    root = Command("lxc", "", commands=[Command("image", "Images", commands=[Command("list", "List")])])
    assert "  image       Images\n    list        List\n" in render_usage([root], GLOBAL_FLAGS, deep=True)


def test_suggestions() -> None:
    names = ["alias", "list", "launch", "stop"]
    assert suggestions_for("lis", names) == ["alias", "list"]
    assert suggestions_for("stpo", names) == ["stop"]
    assert suggestions_for("xyzzy", names) == []
