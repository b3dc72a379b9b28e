"""`manpage`: a manual page for each command, drawn from the declarations that the help comes from."""

from __future__ import annotations

import os

from corral.cli.command import Command, Invocation
from corral.cli.help import flag_rows
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from corral.cli.command import Flag


def run(invocation: Invocation) -> int:
    """Write the client's pages into a directory."""
    from corral.cli.main import ROOT_FLAGS, load_root, named

    product = invocation.session.product
    write_pages(invocation.args[0], load_root(product), ROOT_FLAGS, lambda text: named(product, text))
    return 0


def write_pages(directory: str, root: Command, flags: Sequence[Flag], named: Callable[[str], str]) -> None:
    """Write the pages of a program's commands into a directory; `named` puts the product's names into a text."""
    try:
        for chain in _walk([root]):
            name = "-".join(command.name for command in chain)
            with open(os.path.join(directory, f"{name}.1"), "w", encoding="utf-8") as file:
                file.write(named(render_page(chain, flags)))
    except FileNotFoundError:
        raise CorralError(f"The directory {directory} does not exist: create it first") from None


def _walk(chain: list[Command]) -> Iterator[list[Command]]:
    yield chain
    for child in chain[-1].commands:
        yield from _walk([*chain, child])


def escape(text: str) -> str:
    """A text as man(7) prints it as it is."""
    lines = text.replace("\\", "\\e").replace("-", "\\-").split("\n")
    return "\n".join(f"\\&{line}" if line.startswith((".", "'")) else line for line in lines)


def render_page(chain: Sequence[Command], root_flags: Sequence[Flag]) -> str:
    """The page of the last command of a chain, in man(7)'s macros."""
    command = chain[-1]
    name = "-".join(part.name for part in chain)
    use = " ".join([*(part.name for part in chain[:-1]), command.use])
    summary = command.short or command.long.split("\n")[0]
    sections = [
        f'.TH "{name.upper()}" 1',
        f".SH NAME\n{escape(name)} \\- {escape(summary)}",
        f".SH SYNOPSIS\n.B {escape(use)}",
        f".SH DESCRIPTION\n.nf\n{escape(command.long.rstrip())}\n.fi",
    ]
    is_root = len(chain) == 1
    own = list(root_flags) if is_root else list(command.flags)
    inherited = [] if is_root else [flag for flag in root_flags if flag.name != "all" and flag not in command.flags]
    for title, flags in (("OPTIONS", own), ("OPTIONS OF ALL COMMANDS", inherited)):
        if flags:
            rows = "\n".join(f".TP\n.B {escape(left)}\n{escape(doc)}" for left, doc in flag_rows(flags))
            sections.append(f".SH {title}\n{rows}")
    if command.examples:
        sections.append(f".SH EXAMPLES\n.nf\n{escape(command.examples.rstrip())}\n.fi")
    others = [name.rpartition("-")[0]] if not is_root else []
    others += [f"{name}-{child.name}" for child in command.commands]
    if others:
        sections.append(".SH SEE ALSO\n" + ",\n".join(f".BR {escape(other)} (1)" for other in others))
    return "\n".join(sections) + "\n"


COMMAND = Command("manpage <target>", "Generate manpages for all commands", run, (1, 1), hidden=True)
