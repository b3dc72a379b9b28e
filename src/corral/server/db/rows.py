"""Columns to frozen dataclasses by name, and the key-value tables that hang below most rows."""

import dataclasses
import sqlite3
from collections.abc import Iterable, Mapping
from sys import intern
from typing import Any, TypeVar

from corral.server.db.database import Tx

T = TypeVar("T")


def to(kind: type[T], row: sqlite3.Row, **extra: Any) -> T:
    """The dataclass whose fields are the row's columns of the same names, and `extra`."""
    names = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    return kind(**{name: row[name] for name in row.keys() if name in names and name not in extra}, **extra)  # noqa: SIM118  (a row yields values)


def marks(values: Iterable[Any]) -> str:
    """`?, ?, ?` for an IN list."""
    return ", ".join("?" for _ in values)


def read_configs(tx: Tx, table: str, column: str, ids: Iterable[int] | None = None) -> dict[int, dict[str, str]]:
    """The configs of many owners in one query: {owner id: {key: value}}; all owners where `ids` is None.

    Lists of a thousand owners repeat the same texts: each is kept once. `table` and `column` are names from the code,
    never from a client.
    """
    configs: dict[int, dict[str, str]] = {}
    sql = f"SELECT {column}, key, value FROM {table}"
    if ids is None:
        found = tx.rows(f"{sql} ORDER BY key")
    else:
        wanted = list(ids)
        if not wanted:
            return {}
        if len(wanted) > 500:
            owners = set(wanted)
            found = [row for row in tx.rows(f"{sql} ORDER BY key") if row[0] in owners]
        else:
            found = tx.rows(f"{sql} WHERE {column} IN ({marks(wanted)}) ORDER BY key", *wanted)
    shared: dict[str, str] = {}
    for owner, key, value in found:
        configs.setdefault(owner, {})[intern(key)] = shared.setdefault(value, value)
    return configs


def write_config(tx: Tx, table: str, column: str, owner: int, config: Mapping[str, str]) -> None:
    """Replace the config of one owner; empty values are not stored."""
    tx.execute(f"DELETE FROM {table} WHERE {column} = ?", owner)
    tx.many(
        f"INSERT INTO {table} ({column}, key, value) VALUES (?, ?, ?)",
        [(owner, key, value) for key, value in config.items() if value != ""],
    )


Devices = dict[str, dict[str, str]]


def _owner(prefix: str) -> str:
    """The singular in the columns: the table instances_snapshots_devices has an instance_snapshot_id."""
    return prefix.replace("instances_", "instance_")


def read_devices(tx: Tx, prefix: str, ids: Iterable[int] | None = None) -> dict[int, Devices]:
    """The devices of many owners: {owner id: {device: {key: value}}}, from `<prefix>s_devices` and its config table.

    `prefix` is `instance`, `profile` or `instances_snapshot`.
    """
    table, owner_name = f"{prefix}s_devices", _owner(prefix)
    column = f"{owner_name}_id"
    where, values = "", []
    if ids is not None:
        values = list(ids)
        if not values:
            return {}
        if len(values) <= 500:
            where = f"WHERE d.{column} IN ({marks(values)})"
        else:
            values = []
    devices: dict[int, Devices] = {}
    shared: dict[str, str] = {}
    for owner, name, key, value in tx.rows(
        f"SELECT d.{column}, d.name, c.key, c.value FROM {table} d"
        f" LEFT JOIN {table}_config c ON c.{owner_name}_device_id = d.id {where} ORDER BY d.name, c.key",
        *values,
    ):
        device = devices.setdefault(owner, {}).setdefault(intern(name), {})
        if key is not None:
            device[intern(key)] = shared.setdefault(value, value)
    return devices


def write_devices(tx: Tx, prefix: str, owner: int, devices: Mapping[str, Mapping[str, str]]) -> None:
    """Replace the devices of one owner."""
    table, owner_name = f"{prefix}s_devices", _owner(prefix)
    column = f"{owner_name}_id"
    tx.execute(f"DELETE FROM {table} WHERE {column} = ?", owner)
    for name, device in devices.items():
        device_id = tx.execute(f"INSERT INTO {table} ({column}, name) VALUES (?, ?)", owner, name)
        tx.many(
            f"INSERT INTO {table}_config ({owner_name}_device_id, key, value) VALUES (?, ?, ?)",
            [(device_id, key, value) for key, value in device.items() if value != ""],
        )
