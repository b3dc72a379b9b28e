"""The parser: flags anywhere, joined switches, values in every spelling, and words that are commands."""

import pytest

from corral.cli.command import (
    GLOBAL_FLAGS,
    Command,
    Flag,
    UsageError,
    number,
    parse_flags,
    switch,
    take_words,
    text,
    texts,
)

FLAGS: tuple[Flag, ...] = (
    switch("recursive", "", "r"),
    switch("create-dirs", "", "p"),
    text("columns", "", "c", "ns"),
    texts("config", "", "C"),
    number("timeout", "", "t"),
    text("console", "", implied="console"),
)


@pytest.mark.parametrize(
    ("argv", "changed", "args"),
    [
        ([], {}, []),
        (["a", "-r", "b"], {"recursive": True}, ["a", "b"]),
        (["-rp", "a"], {"recursive": True, "create-dirs": True}, ["a"]),
        (["-c", "n", "a"], {"columns": "n"}, ["a"]),
        (["-cn"], {"columns": "n"}, []),
        (["-c=n"], {"columns": "n"}, []),
        (["-rcn"], {"recursive": True, "columns": "n"}, []),
        (["--columns=n=s"], {"columns": "n=s"}, []),
        (["--columns", "-x"], {"columns": "-x"}, []),
        (["--config", "a=1", "-C", "b=2"], {"config": ["a=1", "b=2"]}, []),
        (["--timeout", "-1"], {"timeout": -1}, []),
        (["-t0x10"], {"timeout": 16}, []),
        (["-t", "010"], {"timeout": 8}, []),
        (["--console", "c1"], {"console": "console"}, ["c1"]),
        (["--console=vga", "c1"], {"console": "vga"}, ["c1"]),
        (["--recursive=false"], {"recursive": False}, []),
        (["a", "--", "-r", "--", "b"], {}, ["a", "-r", "--", "b"]),
        (["-", "a"], {}, ["-", "a"]),
    ],
)
def test_parse_flags(argv: list[str], changed: dict[str, object], args: list[str]) -> None:
    defaults = {flag.name: flag.default for flag in FLAGS}
    values, found = parse_flags(argv, FLAGS)
    assert values == {**defaults, **changed}
    assert found == args


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--bogus"], "unknown flag: --bogus"),
        (["-Z"], "unknown shorthand flag: 'Z' in -Z"),
        (["-rZx"], "unknown shorthand flag: 'Z' in -Zx"),
        (["-c"], "flag needs an argument: 'c' in -c"),
        (["--columns"], "flag needs an argument: --columns"),
        (
            ["--timeout=x"],
            'invalid argument "x" for "-t, --timeout" flag: strconv.ParseInt: parsing "x": invalid syntax',
        ),
        (
            ["--recursive=maybe"],
            'invalid argument "maybe" for "-r, --recursive" flag: strconv.ParseBool: parsing "maybe": invalid syntax',
        ),
        (["--=x"], "bad flag syntax: --=x"),
    ],
)
def test_parse_flags_refuses(argv: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_flags(argv, FLAGS)
    assert str(caught.value) == message


def test_a_default_list_is_not_shared() -> None:
    parse_flags(["-C", "a=1"], FLAGS)
    assert parse_flags([], FLAGS)[0]["config"] == []


TREE = Command(
    "image",
    "",
    commands=[
        Command("list [<filter>]", "", aliases=("ls",)),
        Command("alias", "", commands=[Command("create", ""), Command("list", "")]),
    ],
)


@pytest.mark.parametrize(
    ("argv", "names", "rest"),
    [
        (["list", "x"], ["image", "list"], ["x"]),
        (["ls"], ["image", "list"], []),
        (["alias", "create", "a", "b"], ["image", "alias", "create"], ["a", "b"]),
        (["--project", "list", "alias", "list"], ["image", "alias", "list"], ["--project", "list"]),
        (["-q", "list"], ["image", "list"], ["-q"]),
        (["--format", "json", "list"], ["image", "list"], ["--format", "json"]),
        (["--format=json", "list"], ["image", "list"], ["--format=json"]),
        (["nope", "list"], ["image"], ["nope", "list"]),
        (["--", "list"], ["image"], ["--", "list"]),
    ],
)
def test_take_words(argv: list[str], names: list[str], rest: list[str]) -> None:
    chain, left = take_words(TREE, argv, GLOBAL_FLAGS)
    assert [command.name for command in chain] == names
    assert left == rest
