"""Stores opened in the test's own process, and functions that read their files with separate connections."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from typing import Any

from nexus.store import Transaction
from nexus.store.connection import connect
from nexus.store.fulltext import OF_INDEX
from nexus.store.sqlite import SqliteStore

__all__ = [
    "Gate",
    "contents",
    "files_of",
    "look_at",
    "make_store",
    "put",
    "running",
    "schema_of",
    "value_of",
    "write_together",
]

WAIT_S = 60.0


def make_store(root: Path) -> SqliteStore:
    """Make a store under ``root`` with the daemon's file layout; it is not opened yet."""
    return SqliteStore(root / "state" / "nexus.db", root / "state" / "backups")


@contextlib.asynccontextmanager
async def running(store: SqliteStore) -> AsyncIterator[SqliteStore]:
    """Run the store's writer until the end of the block; calls ``init`` unless the store is already open."""
    if store._writer is None:
        store.init()
    store.start()
    try:
        yield store
    finally:
        await store.close()


def put(key: str, value: str = "") -> Any:
    """Make a write that inserts one setting; a second insert with the same key is a conflict."""

    def change(tx: Transaction) -> str:
        tx.execute("INSERT INTO settings (key, value, type) VALUES (?, ?, 'string')", (key, value))
        return key

    return change


def value_of(store: SqliteStore, key: str) -> str | None:
    """Read the value of a setting through the store."""
    row = store.read(lambda reader: reader.one("SELECT value FROM settings WHERE key = ?", (key,)))
    return None if row is None else row[0]


class Gate:
    """A write that blocks the writer's thread, with its transaction open, until ``open`` is called."""

    def __init__(self) -> None:
        self._entered = threading.Event()
        self._opened = threading.Event()

    def __call__(self, tx: Transaction) -> None:
        self._entered.set()
        assert self._opened.wait(WAIT_S)

    async def entered(self) -> None:
        """Wait until the writer runs this write."""
        assert await asyncio.to_thread(self._entered.wait, WAIT_S)

    def open(self) -> None:
        """Let the writer continue."""
        self._opened.set()


async def write_together(store: SqliteStore, writes: Iterable[Any], *, size_bytes: int = 256) -> list[Any]:
    """Queue all ``writes`` while the writer is busy, so that it takes them together; returns results or errors."""
    gate = Gate()
    first = asyncio.create_task(store.write(gate))
    await gate.entered()
    tasks = [asyncio.create_task(store.write(write, size_bytes=size_bytes)) for write in writes]
    await asyncio.sleep(0)  # each task has queued its write
    gate.open()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.contextmanager
def look_at(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a separate read-only connection."""
    with contextlib.closing(connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        yield connection


def schema_of(path: Path) -> list[tuple[str, str, str]]:
    """Return every table, index and trigger with its SQL."""
    with look_at(path) as connection:
        return connection.execute(
            "SELECT type, name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY type, name"
        ).fetchall()


def contents(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each table, by table, sorted by key; bytes are text as ``0x00ff``.

    ``schema_meta`` and the tables of the search index are left out.
    """
    found = {}
    with look_at(path) as connection:
        connection.row_factory = sqlite3.Row
        for _type, name, _sql in [entry for entry in schema_of(path) if entry[0] == "table"]:
            if name != "schema_meta" and not name.startswith(OF_INDEX):
                found[name] = [
                    {key: f"0x{value.hex()}" if isinstance(value, bytes) else value for key, value in dict(row).items()}
                    for row in connection.execute(f'SELECT * FROM "{name}" ORDER BY 1')
                ]
    return found


def files_of(directory: Path) -> dict[str, bytes]:
    """Return the content of every file directly in a folder. Not for a folder with a database open in this process."""
    return {entry.name: entry.read_bytes() for entry in sorted(directory.iterdir()) if entry.is_file()}
