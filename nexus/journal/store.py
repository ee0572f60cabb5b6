"""The SQL that reads events."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from nexus_protocol.events import WRITTEN

from nexus.journal.commands import Event, JournalAhead, JournalPruned
from nexus.records.scope import ANYWHERE, Scope
from nexus.store import Reader
from nexus.store.dialect import highest_number, like_pattern, matches_pattern

__all__ = ["PRUNED_KEY", "Slice", "Watched", "about_subject", "bounds", "in_scope", "last_of_deleted", "read_slice"]

PRUNED_KEY = "journal_pruned_seq"
_WINDOW = 500
"""The sequence numbers searched for one slice, from the next event on: it limits the time whatever the filter."""
_LIMIT = 50
"""The events in one slice, which limits the memory held for a watcher."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


class Watched(NamedTuple):
    """The filter of a watcher: an event must satisfy all conditions."""

    kinds: Sequence[str] | None = None
    subject: str | None = None
    scope: Scope = ANYWHERE
    until: int | None = None
    """The number of the last event to look at; it exists, unless it was pruned."""


class Slice(NamedTuple):
    """Events after ``start``; up to ``seq`` no other event matches."""

    start: int
    events: list[Event]
    seq: int
    newest: int


def bounds(reader: Reader) -> tuple[int, int]:
    """Return (the number up to which events were pruned, the newest number assigned)."""
    row = reader.one(
        "SELECT coalesce((SELECT CAST(value AS INTEGER) FROM schema_meta WHERE key = ?), 0), "
        f"{highest_number('journal')}",
        (PRUNED_KEY,),
    )
    assert row is not None
    return row[0], row[1]


def read_slice(reader: Reader, after: int | None, watched: Watched) -> Slice:
    """Return the next matching events after a number (None: from the oldest). Needs a snapshot.

    Raises:
        JournalPruned: events after ``after`` were deleted.
        JournalAhead: ``after`` is a number that was not assigned yet.
    """
    pruned, newest = bounds(reader)
    if after is None:
        after = pruned
    if after < pruned:
        raise JournalPruned(
            f"cannot resume after event {after}: events up to {pruned} were deleted",
            hint=f"Start from the oldest event that is kept: after {pruned}.",
            details={"oldest_seq": _oldest(reader, newest), "resume_after": pruned},
        )
    if after > newest:
        raise JournalAhead(
            f"cannot resume after event {after}: the newest event is {newest}",
            hint="Check the number: it may belong to another database.",
            details={"newest_seq": newest},
        )
    # Numbers have gaps, a wide one where a damaged database was replaced: the window begins at the next event.
    following = reader.one("SELECT min(seq) FROM journal WHERE seq > ?", (after,))
    first = newest if following is None or following[0] is None else following[0]
    end = min(first + _WINDOW - 1, newest)
    if watched.until is not None:
        end = min(end, max(watched.until, after))
    conditions = "seq > ? AND seq <= ?"
    parameters: list[Any] = [after, end]
    kinds = [like_pattern(kind) for kind in watched.kinds or ()]
    written = [kind for kind in kinds if kind.endswith(WRITTEN)]
    matches = matches_pattern("kind")
    if kinds:
        conditions += f" AND ({' OR '.join([matches] * len(kinds))})"
        parameters += kinds
    # A change that is no event of its own is given where its kind is asked for, and not with every kind of a record.
    conditions += f" AND (kind NOT LIKE ?{f' OR {matches}' * len(written)})"
    parameters += [f"%{WRITTEN}", *written]
    inside, values = (
        in_scope(watched.scope) if watched.subject is None else about_subject(watched.subject, watched.scope)
    )
    conditions += f" AND {inside}"
    parameters += values
    rows = reader.all(
        "SELECT seq, at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail, operation_id, "
        "(SELECT why FROM operation WHERE id = operation_id), revision, project_id, "
        "(SELECT name FROM projects WHERE id = journal.project_id) "
        f"FROM journal WHERE {conditions} ORDER BY seq LIMIT {_LIMIT}",
        parameters,
    )
    events = [Event(*(*row[:9], _decode(row[9]), *row[10:])) for row in rows]
    return Slice(after, events, events[-1].seq if len(events) == _LIMIT else end, newest)


def in_scope(scope: Scope) -> tuple[str, list[str]]:
    """The condition on an event or an operation that it is of the scope, with its parameters."""
    if scope.is_nowhere:
        return "0 = 1", []
    return ("1 = 1", []) if scope.project_id is None else ("project_id = ?", [scope.project_id])


def about_subject(subject: str, scope: Scope) -> tuple[str, list[str]]:
    """The condition on an event that it is about the record with this reference, with its parameters.

    As for any reference, an id and P/NAME are found in any project, and a name in the scope.
    """
    project, slash, name = subject.partition("/")
    if slash:
        return "(subject_name = ? AND project_id = (SELECT id FROM projects WHERE name = ?))", [name, project]
    inside, values = in_scope(scope)
    return f"(subject_id = ? OR (subject_name = ? AND {inside}))", [subject, subject, *values]


def last_of_deleted(reader: Reader, project_id: str) -> int | None:
    """The number of the last event of a project that was deleted, 0 if none is kept; None for one that exists."""
    if reader.one("SELECT 1 FROM projects WHERE id = ?", (project_id,)) is not None:
        return None
    row = reader.one("SELECT seq FROM journal WHERE project_id = ? ORDER BY seq DESC LIMIT 1", (project_id,))
    return 0 if row is None else int(row[0])


def _oldest(reader: Reader, newest: int) -> int:
    """Return the number of the oldest event; without events, the number after the newest."""
    row = reader.one("SELECT min(seq) FROM journal")
    return int(row[0]) if row is not None and row[0] is not None else newest + 1
