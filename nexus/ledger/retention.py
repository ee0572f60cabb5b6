"""Deletes what a setting in days calls old: metrics, and leases that have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation
from nexus.store import StoreError, Transaction
from nexus.tasks import Periodic

__all__ = ["Retention"]

_log = logging.getLogger("nexus.ledger")

_INTERVAL_S = 3600.0
_STEP = 200
"""Rows deleted in one step, which limits how long the writes of clients wait for it."""
_DAY_MS = 86_400_000

Prune = Callable[[Transaction, Operation, int, int], int]
"""Deletes at most a number of records of before a time; returns how many there were."""


class Retention(Periodic):
    """Looks at the start of the daemon, and every hour. ``what`` is ``metrics``: its setting and its cause begin so."""

    def __init__(self, context: ManagerContext, what: str, prune: Prune) -> None:
        self._context = context
        self._called = what
        self._prune = prune
        super().__init__(self.apply, _INTERVAL_S, _log, f"old {what}", "deleted", (StoreError,))

    async def apply(self) -> None:
        """Delete what is too old, in small steps.

        Raises:
            StoreError: the store cannot be read or written.
        """
        context = self._context
        before_at = context.boot.trusted_now_ms() - context.setting(f"{self._called}.keep_days") * _DAY_MS
        operation = context.cause(f"{self._called}.retention")
        deleted = _STEP
        while deleted:
            deleted = await context.store.write(lambda tx: self._prune(tx, operation, before_at, _STEP))
            await asyncio.sleep(0.01)  # let the writes of clients pass
