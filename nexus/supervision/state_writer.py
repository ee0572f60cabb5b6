"""The one writer of an object's state: each change with its events in one transaction, repeated until it is durable."""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.records.errors import LeaseStale
from nexus.runtime import RuntimeFailure
from nexus.store import DiskFull, OutcomeUnknown, StoreError, StoreUnavailable, Transaction
from nexus.supervision.host import Host
from nexus.supervision.nodes import Runs
from nexus.supervision.requests import Requests

__all__ = ["StateWriter"]

StateT = TypeVar("StateT")
RecordT = TypeVar("RecordT")

_RETRY_S = 1.0
_SIZE_BYTES = 1024


def _nothing(*_arguments: object) -> None:
    pass


class StateWriter(ABC, Generic[StateT, RecordT]):
    """Writes the record of one object. A capability says in ``change`` how a state and columns are written.

    ``operation`` is what led to the present state, perhaps in an earlier daemon.
    """

    def __init__(self, host: Host, owner: str, operation: Operation) -> None:
        self.record: RecordT | None = None
        """As it was last written or refreshed."""
        self.trouble: StoreError | None = None
        """Why a change cannot be written at present."""
        self.operation = operation
        """What led to the present state: later changes belong to it, until the next."""
        self.run_id: str | None = None
        """The run that the record knows."""
        self.on_change: Callable[[], None] = _nothing
        """Called after each write."""
        self.on_trouble: Callable[[StoreError], None] = _nothing
        """Called with the error when a write has to be repeated."""
        self.runs: Runs = host.runtime
        """What has the processes of the object."""
        self._host = host
        self._owner = owner

    @property
    @abstractmethod
    def name(self) -> str:
        """What sentences and logs call the object."""

    @abstractmethod
    def change(
        self,
        tx: Transaction,
        operation: Operation,
        state: StateT | None,
        events: Sequence[Event],
        columns: dict[str, Any],
    ) -> RecordT:
        """Write a state (None: the present one), columns and events, and return the record.

        It may be called twice, in the writer's thread. Where it is given ``run_id``, the record begins that run, or
        (None) knows none any more. ``unknown_since`` is since when the run cannot be looked at: the first time
        stays. Every write unsets it that does not give it, since the run is known then.
        """

    def unknown_columns(self, error: Exception) -> dict[str, Any]:
        """The columns that say why its run cannot be looked at."""
        del error
        return {}

    def cause(self, name: str) -> Operation:
        """Begin an operation of the daemon's own, which the present one led to."""
        return self._host.cause(name, self.operation)

    async def write(
        self,
        state: StateT | None,
        *events: Event,
        operation: Operation | None = None,
        insist: bool = True,
        requests: Requests | None = None,
        **columns: Any,
    ) -> RecordT:
        """Write the state, columns and events; with ``insist`` repeat it until the store can be written.

        ``operation`` is what led to it, by default what led to the present state. A write that sets ``run_id`` deletes
        the files of the run before, but not their log.

        With ``requests`` a request ends the repetition: while a process runs, a full disk must not delay its stop.

        Raises:
            RequestPending: a request is there, or arrived, and the store cannot be written.
            StoreError: without ``insist``, the store cannot be written.
        LeaseStale: the lease of the request is lost. What a run has done is written all the same, with ``insist``.
            Exception: what ``change`` raises; nothing is written.
        """
        led = operation or self.operation

        def change(tx: Transaction) -> RecordT:
            return self.change(tx, led, state, events, columns)

        while True:
            try:
                self.record = await self._host.store.write(change, size_bytes=_SIZE_BYTES)
                break
            except LeaseStale:
                if not insist or self.run_id is None or columns.get("run_id") is not None:
                    raise
                led.needs_lease = False
            except (DiskFull, OutcomeUnknown, StoreUnavailable) as error:
                if not insist:
                    raise
                self.trouble = error
                self.on_trouble(error)
                if requests is None:
                    await asyncio.sleep(_RETRY_S)
                else:
                    await requests.wait(_RETRY_S)
        self.trouble = None
        self.operation = led
        self.on_change()
        if "run_id" in columns:
            self._forget_run(columns["run_id"])
        return self.record

    def _forget_run(self, run_id: str | None) -> None:
        """The record knows another run now, or none: delete the files of the one before."""
        old, self.run_id = self.run_id, run_id
        if old is not None and old != run_id:
            with contextlib.suppress(OSError, RuntimeFailure):
                self.runs.forget(self._owner, old)
