"""Finds a row by a reference of a user: its id, else its name or number, else a prefix of its id.

It works on tables with an ``id`` (a UUID in lower case) and a ``name`` (never in the form of a UUID, and without a
slash) or a ``number``, and knows no particular table.
"""

from __future__ import annotations

import re
from typing import Any

from nexus_protocol.errors import Conflict

from nexus.records.scope import Scope
from nexus.store import Reader, Row

__all__ = ["find_row"]

_SHOWN = 5
"""How many matches of an ambiguous reference an error lists."""
_NUMBER = re.compile(r"#?([0-9]{1,18})")


def find_row(
    reader: Reader,
    select: str,
    reference: str,
    scope: Scope | None,
    *,
    word: str,
    ambiguous: type[Conflict],
    table: str = "",
    numbered: bool = False,
    named: str = "name",
) -> Row | None:
    """Return the row with exactly this id, else this name, else the only one whose id has this prefix.

    ``named`` is the column of the name. The name of a kind that is ``numbered`` is the number of the record in its
    project: ``12``, or ``#12``.

    An id is found in any project, a name in the scope, and a prefix in the scope, else in any project; ``P/NAME`` is
    the name in the project with exactly the name P. A scope of None is for a kind of records that has no projects. A
    prefix needs 4 characters. ``select`` is the query without conditions; its first two columns are the id and the
    name. ``table`` is the prefix of these columns in a join, such as ``service.``; ``word`` names the kind of record in
    the error.

    Raises:
        Conflict: several ids have this prefix, or several projects this name. The error is of class ``ambiguous``;
            ``details.matches`` lists some.
    """
    # Ids are UUIDs and no name has that form, so one query decides between the two.
    prefix = reference.lower()
    if len(prefix) == 36 and prefix.count("-") == 4:
        row = reader.one(f"{select} WHERE {table}id = ?", (prefix,))
        if row is not None:
            return row
    by_name = f"{table}{'number' if numbered else named} = ?"
    wanted = _number(reference) if numbered else reference
    is_prefix = 4 <= len(prefix) <= 36 and set(prefix) <= set("0123456789abcdef-")
    of_prefix, bounds = f"{table}id >= ? AND {table}id < ? ORDER BY {table}id", (prefix, prefix + "g")
    if scope is None:
        return reader.one(f"{select} WHERE {by_name}", (wanted,)) or (
            _single(reader, f"{select} WHERE {of_prefix}", bounds, reference, word, ambiguous) if is_prefix else None
        )
    project, slash, name = reference.partition("/")
    if slash:
        of_project = f"{table}project_id = (SELECT id FROM projects WHERE name = ?)"
        wanted = _number(name) if numbered else name
        return reader.one(f"{select} WHERE {of_project} AND {by_name}", (project, wanted))
    if scope.project_id is not None:
        inside, here = f"{table}project_id = ? AND ", (scope.project_id,)
        row = reader.one(f"{select} WHERE {inside}{by_name}", (*here, wanted))
        if row is None and is_prefix:
            sql = f"{select} WHERE {inside}{of_prefix}"
            row = _single(reader, sql, (*here, *bounds), reference, word, ambiguous)
    elif scope.is_nowhere:
        row = None
    else:
        row = _single(reader, f"{select} WHERE {by_name}", (wanted,), reference, word, ambiguous, by_name=True)
    if row is None and is_prefix:
        row = _single(reader, f"{select} WHERE {of_prefix}", bounds, reference, word, ambiguous)
    return row


def _number(reference: str) -> int | None:
    """The number that a reference is; None, which no record has, where it is none."""
    found = _NUMBER.fullmatch(reference)
    return None if found is None else int(found[1])


def _single(
    reader: Reader,
    sql: str,
    parameters: tuple[Any, ...],
    reference: str,
    word: str,
    ambiguous: type[Conflict],
    *,
    by_name: bool = False,
) -> Row | None:
    rows = reader.all(f"{sql} LIMIT {_SHOWN + 1}", parameters)
    if len(rows) > 1:
        raise ambiguous(
            f'cannot tell which {word} "{reference}" means: '
            + ("several projects have one of this name" if by_name else "several ids begin with it"),
            hint="Give the id, or PROJECT/NAME." if by_name else "Give more characters of the id, or the name.",
            details={"matches": [{"id": row[0], "name": row[1]} for row in rows]},
        )
    return rows[0] if rows else None
