"""The user's aliases."""

import pytest

from corral.cli.aliases import BUILT_IN, find, substitute
from corral.errors import CorralError


@pytest.mark.parametrize(
    ("target", "args", "words"),
    [
        ("list -c ns", [], ["list", "-c", "ns"]),
        ("list -c ns", ["x"], ["list", "-c", "ns", "x"]),
        ("exec @ARGS@ -- su -l", ["c1"], ["exec", "c1", "--", "su", "-l"]),
        ("exec @ARG1@ -- @ARGS@", ["c1", "ls", "-l"], ["exec", "c1", "--", "ls", "-l"]),
        ("copy @ARG1@ @ARG1@-copy", ["c1"], ["copy", "c1", "c1-copy"]),
        ("move @ARG2@ @ARG1@", ["a", "b", "c"], ["move", "b", "a", "c"]),
    ],
)
def test_substitute(target: str, args: list[str], words: list[str]) -> None:
    assert substitute("x", target.split(" "), args) == words


def test_a_missing_argument_is_refused() -> None:
    with pytest.raises(CorralError, match='Found alias "x y" references an argument outside the given number'):
        substitute("x y", ["exec", "@ARG2@"], ["c1"])


def test_the_longest_alias_wins() -> None:
    aliases = {"my": "list", "my list": "image list"}
    assert find(aliases, ["my", "list"]) == ("my list", "image list")
    assert find(aliases, ["my", "other"]) == ("my", "list")
    assert find(aliases, ["mine"]) is None
    assert find(BUILT_IN, ["shell", "c1"]) == ("shell", "exec @ARGS@ -- su -l")
