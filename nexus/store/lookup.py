"""Finds a row by a reference of a user: its id, else its name, else a prefix of its id.

It works on tables with an ``id`` (a UUID in lower case) and a ``name`` (never in the form of a UUID), and knows no
particular table.
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict

from nexus.store.base import Reader, Row

__all__ = ["find_row"]


def find_row(
    reader: Reader, select: str, reference: str, *, word: str, ambiguous: type[Conflict], table: str = ""
) -> Row | None:
    """Return the row with exactly this id, else this name, else the only one whose id has this prefix.

    A prefix needs 4 characters. ``select`` is the query without conditions; its first two columns are the id and the
    name. ``table`` is the prefix of these columns in a join, such as ``service.``; ``word`` names the kind of record in
    the error.

    Raises:
        Conflict: several ids have this prefix. The error is of class ``ambiguous``; ``details.matches`` lists some.
    """
    # Ids are UUIDs and no name has that form, so one query decides between the two.
    prefix = reference.lower()
    is_uuid = len(prefix) == 36 and prefix.count("-") == 4
    row = reader.one(f"{select} WHERE {table}id = ?", (prefix,)) if is_uuid else None
    row = row or reader.one(f"{select} WHERE {table}name = ?", (reference,))
    if row is not None:
        return row
    if not 4 <= len(prefix) <= 36 or not set(prefix) <= set("0123456789abcdef-"):
        return None
    rows = reader.all(
        f"{select} WHERE {table}id >= ? AND {table}id < ? ORDER BY {table}id LIMIT 6", (prefix, prefix + "g")
    )
    if len(rows) > 1:
        raise ambiguous(
            f'cannot tell which {word} "{reference}" means: several ids begin with it',
            hint="Give more characters of the id, or the name.",
            details={"matches": [{"id": row[0], "name": row[1]} for row in rows]},
        )
    return rows[0] if rows else None
