"""One declaration per command: flags, arguments, sub-commands and help, and the parser that reads them.

The rules are those of the Go programs' parser: flags and arguments mix, `--` ends the flags, short switches may be
joined (`-rp`), a value follows as `--name value`, `--name=value`, `-n value` or `-nvalue`.
"""

from __future__ import annotations

from corral.errors import InvalidRequest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from corral.cli.session import Session

    Run = Callable[["Invocation"], int | None]
    Value = bool | int | str | list[str]

SWITCH = "switch"
TEXT = "text"
TEXTS = "texts"
NUMBER = "number"
ANY_NUMBER_OF = -1


class UsageError(InvalidRequest):
    """The command line itself is wrong."""


class Flag:
    """One flag. `implied` is the value of a flag that was given without one (`--console`)."""

    __slots__ = ("default", "doc", "implied", "kind", "name", "short")

    def __init__(self, name: str, kind: str, doc: str, short: str, default: Value, implied: str = "") -> None:
        self.name = name
        self.kind = kind
        self.doc = doc
        self.short = short
        self.default = default
        self.implied = implied


def switch(name: str, doc: str, short: str = "") -> Flag:
    """A flag that is on or off."""
    return Flag(name, SWITCH, doc, short, False)


def text(name: str, doc: str, short: str = "", default: str = "", implied: str = "") -> Flag:
    """A flag with one value."""
    return Flag(name, TEXT, doc, short, default, implied)


def texts(name: str, doc: str, short: str = "") -> Flag:
    """A flag that may be given many times."""
    return Flag(name, TEXTS, doc, short, [])


def number(name: str, doc: str, short: str = "", default: int = -1) -> Flag:
    """A flag with a whole number."""
    return Flag(name, NUMBER, doc, short, default)


TARGET = text("target", "Cluster member name")
FORMAT = text("format", "Format (csv|json|table|yaml|compact)", "f", "table")

GLOBAL_FLAGS = (
    switch("debug", "Show all debug messages"),
    switch("force-local", "Force using the local unix socket"),
    switch("help", "Print help", "h"),
    text("project", "Override the source project"),
    switch("quiet", "Don't show progress information", "q"),
    switch("sub-commands", "Use with help or --help to view sub-commands"),
    switch("verbose", "Show all information messages", "v"),
    switch("version", "Print version number"),
)


class Command:
    """A command word with what it accepts and what it does.

    `use` is the word with its arguments as help shows them; `count` the least and the greatest number of arguments.
    A command with `commands` and no `run` is a group.
    """

    def __init__(  # noqa: PLR0913 - a declaration names all its parts
        self,
        use: str,
        short: str,
        run: Run | None = None,
        count: tuple[int, int] = (0, 0),
        *,
        aliases: Sequence[str] = (),
        long: str = "",
        examples: str = "",
        flags: Sequence[Flag] = (),
        commands: Iterable[Command] = (),
        hidden: bool = False,
        words_check: bool = True,
    ) -> None:
        self.use = use
        self.name = use.partition(" ")[0]
        self.short = short
        self.run = run
        self.count = count
        self.aliases = aliases
        self.long = long or short
        self.examples = examples
        self.flags = flags
        self.commands = tuple(commands)
        self.hidden = hidden
        self.words_check = words_check

    def child(self, word: str) -> Command | None:
        """The sub-command called `word`, also by an alias."""
        for command in self.commands:
            if command.name == word or word in command.aliases:
                return command
        return None


class Invocation:
    """A command as it was called: where it stands, its flags' values, its arguments and the session it runs in."""

    def __init__(self, command: Command, path: str, args: list[str], values: dict[str, Value]) -> None:
        self.command = command
        self.path = path
        self.args = args
        self.values = values
        self.session: Session

    def switch(self, name: str) -> bool:
        """The value of a switch."""
        return bool(self.values[name])

    def text(self, name: str) -> str:
        """The value of a text flag."""
        value = self.values[name]
        return value if isinstance(value, str) else ""

    def texts(self, name: str) -> list[str]:
        """The values of a repeated flag."""
        value = self.values[name]
        return value if isinstance(value, list) else []

    def number(self, name: str) -> int:
        """The value of a number flag."""
        value = self.values[name]
        return value if isinstance(value, int) else 0

    def arg(self, index: int, default: str = "") -> str:
        """An argument or the default where it was not given."""
        return self.args[index] if index < len(self.args) else default


def take_words(command: Command, argv: Sequence[str], flags: Sequence[Flag]) -> tuple[list[Command], list[str]]:
    """The commands that the words of `argv` name, outermost first, and `argv` without those words.

    A flag of the outer command that takes a value keeps its value; a flag that is not known here is believed to take
    one unless it is written with `=`.
    """
    chain = [command]
    rest = list(argv)
    position = 0
    while chain[-1].commands and position < len(rest):
        word = rest[position]
        if word == "--":
            break
        if word.startswith("-") and word != "-":
            position += 2 if _swallows_next(word, flags) else 1
            continue
        child = chain[-1].child(word)
        if child is None:
            break
        chain.append(child)
        del rest[position]
    return chain, rest


def _swallows_next(word: str, flags: Sequence[Flag]) -> bool:
    if "=" in word:
        return False
    if word.startswith("--"):
        flag = _by_name(word[2:], flags)
    elif len(word) == 2:
        flag = _by_short(word[1], flags)
    else:
        return False
    return flag is None or (flag.kind != SWITCH and not flag.implied)


def _by_name(name: str, flags: Sequence[Flag]) -> Flag | None:
    for flag in flags:
        if flag.name == name:
            return flag
    return None


def _by_short(letter: str, flags: Sequence[Flag]) -> Flag | None:
    for flag in flags:
        if flag.short == letter:
            return flag
    return None


def parse_flags(argv: Sequence[str], flags: Sequence[Flag]) -> tuple[dict[str, Value], list[str]]:
    """The values of `flags` and the arguments in `argv`. Raises UsageError."""
    values: dict[str, Value] = {flag.name: flag.default for flag in flags}
    args: list[str] = []
    words = iter(argv)
    for word in words:
        if word == "--":
            args.extend(words)
        elif word.startswith("--"):
            _parse_long(word, words, flags, values)
        elif word.startswith("-") and word != "-":
            _parse_shorts(word, words, flags, values)
        else:
            args.append(word)
    return values, args


def _parse_long(word: str, words: Iterable[str], flags: Sequence[Flag], values: dict[str, Value]) -> None:
    name, has_value, value = word[2:].partition("=")
    flag = _by_name(name, flags)
    if flag is None or not name or name.startswith("-"):
        raise UsageError(f"bad flag syntax: {word}" if not name or name[0] in "-=" else f"unknown flag: --{name}")
    if not has_value:
        if flag.kind == SWITCH:
            value = "true"
        elif flag.implied:
            value = flag.implied
        else:
            following = next(iter(words), None)
            if following is None:
                raise UsageError(f"flag needs an argument: --{name}")
            value = following
    _assign(flag, value, values)


def _parse_shorts(word: str, words: Iterable[str], flags: Sequence[Flag], values: dict[str, Value]) -> None:
    letters = word[1:]
    while letters:
        letter, letters = letters[0], letters[1:]
        flag = _by_short(letter, flags)
        if flag is None:
            raise UsageError(f"unknown shorthand flag: {letter!r} in -{letter}{letters}")
        if letters.startswith("="):
            return _assign(flag, letters[1:], values)
        if flag.kind == SWITCH:
            _assign(flag, "true", values)
            continue
        if flag.implied:
            _assign(flag, flag.implied, values)
            continue
        if not letters:
            following = next(iter(words), None)
            if following is None:
                raise UsageError(f"flag needs an argument: {letter!r} in -{letter}")
            letters = following
        return _assign(flag, letters, values)
    return None


_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False")


def _parse_number(value: str) -> int:
    """A whole number as Go reads it: a leading zero makes it octal."""
    digits = value.lstrip("+-")
    is_octal = len(digits) > 1 and digits[0] == "0" and digits.isdecimal()
    return int(value, 8 if is_octal else 0)


def _assign(flag: Flag, value: str, values: dict[str, Value]) -> None:
    shown = f"-{flag.short}, --{flag.name}" if flag.short else f"--{flag.name}"
    if flag.kind == SWITCH:
        if value not in _TRUE and value not in _FALSE:
            raise UsageError(
                f'invalid argument "{value}" for "{shown}" flag: strconv.ParseBool: parsing "{value}": invalid syntax'
            )
        values[flag.name] = value in _TRUE
    elif flag.kind == NUMBER:
        try:
            values[flag.name] = _parse_number(value)
        except ValueError:
            raise UsageError(
                f'invalid argument "{value}" for "{shown}" flag: strconv.ParseInt: parsing "{value}": invalid syntax'
            ) from None
    elif flag.kind == TEXTS:
        given = values[flag.name]
        values[flag.name] = [*(given if isinstance(given, list) else []), value]
    else:
        values[flag.name] = value
