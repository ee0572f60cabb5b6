"""Lends the environment of a service to one-offs: its directory, variables, tunnels and limits."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation
from nexus.records.scope import Scope
from nexus.services import store
from nexus.services.configuration.command import directory_of, umask_of
from nexus.services.configuration.environment import as_environment, resolve
from nexus.services.dependencies.tunnels import Tunnels
from nexus.store import Reader
from nexus.supervision.environments import BorrowedEnvironment

__all__ = ["OneOffs"]

_MIB = 1024 * 1024


class OneOffs:
    """The lender of services."""

    def __init__(self, manager: ManagerContext, tunnels: Tunnels) -> None:
        self._store = manager.store
        self._tunnels = tunnels

    def find(self, reader: Reader, reference: str, scope: Scope) -> str:
        """As ``Lender``."""
        return store.resolve(reader, reference, scope).id

    @contextlib.asynccontextmanager
    async def lend(self, id_: str, run_id: str, operation: Operation) -> AsyncIterator[BorrowedEnvironment]:
        """As ``Lender``: the port is that of the service's present run, if it has one."""
        stored = self._store.read(lambda reader: store.stored(reader, id_), snapshot=True)
        service = stored.service
        try:
            with self._tunnels.held(id_):
                tunnels = await self._tunnels.open(stored, operation, one_off=True)
                variables = await resolve(stored, port=service.active_port, tunnels=tunnels, run_id=run_id)
                yield BorrowedEnvironment(
                    directory_of(service),
                    as_environment(variables),
                    None if service.memory_limit_mib is None else service.memory_limit_mib * _MIB,
                    service.cpu_limit_percent,
                    umask_of(service),
                )
        except BaseException:
            await self.returned(id_, operation)
            raise

    async def returned(self, id_: str, operation: Operation) -> None:
        """As ``Lender``: end the tunnels, unless the service or another one-off uses them."""
        await self._tunnels.close(id_, operation, one_off=True)
