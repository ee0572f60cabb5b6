"""The SQL that deletes what is older than the setting ``journal.keep_days``: from the old end, in small steps."""

from __future__ import annotations

from typing import NamedTuple

from nexus.journal import keys
from nexus.journal.operation import Operation
from nexus.journal.rows import is_part, unheld_operation
from nexus.journal.store import PRUNED_KEY
from nexus.store import Transaction

__all__ = ["STEP", "Pruned", "prune"]

STEP = 200
"""Rows deleted in one step, which limits how long the writes of clients wait for it."""
_OPERATIONS_KEY = "operation_pruned_id"


class Pruned(NamedTuple):
    """What one step deleted."""

    events: int = 0
    operations: int = 0
    keys: int = 0
    after: int = 0
    """The last operation that was looked at; the next step goes on after it."""

    def did_nothing(self, after: int) -> bool:
        """Whether the step that began after the operation ``after`` was the last one."""
        return not self.events and not self.keys and self.after == after


def prune(tx: Transaction, operation: Operation, now_ms: int, before_at: int, after: int = 0) -> Pruned:
    """Carry out one step: delete events and the secret values of their images, then operations, then keys of requests.

    Only what is older than ``before_at`` goes, and of the events only from the old end, even if the clock was set back:
    the kept events have no gaps. An operation stays as long as one of its events or of its parts does, or its key is
    remembered.
    ``operation`` is that of the whole deletion, which ends with a step that ``did_nothing``.
    """
    events = _prune_events(tx, before_at)
    operations, after = (0, after) if events else _prune_operations(tx, now_ms, before_at, after)
    expired = 0 if events or operations else keys.prune(tx, now_ms, STEP)
    if events:
        operation.enter(tx)
    return Pruned(events, operations, expired, after)


def _prune_events(tx: Transaction, before_at: int) -> int:
    last_old = 0
    for seq, at in tx.all("SELECT seq, at FROM journal ORDER BY seq LIMIT ?", (STEP,)):
        if at >= before_at:
            break
        last_old = seq
    if not last_old:
        return 0
    deleted = tx.execute("DELETE FROM journal WHERE seq <= ?", (last_old,))
    tx.execute("DELETE FROM secret_value WHERE seq <= ?", (last_old,))
    _note(tx, PRUNED_KEY, last_old)
    return deleted


def _prune_operations(tx: Transaction, now_ms: int, before_at: int, after: int) -> tuple[int, int]:
    rows = tx.all("SELECT id, at FROM operation WHERE id > ? ORDER BY id LIMIT ?", (after, STEP))
    old = [id_ for id_, at in rows if at < before_at]
    if not old:
        return 0, after
    last = old[-1]
    # The operation that led to the present state of a record stays as long as the record has that state.
    # So does one that is made of parts, as long as one of them does.
    part, causes = is_part("part")
    deleted = tx.execute(
        "DELETE FROM operation WHERE id > ? AND id <= ? AND at < ? AND (key IS NULL OR NOT EXISTS "
        "(SELECT 1 FROM request_key WHERE request_key.key = operation.key AND expires_at >= ?)) "
        f"AND {unheld_operation()} "
        f"AND NOT EXISTS (SELECT 1 FROM operation AS part WHERE part.cause = operation.id AND {part})",
        (after, last, before_at, now_ms, *causes),
    )
    _note(tx, _OPERATIONS_KEY, last)
    return deleted, last


def _note(tx: Transaction, key: str, number: int) -> None:
    tx.execute(
        "INSERT INTO schema_meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value "
        "WHERE CAST(schema_meta.value AS INTEGER) < CAST(excluded.value AS INTEGER)",
        (key, str(number)),
    )
