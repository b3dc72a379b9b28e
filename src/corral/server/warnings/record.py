"""Keeps what is reported as `Problem` as warnings; `main.py` subscribes these reactions."""

from corral.server.context import Context
from corral.server.events.model import utc_now
from corral.server.events.problems import Problem, ProblemSolved
from corral.server.warnings import store
from corral.server.warnings.model import CODES, ENTITIES

PRUNE_INTERVAL_S = 24 * 3600.0


class Recorder:
    """The reactions, with the context that they write to."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def subscribe(self) -> None:
        """React to problems from now on."""
        self._context.events.on(Problem, self._record)
        self._context.events.on(ProblemSolved, self._resolve)

    async def prune(self) -> None:
        """Remove what was resolved long ago."""
        await self._context.db.write(store.delete_resolved, utc_now())

    async def _record(self, problem: Problem) -> None:
        entity = _entity(problem.entity)
        code = CODES[problem.type]
        await self._context.db.write(store.raise_warning, code, problem.message, problem.project, entity, utc_now())

    async def _resolve(self, solved: ProblemSolved) -> None:
        entity = _entity(solved.entity)
        await self._context.db.write(store.resolve_warning, CODES[solved.type], solved.project, entity, utc_now())


def _entity(entity: tuple[str, int] | None) -> store.Entity:
    return store.NO_ENTITY if entity is None else (ENTITIES[entity[0]], entity[1])
