"""How the state of a service is written, with its health, and with a stop while it has no supervision."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
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
from nexus.store import Transaction
from nexus.supervision.requests import StopRequest
from nexus.supervision.state_writer import StateWriter

__all__ = ["ServiceWriter"]


class ServiceWriter(StateWriter[ServiceState, Service]):
    """Reads and writes the record of one service.

    The columns of a write may hold ``made_from``, the record whose configuration a new run has.
    """

    def __init__(self, manager: ManagerContext, service_id: str, owner: str) -> None:
        operation = manager.store.read(
            lambda reader: resumed(reader, manager.caller, store.operation_of(reader, service_id), "adopted")
        )
        super().__init__(manager, owner, operation)
        self._manager = manager
        self._id = service_id

    @property
    def reference(self) -> str:
        """How hints name the service; its id once the record is deleted."""
        return self._id if self.record is None else reference_of(self.record)

    @property
    def name(self) -> str:
        """The name of the service; its id once the record is deleted."""
        if self.record is None:
            self.refresh()
        return self._id if self.record is None else self.record.name

    def refresh(self) -> None:
        """Take over changes of the configuration."""
        with contextlib.suppress(ServiceNotFound):
            self.record = self.read().service

    def read(self) -> StoredService:
        """The record as it is committed."""
        return self._manager.store.read(lambda reader: store.stored(reader, self._id), snapshot=True)

    def change(
        self,
        tx: Transaction,
        operation: Operation,
        state: ServiceState | None,
        events: Sequence[Event],
        columns: dict[str, Any],
    ) -> Service:
        """As ``StateWriter``; raises StoreConflict if another record has the port."""
        if state is None:
            service = store.get(tx, self._id)
            state = service.state
            if service.unknown_since is not None and columns.get("unknown_since") is not None:
                columns = columns | {"unknown_since": service.unknown_since}
        return store.change_state(tx, operation, self._id, state, events, **columns)

    async def write_health(self, health: ServiceHealth, message: str | None) -> Service:
        """Write the result of a health check; a change to unknown records no event."""
        before = None if self.record is None else self.record.health
        led = self.cause("health.failed") if health is ServiceHealth.UNHEALTHY else self.operation
        told = health not in (before, ServiceHealth.UNKNOWN)
        events = [(f"service.{health}", {} if message is None else {"message": message})] if told else []

        def change(tx: Transaction) -> Service:
            return store.set_health(tx, led, self._id, health, message, events)

        began = led is not self.operation
        self.record = await self._manager.store.write(change)
        if began and led.written:  # otherwise nothing was written, or a write beside this one began another one
            self.operation = led
        self.on_change()
        return self.record

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

        self.record, written = await self._manager.store.write(change)
        if written:
            self.operation = request.operation
        self.on_change()

    def stop_columns(self, request: StopRequest) -> dict[str, Any]:
        """The columns that a stop sets."""
        columns: dict[str, Any] = {"wanted": False}
        return columns | {"stopped_in_boot": self._manager.boot.id} if request.on_demand else columns
