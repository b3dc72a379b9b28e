"""Statements that an administrator types: `sql` of the daemon's command, dumps and all."""

import sqlite3
from dataclasses import dataclass, field

from corral.errors import InvalidRequest
from corral.server.db import schema
from corral.server.db.database import Database, Tx, Value


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one statement did: the rows of a query, or how many rows it changed."""

    columns: list[str] | None = None
    rows: list[list[Value]] = field(default_factory=list)
    affected: int = 0

    @property
    def is_query(self) -> bool:
        """Whether it has rows to show."""
        return self.columns is not None


async def run(database: Database, text: str) -> list[Outcome]:
    """Run statements, each in a transaction of its own; raises InvalidRequest for the first that fails."""
    outcomes = []
    for statement in schema.split(text):
        bare = statement.rstrip(";").strip()
        if not bare:
            continue
        reads = bare.split(None, 1)[0].upper() in ("SELECT", "WITH", "EXPLAIN", "VALUES")
        try:
            outcomes.append(await (database.read if reads else database.write)(_run, bare, reads))
        except (sqlite3.Error, sqlite3.Warning) as error:
            raise InvalidRequest(f"Failed to execute query: {error}") from error
    return outcomes


def _run(tx: Tx, statement: str, reads: bool) -> Outcome:
    if not reads:
        return Outcome(affected=max(0, tx.change(statement)))
    columns, rows = tx.table(statement)
    return Outcome(columns, rows)


def dump(tx: Tx, *, schema_only: bool = False) -> str:
    """A script that makes the same database again, or its empty tables."""
    lines = ["PRAGMA foreign_keys=OFF;", "BEGIN TRANSACTION;"]
    found = tx.rows("SELECT name, type, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite_%' ORDER BY rowid")
    later = []
    for name, kind, sql in found:
        if kind != "table":
            # Triggers must not fire while the rows are put in.
            later.append(f"{sql};")
            continue
        lines.append(f"{sql};")
        if not schema_only:
            lines += _inserts(tx, name)
    if not schema_only:
        lines += ["DELETE FROM sqlite_sequence;", *_inserts(tx, "sqlite_sequence")]
    return "\n".join([*lines, *later, "COMMIT;"]) + "\n"


def _inserts(tx: Tx, table: str) -> list[str]:
    columns = [row["name"] for row in tx.rows(f'PRAGMA table_info("{table}")')]
    quoted = " || ',' || ".join(f'quote("{name}")' for name in columns)
    return [
        f"INSERT INTO {table} VALUES({values});"
        for (values,) in tx.rows(f'SELECT {quoted} FROM "{table}" ORDER BY rowid')
    ]
