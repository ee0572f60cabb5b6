"""Tells the dependents of a service of its changes: with the row that changed, and some of them at a time.

A hub may have hundreds of dependents. Each is given the row, so that it reads nothing to see whether it is concerned.
Those that are get awake in groups, and the next group when the writes of the one before are durable: meanwhile other
clients are served, and the hub's own writes wait behind one group.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation, resumed
from nexus.services import store
from nexus.services.dependencies import store as dependency_store
from nexus.services.errors import ServiceNotFound
from nexus.services.store import StoredService
from nexus.store import Reader, StoreError

__all__ = ["Announcer", "Change", "Dependent"]

_log = logging.getLogger("nexus.services")

_PAGE = 64
"""Dependents that are told in one turn of the loop, if none of them has to act."""
_GROUP = 12
"""Dependents that act in one turn: about 2 ms."""


class Change:
    """A service as a change left it."""

    def __init__(self, manager: ManagerContext, stored: StoredService) -> None:
        self.stored = stored
        self._manager = manager

    @functools.cached_property
    def led_to(self) -> Operation:
        """What led to it: the handle of the service may not know of that state yet."""
        id_ = self.stored.operation_id
        return self._manager.store.read(lambda reader: resumed(reader, self._manager.caller, id_, "adopted"))


class Dependent(Protocol):
    """The handle of a dependent."""

    def notice(self, changes: Sequence[Change]) -> bool:
        """Take note of changes of a dependency; whether the dependent was woken to act."""


class Announcer:
    """The changes that dependents are still to be told of."""

    def __init__(
        self,
        manager: ManagerContext,
        find: Callable[[str], Dependent | None],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._manager = manager
        self._find = find
        self._spawn = spawn
        self._pending: dict[str, list[Change]] = {}

    def changed(self, service_id: str) -> None:
        """Tell the dependents of a service, soon, that it has changed: each state in its order."""

        def read(reader: Reader) -> StoredService | None:
            if not dependency_store.dependent_ids(reader, service_id, limit=1):
                return None
            return store.stored(reader, service_id)

        with contextlib.suppress(ServiceNotFound):
            stored = self._manager.store.read(read, snapshot=True)
            if stored is None:
                return
            if service_id in self._pending:
                self._pending[service_id].append(Change(self._manager, stored))
            else:
                self._pending[service_id] = [Change(self._manager, stored)]
                self._spawn(self._announce(service_id))

    async def _announce(self, service_id: str) -> None:
        changes = self._pending[service_id]
        try:
            while changes:
                # Changes that arrive meanwhile are told with these to those that come later, then to the others: each
                # dependent skips what it knows.
                count = len(changes)
                await self._tell_all(service_id, changes)
                del changes[:count]
        finally:
            del self._pending[service_id]

    async def _tell_all(self, service_id: str, changes: Sequence[Change]) -> None:
        after, acting = 0, 0

        def read(reader: Reader) -> list[tuple[int, str]]:
            return dependency_store.dependent_ids(reader, service_id, after=after, limit=_PAGE)

        while page := self._manager.store.read(read):
            for after, dependent_id in page:  # noqa: B007  the next page begins there
                dependent = self._find(dependent_id)
                acting += dependent is not None and dependent.notice(changes)
                if acting == _GROUP:
                    await self._let_act()
                    acting = 0
            await asyncio.sleep(0)

    async def _let_act(self) -> None:
        """Let those that were woken act, and return when what they write at once is durable."""
        await asyncio.sleep(0)
        with contextlib.suppress(StoreError):
            await self._manager.store.write(lambda _: None)
