"""Statements for the daemon's databases, as the daemon's own command sends them."""

from typing import Any

import msgspec


class SqlQuery(msgspec.Struct, kw_only=True):
    """Statements for one of the databases: `local` or `global`. `.sync` writes the database to its file."""

    database: str = ""
    query: str = ""


class SqlDump(msgspec.Struct, kw_only=True):
    """A database as a script."""

    text: str


class SqlResult(msgspec.Struct, kw_only=True):
    """What one statement did; `type` is `select` or `exec`."""

    type: str
    columns: list[str] | None = None
    rows: list[list[Any]] | None = None
    rows_affected: int = 0


class SqlBatch(msgspec.Struct, kw_only=True, rename={"results": "Results"}):
    """The results of all statements, in their order."""

    results: list[SqlResult] | None = None
