"""Answers that are kept in their encoded form as long as what they show stays the same."""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Any, TypeVar

from corral.server.rest.responses import WithEtag

T = TypeVar("T")

MOST = 32
"""How many answers are kept: those that were asked for last."""


class Kept:
    """Answers by question, each with the state that it was made of."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Hashable, tuple[object, WithEtag[Any]]] = OrderedDict()

    async def answer(
        self, question: Hashable, state: object, make: Callable[[], Awaitable[WithEtag[T]]]
    ) -> WithEtag[T]:
        """The answer to a question, made anew where the state is not the one that it was made of.

        The question holds all about the caller that the answer depends on; the state is taken before `make` is called.
        """
        found = self._answers.get(question)
        if found is None or found[0] != state:
            found = (state, await make())
            self._answers[question] = found
            if len(self._answers) > MOST:
                self._answers.popitem(last=False)
        self._answers.move_to_end(question)
        return found[1]
