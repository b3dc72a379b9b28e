"""Which rows of some tables were written, by whatever statement: what was read before need not be read again.

SQLite itself tells, by temporary triggers that exist on the daemon's connection alone: they also see cascades and
statements that an administrator types.
"""

import sqlite3
from collections.abc import Callable, Mapping

Owner = str
"""The SQL that gives the id of whom a row belongs to, with `{row}` for the row; EVERYTHING where all are concerned."""

EVERYTHING: Owner = "NULL"
NOBODY = 0
"""What SQL gives for a row that hangs on nothing any more; ids start at 1."""


class Changes:
    """The ids of what was written since `clear`. Used in the database's thread; `exist` may be read in any."""

    def __init__(self) -> None:
        self.ids: set[int] = set()
        self.everything = True

    @property
    def exist(self) -> bool:
        """Whether anything was written."""
        return self.everything or bool(self.ids)

    def note(self, owner: int | None) -> None:
        """Note a write to what belongs to an owner. A transaction that is undone later notes too much: no harm."""
        if owner is None:
            self.everything = True
        elif owner != NOBODY:
            self.ids.add(owner)

    def clear(self) -> None:
        """Forget what was noted: the transaction that runs has read all of it again."""
        self.ids = set()
        self.everything = False


def watch(
    connection: sqlite3.Connection, name: str, tables: Mapping[str, Owner], note: Callable[[int | None], None]
) -> None:
    """Have `note` called with the owner of each row of the tables that is written from now on."""
    # Without this, rows that INSERT OR REPLACE removes are not told of.
    connection.execute("PRAGMA recursive_triggers=ON")
    connection.create_function(f"note_{name}", 1, note)
    for table, owner in tables.items():
        for event, rows in (("INSERT", ("NEW",)), ("UPDATE", ("OLD", "NEW")), ("DELETE", ("OLD",))):
            notes = " ".join(f"SELECT note_{name}({owner.format(row=row)});" for row in rows)
            trigger = f"note_{name}_{table}_{event.lower()}"
            connection.execute(f"CREATE TEMP TRIGGER {trigger} AFTER {event} ON main.{table} BEGIN {notes} END")
