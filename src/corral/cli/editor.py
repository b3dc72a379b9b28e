"""Editing a record as YAML: in the user's editor, again after a mistake, or straight from standard input."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile

from corral.cli import output
from corral.cli.session import read_stdin, stdin_is_terminal
from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_EDITORS = ("editor", "vi", "emacs", "nano")


def edit_file(path: str) -> None:
    """Run the user's editor on a file. Raises CorralError."""
    chosen = os.environ.get("VISUAL") or os.environ.get("EDITOR")
    words = (chosen or next((name for name in _EDITORS if shutil.which(name)), "vi")).split()
    program = shutil.which(words[0])
    if program is None:
        raise CorralError(f"No text editor found: {words[0]} is not in PATH; name one in EDITOR")
    code = os.spawnv(os.P_WAIT, program, [*words, path])
    if code != 0:
        raise CorralError(f"The editor {words[0]} failed: exit status {code}")


def edit_text(content: str) -> str:
    """What the user makes of a text in the editor."""
    with tempfile.NamedTemporaryFile("w", prefix="corral_editor_", suffix=".yaml", encoding="utf-8") as file:
        file.write(content)
        file.flush()
        edit_file(file.name)
        with open(file.name, encoding="utf-8") as edited:
            return edited.read()


def edit_loop(content: str, store: Callable[[str], None], complaint: str = "Config parsing error") -> None:
    """Edit until `store` accepts the text; its CorralError is shown and the editor opens again."""
    edited = edit_text(content)
    while True:
        try:
            return store(edited)
        except CorralError as error:
            output.warn(f"{complaint}: {error}")
            output.line("Press enter to open the editor again or ctrl+c to abort change")
            output.flush()
            if not sys.stdin.readline():
                raise
            edited = edit_text(edited)


def edit_record(
    header: str,
    fetch: Callable[[], tuple[str, str]],
    store: Callable[[str, str], None],
) -> None:
    """Store YAML from standard input, or what the editor makes of it.

    `fetch` gives the record as YAML and its etag, `store` takes YAML and the etag (empty from standard input).
    """
    if not stdin_is_terminal():
        store(read_stdin().decode("utf-8", "surrogateescape"), "")
        return
    content, etag = fetch()
    comment = "".join(f"### {line}\n".replace(" \n", "\n") for line in header.split("\n")) + "\n" if header else ""
    edit_loop(comment + content, lambda edited: store(edited, etag))
