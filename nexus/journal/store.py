"""All SQL of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.capability import Caller
from nexus.journal.commands import Event, JournalAhead, JournalPruned
from nexus.store import Reader, Transaction

__all__ = ["Slice", "Watched", "bounds", "prune", "read_slice", "record"]

_PRUNED_KEY = "journal_pruned_seq"
_WINDOW = 500
"""Numbers looked at for one slice, which bounds the time it takes with any filter."""
_LIMIT = 50
"""Events in one slice, which bounds what is held for a watcher."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def record(
    tx: Transaction,
    caller: Caller,
    kind: str,
    subject_kind: str,
    subject_id: str,
    subject_name: str | None,
    detail: dict[str, Any],
) -> None:
    """Write down a change, in the transaction that makes it.

    ``kind`` is what happened in the past tense (``vm.created``), ``detail`` anything JSON can hold and no secrets.
    """
    tx.execute(
        "INSERT INTO journal (at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            tx.now,
            kind,
            subject_kind,
            subject_id,
            subject_name,
            caller.actor,
            caller.uid,
            caller.pid,
            _encode(detail).decode(),
        ),
    )
    tx.mark_journal()


class Watched(NamedTuple):
    """Which events a watcher wants: all of these hold."""

    kinds: Sequence[str] | None = None
    subject: str | None = None


class Slice(NamedTuple):
    """Some events after ``start``, and the number up to which there is nothing else of interest."""

    start: int
    events: list[Event]
    seq: int
    newest: int


def bounds(reader: Reader) -> tuple[int, int]:
    """(the number up to which events were pruned, the newest number given out)."""
    row = reader.one(
        "SELECT coalesce((SELECT CAST(value AS INTEGER) FROM schema_meta WHERE key = ?), 0), "
        "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'journal'), 0)",
        (_PRUNED_KEY,),
    )
    assert row is not None
    return row[0], row[1]


def read_slice(reader: Reader, after: int | None, watched: Watched) -> Slice:
    """The next events after a number (None: from the oldest). Needs a snapshot.

    Raises:
        JournalPruned: events after ``after`` were deleted.
        JournalAhead: ``after`` is a number that was not given out yet.
    """
    pruned, newest = bounds(reader)
    if after is None:
        after = pruned
    if after < pruned:
        raise JournalPruned(
            f"cannot go on after event {after}: events up to {pruned} are no longer kept",
            hint=f"Start from the oldest that is kept: after {pruned}.",
            details={"oldest_seq": _oldest(reader, newest), "resume_after": pruned},
        )
    if after > newest:
        raise JournalAhead(
            f"cannot go on after event {after}: the newest is {newest}",
            hint="The cursor is of another database, or mistyped.",
            details={"newest_seq": newest},
        )
    end = min(after + _WINDOW, newest)
    conditions = "seq > ? AND seq <= ?"
    parameters: list[Any] = [after, end]
    if watched.kinds:
        conditions += f" AND ({' OR '.join(['kind GLOB ?'] * len(watched.kinds))})"
        parameters += [_glob(kind) for kind in watched.kinds]
    if watched.subject is not None:
        conditions += " AND (subject_id = ? OR subject_name = ?)"
        parameters += [watched.subject, watched.subject]
    rows = reader.all(
        "SELECT seq, at, kind, subject_kind, subject_id, subject_name, actor, uid, pid, detail FROM journal "
        f"WHERE {conditions} ORDER BY seq LIMIT {_LIMIT}",
        parameters,
    )
    events = [Event(*(*row[:-1], _decode(row[-1]))) for row in rows]
    return Slice(after, events, events[-1].seq if len(events) == _LIMIT else end, newest)


def _oldest(reader: Reader, newest: int) -> int:
    """The number of the oldest event there is; of the next one where there is none."""
    row = reader.one("SELECT min(seq) FROM journal")
    return int(row[0]) if row is not None and row[0] is not None else newest + 1


def _glob(kind: str) -> str:
    # Only * and ? are wildcards; a bracket stands for itself.
    return kind.replace("[", "[[]")


def prune(tx: Transaction, before_at: int, most: int = 2000) -> int:
    """Delete the oldest events up to the first that happened at ``before_at`` or later, at most ``most``.

    Only ever from the old end, whatever the clock did, so that what is kept has no holes.
    """
    row = tx.one("SELECT min(seq) FROM journal")
    if row is None or row[0] is None:
        return 0
    rows = tx.all("SELECT seq, at FROM journal ORDER BY seq LIMIT ?", (most,))
    old = 0
    for seq, at in rows:
        if at >= before_at:
            break
        old = seq
    if not old:
        return 0
    gone = tx.execute("DELETE FROM journal WHERE seq <= ?", (old,))
    tx.execute(
        "INSERT INTO schema_meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_PRUNED_KEY, str(old)),
    )
    return gone
