"""The SQL of blobs: their rows, which of them rows refer to, and which of them no message names."""

from __future__ import annotations

import re

from nexus.conversations.records import Blob
from nexus.journal.rows import append_only
from nexus.store import Reader, Transaction

__all__ = [
    "add_blob",
    "count_parts",
    "drop_blob",
    "find_blob",
    "is_in_revision",
    "named_in_revisions",
    "referred_blobs",
    "unnamed_blobs",
]

append_only("blobs", "the files, whose names are their hashes")

_HASH = re.compile(r'"blob":\s*"([0-9a-f]{64})"')


def add_blob(tx: Transaction, hash_: str, size_bytes: int) -> Blob:
    """Note a blob whose file is durable, and when it was stored last: it is not swept soon after."""
    tx.execute(
        "INSERT INTO blobs (hash, size_bytes, created_at) VALUES (?, ?, ?) "
        "ON CONFLICT (hash) DO UPDATE SET created_at = excluded.created_at",
        (hash_, size_bytes, tx.now),
    )
    return Blob(hash_, size_bytes)


def referred_blobs(reader: Reader, after: str, limit: int) -> list[tuple[str, int]]:
    """Hashes and sizes of blobs, sorted by hash, after a hash."""
    rows = reader.all("SELECT hash, size_bytes FROM blobs WHERE hash > ? ORDER BY hash LIMIT ?", (after, limit))
    return [(str(hash_), int(size)) for hash_, size in rows]


def find_blob(reader: Reader, hash_: str) -> int | None:
    """The size of a blob; None where there is none."""
    row = reader.one("SELECT size_bytes FROM blobs WHERE hash = ?", (hash_,))
    return None if row is None else int(row[0])


def count_parts(reader: Reader, hash_: str) -> int:
    """How many parts of messages name a blob."""
    row = reader.one("SELECT count(*) FROM message_parts WHERE blob = ?", (hash_,))
    return 0 if row is None else int(row[0])


def is_in_revision(reader: Reader, hash_: str) -> bool:
    """Whether what a message was before names a blob. It reads all revisions."""
    return reader.one("SELECT 1 FROM message_revision WHERE parts LIKE ? LIMIT 1", (f'%"blob":"{hash_}"%',)) is not None


def unnamed_blobs(reader: Reader, before_at: int, after: str, limit: int) -> list[tuple[str, int]]:
    """Hashes and sizes of blobs that no part of a message names and none has named since a time, sorted by hash."""
    rows = reader.all(
        "SELECT hash, size_bytes FROM blobs WHERE hash > ? AND created_at < ? "
        "AND NOT EXISTS (SELECT 1 FROM message_parts WHERE blob = hash) ORDER BY hash LIMIT ?",
        (after, before_at, limit),
    )
    return [(str(hash_), int(size)) for hash_, size in rows]


def named_in_revisions(reader: Reader, after: tuple[str, int], limit: int) -> tuple[set[str], tuple[str, int] | None]:
    """The blobs that a page of what messages were before names, and where the next page begins; None at the end."""
    rows = reader.all(
        "SELECT message_id, revision, parts FROM message_revision WHERE (message_id, revision) > (?, ?) "
        "ORDER BY message_id, revision LIMIT ?",
        (*after, limit),
    )
    found = {hash_ for _id, _revision, parts in rows for hash_ in _HASH.findall(parts or "")}
    return found, (str(rows[-1][0]), int(rows[-1][1])) if rows else None


def drop_blob(tx: Transaction, hash_: str, before_at: int) -> bool:
    """Delete the row of a blob that no part of a message names and none has named since; False where it stays."""
    return bool(
        tx.execute(
            "DELETE FROM blobs WHERE hash = ? AND created_at < ? "
            "AND NOT EXISTS (SELECT 1 FROM message_parts WHERE blob = hash)",
            (hash_, before_at),
        )
    )
