"""All SQL of the journal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.caller import Caller
from nexus.journal.commands import Event, JournalAhead, JournalPruned
from nexus.store import Reader, Transaction
from nexus.store.dialect import highest_number, like_pattern, matches_pattern

__all__ = ["Slice", "Watched", "bounds", "prune", "read_slice", "record"]

_PRUNED_KEY = "journal_pruned_seq"
_WINDOW = 500
"""The sequence numbers searched for one slice, which limits its time whatever the filter."""
_LIMIT = 50
"""The events in one slice, which limits the memory held for a watcher."""

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
    """Insert the event of a change, in the transaction that makes the change.

    ``kind`` names the change in the past tense (``vm.created``); ``detail`` is any JSON without secrets.
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
    """The filter of a watcher: an event must satisfy all conditions."""

    kinds: Sequence[str] | None = None
    subject: str | None = None


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
        (_PRUNED_KEY,),
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
    end = min(after + _WINDOW, newest)
    conditions = "seq > ? AND seq <= ?"
    parameters: list[Any] = [after, end]
    if watched.kinds:
        conditions += f" AND ({' OR '.join([matches_pattern('kind')] * len(watched.kinds))})"
        parameters += [like_pattern(kind) for kind in watched.kinds]
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
    """Return the number of the oldest event; without events, the number after the newest."""
    row = reader.one("SELECT min(seq) FROM journal")
    return int(row[0]) if row is not None and row[0] is not None else newest + 1


def prune(tx: Transaction, before_at: int, limit: int = 2000) -> int:
    """Delete the oldest events up to the first one at ``before_at`` or later; at most ``limit``. Returns how many.

    It deletes from the old end only, even if the clock was set back, so that the kept events have no gaps.
    """
    row = tx.one("SELECT min(seq) FROM journal")
    if row is None or row[0] is None:
        return 0
    rows = tx.all("SELECT seq, at FROM journal ORDER BY seq LIMIT ?", (limit,))
    last_old = 0
    for seq, at in rows:
        if at >= before_at:
            break
        last_old = seq
    if not last_old:
        return 0
    deleted = tx.execute("DELETE FROM journal WHERE seq <= ?", (last_old,))
    tx.execute(
        "INSERT INTO schema_meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        (_PRUNED_KEY, str(last_old)),
    )
    return deleted
