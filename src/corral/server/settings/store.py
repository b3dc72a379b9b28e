"""SQL of the server's configuration; the same table is in the member's own database and in the shared one."""

from collections.abc import Mapping

from corral.server.db.database import Tx


def read_config(tx: Tx) -> dict[str, str]:
    """All keys that are set."""
    return {row["key"]: row["value"] for row in tx.rows("SELECT key, value FROM config ORDER BY key")}


def write_config(tx: Tx, changed: Mapping[str, str]) -> None:
    """Set keys; an empty value removes the key."""
    for key, value in changed.items():
        tx.execute("DELETE FROM config WHERE key = ?", key)
        if value != "":
            tx.execute("INSERT INTO config (key, value) VALUES (?, ?)", key, value)
