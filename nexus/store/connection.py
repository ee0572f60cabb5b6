"""Opens connections to SQLite that know the functions of the search index; the store opens no others.

A connection needs them that reads the index's content, writes a table that it covers, or changes the schema.
"""

from __future__ import annotations

import os
import sqlite3
from typing import Any

from nexus.store.splitting import SPLITTING, indexed, parts

__all__ = ["connect", "prepare"]


def connect(database: str | os.PathLike[str], **options: Any) -> sqlite3.Connection:
    """``sqlite3.connect``, with the functions of the search index."""
    return prepare(sqlite3.connect(database, **options))


def prepare(connection: sqlite3.Connection) -> sqlite3.Connection:
    """Make a connection know the functions of the search index; returns it."""
    connection.create_function("search_text", 1, indexed, deterministic=True)
    connection.create_function("search_parts", 1, parts, deterministic=True)
    connection.create_function("search_splitting", 0, lambda: SPLITTING, deterministic=True)
    return connection
