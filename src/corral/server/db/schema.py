"""Creates the tables and applies the migrations, each in the transaction that opens the database."""

import re
from importlib import resources

from corral.errors import InternalError
from corral.server.db.database import Tx


def _statements(name: str) -> list[str]:
    text = resources.files("corral.server.db").joinpath(name).read_text()
    without_comments = re.sub(r"--[^\n]*", "", text)
    return [statement for statement in (part.strip() for part in without_comments.split(";")) if statement]


def _migrations(kind: str) -> list[str]:
    """Names of the migration files of one database, in order: `migrations/<kind>-0002-words.sql`."""
    folder = resources.files("corral.server.db").joinpath("migrations")
    return sorted(
        item.name for item in folder.iterdir() if item.name.startswith(f"{kind}-") and item.name.endswith(".sql")
    )


def _apply(tx: Tx, kind: str) -> None:
    found = tx.row("SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'schema'")
    versions = [1, *(int(name.split("-")[1]) for name in _migrations(kind))]
    if found is None:
        for statement in _statements(f"{kind}.sql"):
            tx.execute(statement)
        for version in versions:
            tx.execute("INSERT INTO schema (version, updated_at) VALUES (?, datetime('now'))", version)
        return
    present = tx.rows("SELECT max(version) FROM schema")[0][0]
    if present > versions[-1]:
        raise InternalError(
            f"The {kind} database has schema version {present}, this program knows {versions[-1]}: upgrade it"
        )
    for name in _migrations(kind):
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
