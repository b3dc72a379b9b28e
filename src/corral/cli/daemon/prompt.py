"""Questions on the terminal, or to a script that feeds the answers line by line."""

from __future__ import annotations

import sys

from corral.errors import CorralError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Check = Callable[[str], str]

_YES, _NO = ("yes", "y"), ("no", "n")


def _read_line() -> str:
    line = sys.stdin.readline()
    if not line:
        raise CorralError("The input ended before all questions were answered")
    return line.strip()


def ask(question: str, default: str | None = None, check: Check | None = None) -> str:
    """The answer to a question, or the default for an empty one; without a default there must be one.

    `check` says what is wrong with an answer, or nothing: the question comes again.
    """
    hint = f" [default={default}]" if default else ""
    while True:
        sys.stdout.write(f"{question}{hint}: ")
        sys.stdout.flush()
        answer = _read_line() or default
        if answer is None:
            sys.stdout.write("An answer is needed here.\n")
            continue
        problem = check(answer) if check is not None else ""
        if not problem:
            return answer
        sys.stdout.write(f"{problem}\n")


def ask_whether(question: str, *, default: bool) -> bool:
    """A yes or no."""

    def check(answer: str) -> str:
        return "" if answer.lower() in (*_YES, *_NO) else "Please answer yes or no."

    return ask(f"{question} (yes/no)", "yes" if default else "no", check).lower() in _YES


def ask_choice(question: str, choices: Sequence[str], default: str | None) -> str:
    """One of some words."""

    def check(answer: str) -> str:
        return "" if answer in choices else f"Please answer one of {', '.join(choices)}."

    return ask(f"{question} ({', '.join(choices)})", default, check)


def ask_password(question: str) -> str:
    """A password: typed twice and not shown on a terminal, else one line."""
    if not sys.stdin.isatty():
        return ask(question, "")
    from getpass import getpass

    while True:
        first = getpass(f"{question}: ")
        if getpass("Again: ") == first:
            return first
        sys.stdout.write("The two are not the same.\n")
