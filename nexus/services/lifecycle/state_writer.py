"""The row of one service, as the life of that service writes it: each change with its events, in one transaction."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from nexus import journal
from nexus.services import store
from nexus.services.errors import ServiceNotFound
from nexus.services.records import Service
from nexus.services.states import ServiceHealth, ServiceState
from nexus.store import DiskFull, OutcomeUnknown, StoreError, StoreUnavailable, Transaction

if TYPE_CHECKING:
    from nexus.capability import Caller
    from nexus.services.lifecycle.context import Keeper
    from nexus.services.store import StoredService
    from nexus.supervision.requests import StopWish

__all__ = ["Event", "Row"]

_AGAIN_S = 1.0

Event = tuple[str, dict[str, Any]]
"""The kind of an event, and its detail."""


class Row:
    """What is written of one service. ``changed`` is called after each write, ``troubled`` when one has to wait."""

    def __init__(
        self, keeper: Keeper, service_id: str, changed: Callable[[], None], troubled: Callable[[StoreError], None]
    ) -> None:
        self.service: Service | None = None
        """As it was last written."""
        self.pending: dict[str, Any] = {}
        """Columns that go with the next write."""
        self.trouble: StoreError | None = None
        """Why what has happened cannot be written at present."""
        self._keeper = keeper
        self._id = service_id
        self._changed = changed
        self._troubled = troubled

    @property
    def name(self) -> str:
        """The name of the service; its id where that is gone."""
        if self.service is None:
            self.refresh()
        return self._id if self.service is None else self.service.name

    def refresh(self) -> None:
        """Take over what others have changed of it."""
        with contextlib.suppress(ServiceNotFound):
            self.service = self.read().service

    def read(self) -> StoredService:
        """The row as it is."""
        return self._keeper.store.read(lambda reader: store.stored(reader, self._id), snapshot=True)

    async def write(
        self,
        state: ServiceState,
        *events: Event,
        caller: Caller | None = None,
        insist: bool = True,
        **columns: Any,
    ) -> Service:
        """Write its state and the journal; with ``insist`` as often as it takes until the store can.

        Raises:
            StoreConflict: another service has its port.
            StoreError: without ``insist``, the store cannot be written.
        """
        pending, self.pending = self.pending, {}
        who = caller or self._keeper.caller

        def change(tx: Transaction) -> Service:
            service = store.change_state(tx, self._id, state, **(pending | columns))
            for kind, detail in events:
                journal.record(tx, who, kind, "service", service.id, service.name, detail)
            return service

        try:
            while True:
                try:
                    self.service = await self._keeper.store.write(change, size_bytes=1024)
                    break
                except (DiskFull, OutcomeUnknown, StoreUnavailable) as error:
                    if not insist:
                        raise
                    self.trouble = error
                    self._troubled(error)
                    await asyncio.sleep(_AGAIN_S)
        except BaseException:
            self.pending = pending | self.pending
            raise
        self.trouble = None
        self._changed()
        return self.service

    async def write_health(self, health: ServiceHealth, message: str | None) -> Service:
        """Write what a check found; that nothing is known any more is no event."""
        before = None if self.service is None else self.service.health

        def change(tx: Transaction) -> Service:
            service = store.set_health(tx, self._id, health, message)
            if service.health is health and health not in (before, ServiceHealth.UNKNOWN):
                detail = {} if message is None else {"message": message}
                journal.record(
                    tx, self._keeper.caller, f"service.{health}", "service", service.id, service.name, detail
                )
            return service

        self.service = await self._keeper.store.write(change)
        self._changed()
        return self.service

    async def write_rest(self, wish: StopWish) -> None:
        """Note a stop of a service of which nothing runs: what failed is stopped now, and nothing starts by itself."""
        columns = self.columns_of(wish)

        def change(tx: Transaction) -> Service:
            service = store.stored(tx, self._id).service
            if service.state is ServiceState.FAILED:
                service = store.change_state(tx, self._id, ServiceState.STOPPED, reason=wish.reason, **columns)
                detail = {"reason": wish.reason}
                journal.record(tx, wish.caller, "service.stopped", "service", service.id, service.name, detail)
            elif service.state is ServiceState.STOPPED and wish.on_demand:
                service = store.change_state(tx, self._id, ServiceState.STOPPED, **columns)
            return service

        self.service = await self._keeper.store.write(change)
        self._changed()

    def columns_of(self, wish: StopWish) -> dict[str, Any]:
        """What a stop leaves in the row."""
        columns: dict[str, Any] = {"wanted": False}
        return columns | {"stopped_in_boot": self._keeper.boot_id} if wish.on_demand else columns
