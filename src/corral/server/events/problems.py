"""Conditions of the server that an administrator should know of; reported from anywhere, kept as warnings.

    await context.events.react(Problem("Storage pool unavailable", "cannot mount", entity=("storage_pool", 3)))
    await context.events.react(ProblemSolved("Storage pool unavailable", entity=("storage_pool", 3)))

`main.py` connects both with the warnings.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """Something is wrong. `type` is one of the names in `warnings/model.py`; `entity` is (kind, database id)."""

    type: str
    message: str
    project: str = ""
    entity: tuple[str, int] | None = None


@dataclass(frozen=True, slots=True)
class ProblemSolved:
    """It is right again."""

    type: str
    project: str = ""
    entity: tuple[str, int] | None = None
