"""The one writer of a service's state: each change with its events in one transaction, repeated until it is durable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation, resumed
from nexus.journal.rows import Event
from nexus.records.scope import reference_of
from nexus.services import store
from nexus.services.errors import ServiceNotFound
from nexus.services.reasons import reason_columns
from nexus.services.records import Service
from nexus.services.states import ServiceHealth, ServiceState
from nexus.services.store import StoredService
from nexus.store import DiskFull, OutcomeUnknown, StoreError, StoreUnavailable, Transaction
from nexus.supervision.requests import Requests, StopRequest

__all__ = ["StateWriter"]

_RETRY_S = 1.0


class StateWriter:
    """Reads and writes the record of one service.

    ``changed`` is called after each write, ``troubled`` with the error when a write has to be repeated.
    """

    def __init__(
        self,
        manager: ManagerContext,
        service_id: str,
        changed: Callable[[], None],
        troubled: Callable[[StoreError], None],
    ) -> None:
        self.service: Service | None = None
        """As it was last written or refreshed."""
        self.trouble: StoreError | None = None
        """Why a change cannot be written at present."""
        self.operation = manager.store.read(
            lambda reader: resumed(reader, manager.caller, store.operation_of(reader, service_id), "adopted")
        )
        """What led to the present state, perhaps in an earlier daemon: later changes belong to it, until the next."""
        self._manager = manager
        self._id = service_id
        self._changed = changed
        self._troubled = troubled

    @property
    def reference(self) -> str:
        """How hints name the service; its id once the record is deleted."""
        return self._id if self.service is None else reference_of(self.service)

    @property
    def name(self) -> str:
        """The name of the service; its id once the record is deleted."""
        if self.service is None:
            self.refresh()
        return self._id if self.service is None else self.service.name

    def refresh(self) -> None:
        """Take over changes of the configuration."""
        with contextlib.suppress(ServiceNotFound):
            self.service = self.read().service

    def read(self) -> StoredService:
        """The record as it is committed."""
        return self._manager.store.read(lambda reader: store.stored(reader, self._id), snapshot=True)

    def cause(self, name: str) -> Operation:
        """Begin an operation of the daemon's own, which the present one led to."""
        return self._manager.cause(name, self.operation)

    async def write(
        self,
        state: ServiceState,
        *events: Event,
        operation: Operation | None = None,
        insist: bool = True,
        requests: Requests | None = None,
        made_from: StoredService | None = None,
        **columns: Any,
    ) -> Service:
        """Write the state, columns and events; with ``insist`` repeat it until the store can be written.

        ``operation`` is what led to it, by default what led to the present state, and ``made_from`` the record whose
        configuration a new run has.

        With ``requests`` a request ends the repetition: while a process runs, a full disk must not delay its stop.

        Raises:
            RequestPending: a request is there, or arrived, and the store cannot be written.
            StoreConflict: another record has the port.
            StoreError: without ``insist``, the store cannot be written.
        """
        led = operation or self.operation

        def change(tx: Transaction) -> Service:
            return store.change_state(tx, led, self._id, state, events, made_from=made_from, **columns)

        while True:
            try:
                self.service = await self._manager.store.write(change, size_bytes=1024)
                break
            except (DiskFull, OutcomeUnknown, StoreUnavailable) as error:
                if not insist:
                    raise
                self.trouble = error
                self._troubled(error)
                if requests is None:
                    await asyncio.sleep(_RETRY_S)
                else:
                    await requests.wait(_RETRY_S)
        self.trouble = None
        self.operation = led
        self._changed()
        return self.service

    async def write_health(self, health: ServiceHealth, message: str | None) -> Service:
        """Write the result of a health check; a change to unknown records no event."""
        before = None if self.service is None else self.service.health
        led = self.cause("health.failed") if health is ServiceHealth.UNHEALTHY else self.operation
        told = health not in (before, ServiceHealth.UNKNOWN)
        events = [(f"service.{health}", {} if message is None else {"message": message})] if told else []

        def change(tx: Transaction) -> Service:
            return store.set_health(tx, led, self._id, health, message, events)

        began = led is not self.operation
        self.service = await self._manager.store.write(change)
        if began and led.written:  # otherwise nothing was written, or a write beside this one began another one
            self.operation = led
        self._changed()
        return self.service

    async def write_stop(self, request: StopRequest) -> None:
        """Write a stop of a service without a supervision task: a failed one becomes stopped, none starts by itself."""
        columns = self.stop_columns(request)

        def change(tx: Transaction) -> tuple[Service, bool]:
            service = store.stored(tx, self._id).service
            if service.state is ServiceState.FAILED:
                events = [("service.stopped", {"reason": request.reason.text})]
                columns.update(reason_columns(request.reason))
            elif service.state is ServiceState.STOPPED and request.on_demand:
                events = []
            else:
                return service, False
            return store.change_state(tx, request.operation, self._id, ServiceState.STOPPED, events, **columns), True

        self.service, written = await self._manager.store.write(change)
        if written:
            self.operation = request.operation
        self._changed()

    def stop_columns(self, request: StopRequest) -> dict[str, Any]:
        """The columns that a stop sets."""
        columns: dict[str, Any] = {"wanted": False}
        return columns | {"stopped_in_boot": self._manager.boot.id} if request.on_demand else columns
