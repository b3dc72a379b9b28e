"""The user's aliases of commands: `@ARGS@` and `@ARG1@` stand for what follows the alias."""

from __future__ import annotations

import os
import re

from corral.client.remotes import load_remotes
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from corral.product import Product

BUILT_IN = {"shell": "exec @ARGS@ -- su -l"}
_NUMBERED = re.compile(r"@ARG(\d+)@")


def expand(product: Product, argv: list[str]) -> list[str] | None:
    """The command line that an alias in `argv` stands for, or None. An alias of an absolute path is run at once."""
    try:
        aliases = load_remotes(product, product.client_conf_dir_name()).aliases
    except CorralError:
        return None
    leading = 0
    while leading < len(argv) and argv[leading].startswith("-"):
        leading += 1
    flags, words = argv[:leading], argv[leading:]
    found = find(aliases, words) or find(BUILT_IN, words)
    if found is None:
        return None
    name, target = found
    os.environ["LXC_ALIASES"] = "1"
    expanded = substitute(name, target.split(" "), words[len(name.split(" ")) :])
    if not expanded[0].startswith("/"):
        return flags + expanded
    try:
        os.execv(expanded[0], flags + expanded)
    except OSError as error:
        raise CorralError(f"Processing aliases failed: {expanded[0]}: {error.strerror}") from error


def find(aliases: dict[str, str], words: list[str]) -> tuple[str, str] | None:
    """The alias whose words `words` start with; the longest wins."""
    for name in sorted(aliases, key=lambda name: -len(name.split(" "))):
        parts = name.split(" ")
        if words[: len(parts)] == parts:
            return name, aliases[name]
    return None


def substitute(name: str, target: list[str], args: list[str]) -> list[str]:
    """The target's words with the arguments in their places; those without a place follow. Raises CorralError."""
    used = {int(match) for word in target for match in _NUMBERED.findall(word)}
    if used and (max(used) > len(args) or 0 in used):
        raise CorralError(f'Found alias "{name}" references an argument outside the given number')
    rest = [argument for index, argument in enumerate(args, 1) if index not in used]
    words: list[str] = []
    for word in target:
        if word == "@ARGS@":
            words += rest
        else:
            words.append(_NUMBERED.sub(lambda match: args[int(match[1]) - 1], word))
    return words if "@ARGS@" in target else words + rest
