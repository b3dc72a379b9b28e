"""Help and usage texts, drawn from the declarations in the layout that the Go programs use."""

from __future__ import annotations

from corral.cli.command import NUMBER, TEXT, Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_NAME_WIDTH = 11
HELP_ENTRY = ("help", "Help about any command")


def render_help(
    chain: Sequence[Command], root_flags: Sequence[Flag], *, all_commands: bool = False, deep: bool = False
) -> str:
    """The whole help of the last command of `chain`."""
    command = chain[-1]
    description = "Description:\n" + _indent(command.long) + "\n\n"
    return description + render_usage(chain, root_flags, all_commands=all_commands, deep=deep)


def render_usage(
    chain: Sequence[Command], root_flags: Sequence[Flag], *, all_commands: bool = False, deep: bool = False
) -> str:
    """The usage part of the help: usage lines, aliases, examples, sub-commands and flags."""
    command = chain[-1]
    path = " ".join(part.name for part in chain)
    is_root = len(chain) == 1
    sections = ["Usage:" + _usage_lines(command, chain, is_root)]
    if command.aliases:
        sections.append("Aliases:\n  " + ", ".join((command.name, *command.aliases)))
    if command.examples:
        sections.append("Examples:\n" + _indent(command.examples))
    if command.commands:
        rows = _command_rows(command, is_root, all_commands, deep)
        sections.append("Available Commands:\n" + "\n".join(rows))
    own_flags = list(root_flags) if is_root else list(command.flags)
    if own_flags:
        sections.append("Flags:\n" + _flag_lines(own_flags))
    if not is_root:
        inherited = [flag for flag in root_flags if flag.name != "all" and flag not in command.flags]
        sections.append("Global Flags:\n" + _flag_lines(inherited))
    if command.commands:
        sections.append(f'Use "{path} [command] --help" for more information about a command.')
    return "\n\n".join(sections) + "\n"


def _usage_lines(command: Command, chain: Sequence[Command], is_root: bool) -> str:
    path = " ".join(part.name for part in chain)
    lines = ""
    if not is_root:
        use = " ".join([*(part.name for part in chain[:-1]), command.use])
        lines += f"\n  {use}" + ("" if "[flags]" in use else " [flags]")
    if command.commands:
        lines += f"\n  {path} [command]"
    return lines


def _command_rows(command: Command, is_root: bool, all_commands: bool, deep: bool, depth: int = 1) -> list[str]:
    children = [child for child in command.commands if all_commands or not child.hidden]
    entries: list[tuple[str, str, Command | None]] = [(child.name, child.short, child) for child in children]
    if is_root:
        entries.append((*HELP_ENTRY, None))
    entries.sort(key=lambda entry: entry[0])
    width = max(_NAME_WIDTH, *(len(child.name) for child in command.commands))
    rows = []
    for name, short, child in entries:
        rows.append(f"{'  ' * depth}{name:<{width}} {short}")
        if deep and child is not None and child.commands:
            rows.extend(_command_rows(child, False, all_commands, deep, depth + 1))
    return rows


def flag_rows(flags: Sequence[Flag]) -> list[tuple[str, str]]:
    """Flags by name: how each is written, and what it does."""
    rows = []
    for flag in sorted(flags, key=lambda flag: flag.name):
        left = f"  -{flag.short}, --{flag.name}" if flag.short else f"      --{flag.name}"
        if flag.implied:
            left += f'[="{flag.implied}"]'
        rows.append((left, flag.doc + _default_note(flag)))
    return rows


def _flag_lines(flags: Sequence[Flag]) -> str:
    rows = flag_rows(flags)
    width = max(len(left) for left, _ in rows)
    return "\n".join(f"{left:<{width}}   {doc}" for left, doc in rows)


def _default_note(flag: Flag) -> str:
    if flag.kind == TEXT and flag.default:
        return f' (default "{flag.default}")'
    if flag.kind == NUMBER and flag.default:
        return f" (default {flag.default})"
    return ""


def _indent(text: str) -> str:
    return "\n".join("  " + line if line else line for line in text.rstrip("\n").split("\n"))


def suggestions_for(word: str, names: Sequence[str]) -> list[str]:
    """The names that `word` may have been meant for: within two typing errors, or starting with it."""
    lowered = word.lower()
    return [name for name in names if _distance(lowered, name.lower()) <= 2 or name.lower().startswith(lowered)]


def _distance(left: str, right: str) -> int:
    previous = list(range(len(right) + 1))
    for row, letter in enumerate(left, 1):
        current = [row]
        for column, other in enumerate(right, 1):
            current.append(min(previous[column] + 1, current[-1] + 1, previous[column - 1] + (letter != other)))
        previous = current
    return previous[-1]
