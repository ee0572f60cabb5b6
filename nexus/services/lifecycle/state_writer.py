"""The one writer of a service's state: each change with its events in one transaction, repeated until it is durable."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

from nexus import journal
from nexus.caller import Caller
from nexus.capability import ManagerContext
from nexus.services import store
from nexus.services.errors import ServiceNotFound
from nexus.services.reasons import reason_columns
from nexus.services.records import Service
from nexus.services.states import ServiceHealth, ServiceState
from nexus.services.store import StoredService
from nexus.store import DiskFull, OutcomeUnknown, StoreError, StoreUnavailable, Transaction
from nexus.supervision.requests import Requests, StopRequest

__all__ = ["Event", "StateWriter"]

_RETRY_S = 1.0

Event = tuple[str, dict[str, Any]]
"""The kind of an event, and its detail."""


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
        self._manager = manager
        self._id = service_id
        self._changed = changed
        self._troubled = troubled

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

    async def write(
        self,
        state: ServiceState,
        *events: Event,
        caller: Caller | None = None,
        insist: bool = True,
        requests: Requests | None = None,
        **columns: Any,
    ) -> Service:
        """Write the state, columns and events; with ``insist`` repeat it until the store can be written.

        With ``requests`` a request ends the repetition: while a process runs, a full disk must not delay its stop.

        Raises:
            RequestPending: a request is there, or arrived, and the store cannot be written.
            StoreConflict: another record has the port.
            StoreError: without ``insist``, the store cannot be written.
        """
        who = caller or self._manager.caller

        def change(tx: Transaction) -> Service:
            service = store.change_state(tx, self._id, state, **columns)
            for kind, detail in events:
                journal.record(tx, who, kind, "service", service.id, service.name, detail)
            return service

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
        self._changed()
        return self.service

    async def write_health(self, health: ServiceHealth, message: str | None) -> Service:
        """Write the result of a health check; a change to unknown records no event."""
        before = None if self.service is None else self.service.health

        def change(tx: Transaction) -> Service:
            service = store.set_health(tx, self._id, health, message)
            if service.health is health and health not in (before, ServiceHealth.UNKNOWN):
                detail = {} if message is None else {"message": message}
                journal.record(
                    tx, self._manager.caller, f"service.{health}", "service", service.id, service.name, detail
                )
            return service

        self.service = await self._manager.store.write(change)
        self._changed()
        return self.service

    async def write_stop(self, request: StopRequest) -> None:
        """Write a stop of a service without a supervision task: a failed one becomes stopped, none starts by itself."""
        columns = self.stop_columns(request)

        def change(tx: Transaction) -> Service:
            service = store.stored(tx, self._id).service
            if service.state is ServiceState.FAILED:
                reason = reason_columns(request.reason)
                service = store.change_state(tx, self._id, ServiceState.STOPPED, **reason, **columns)
                detail = {"reason": request.reason.text}
                journal.record(tx, request.caller, "service.stopped", "service", service.id, service.name, detail)
            elif service.state is ServiceState.STOPPED and request.on_demand:
                service = store.change_state(tx, self._id, ServiceState.STOPPED, **columns)
            return service

        self.service = await self._manager.store.write(change)
        self._changed()

    def stop_columns(self, request: StopRequest) -> dict[str, Any]:
        """The columns that a stop sets."""
        columns: dict[str, Any] = {"wanted": False}
        return columns | {"stopped_in_boot": self._manager.boot.id} if request.on_demand else columns
