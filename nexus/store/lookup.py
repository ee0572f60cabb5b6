"""How a row is found by what a person calls it: its id, else its name, else the first characters of its id.

It knows tables that have an ``id`` (a UUID in lower case) and a ``name`` (never shaped like one), none by its name.
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict

from nexus.store.base import Reader, Row

__all__ = ["find_row"]


def find_row(
    reader: Reader, select: str, reference: str, *, word: str, ambiguous: type[Conflict], table: str = ""
) -> Row | None:
    """The row with exactly this id, else with this name, else whose id alone begins with it (4 characters or more).

    ``select`` is the query without its conditions, its first two columns the id and the name; ``table`` is what
    these two are called by where several tables are joined, and ``word`` what a person calls such a thing.

    Raises:
        Conflict: several ids begin with it; of the class ``ambiguous``, with some of them in ``details.matches``.
    """
    # Ids are UUIDs and no name looks like one, so a single look-up decides.
    prefix = reference.lower()
    shaped = len(prefix) == 36 and prefix.count("-") == 4
    row = reader.one(f"{select} WHERE {table}id = ?", (prefix,)) if shaped else None
    row = row or reader.one(f"{select} WHERE {table}name = ?", (reference,))
    if row is not None:
        return row
    if not 4 <= len(prefix) <= 36 or not set(prefix) <= set("0123456789abcdef-"):
        return None
    rows = reader.all(
        f"{select} WHERE {table}id >= ?1 AND {table}id < ?2 ORDER BY {table}id LIMIT 6", (prefix, prefix + "g")
    )
    if len(rows) > 1:
        raise ambiguous(
            f'cannot tell which {word} "{reference}" means: several ids begin like that',
            hint="Give more of the id, or the name.",
            details={"matches": [{"id": row[0], "name": row[1]} for row in rows]},
        )
    return rows[0] if rows else None
