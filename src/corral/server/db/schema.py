"""Creates the tables and applies the migrations, each in the transaction that opens the database.

`<kind>.sql` is version 1 and stays as it is; each change since is a file `migrations/<kind>-0002-words.sql`.
"""

import re
import sqlite3
from importlib import resources

from corral.errors import InternalError
from corral.server.db.database import Tx


def _statements(name: str) -> list[str]:
    return split(resources.files("corral.server.db").joinpath(name).read_text())


def split(text: str) -> list[str]:
    """The statements of a script; a trigger is one statement, whatever semicolons it holds."""
    statements, pending = [], ""
    for piece in re.split(r"(?<=;)", text):
        pending += piece
        if sqlite3.complete_statement(pending):
            statements.append(pending.strip())
            pending = ""
    if re.sub(r"--[^\n]*", "", pending).strip():
        statements.append(pending.strip())
    return statements


def _migrations(kind: str) -> list[str]:
    """Names of the migration files of one database, in order: `migrations/<kind>-0002-words.sql`."""
    folder = resources.files("corral.server.db").joinpath("migrations")
    return sorted(
        item.name for item in folder.iterdir() if item.name.startswith(f"{kind}-") and item.name.endswith(".sql")
    )


def _version(tx: Tx) -> int | None:
    """The schema version of a database, None for one without tables."""
    found = tx.row("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'schema'")
    return None if found is None else int(tx.rows("SELECT max(version) FROM schema")[0][0])


def is_behind(tx: Tx, kind: str) -> bool:
    """Whether opening the database changes tables that hold something."""
    present = _version(tx)
    return present is not None and any(int(name.split("-")[1]) > present for name in _migrations(kind))


def is_empty(tx: Tx) -> bool:
    """Whether the database has no tables yet."""
    return _version(tx) is None


def _apply(tx: Tx, kind: str) -> None:
    present = _version(tx)
    if present is None:
        for statement in _statements(f"{kind}.sql"):
            tx.execute(statement)
        tx.execute("INSERT INTO schema (version, updated_at) VALUES (1, datetime('now'))")
        present = 1
    names = _migrations(kind)
    newest = max([1, *(int(name.split("-")[1]) for name in names)])
    if present > newest:
        raise InternalError(
            f"The {kind} database has schema version {present}, this program knows {newest}: upgrade it"
        )
    for name in names:
        version = int(name.split("-")[1])
        if version > present:
            for statement in _statements(f"migrations/{name}"):
                tx.execute(statement)
            tx.execute("INSERT INTO schema (version, updated_at) VALUES (?, datetime('now'))", version)


def cluster(tx: Tx) -> None:
    """The tables that all members of a cluster share."""
    _apply(tx, "cluster")


def local(tx: Tx) -> None:
    """The tables of this member alone."""
    _apply(tx, "local")


SCHEMAS = {"cluster": cluster, "local": local}
"""What brings each kind of database up to date."""
