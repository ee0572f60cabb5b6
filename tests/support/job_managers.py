"""Job managers in the test's own process, over a real store and the real process runtime, one after the other."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TypeVar

from nexus_protocol import Command

from nexus.capability import Context, Handler, ManagerContext, collect_handlers
from nexus.jobs import handlers
from nexus.jobs.manager import JobManager
from nexus.journal.operation import Operation
from nexus.runtime import Runtime
from nexus.store import Reader
from nexus.supervision.boot import Boot
from nexus.supervision.environments import Environments
from nexus.supervision.leases import Leases
from nexus.supervision.nodes import Nodes
from nexus.supervision.port_leases import PortLeases
from nexus.supervision.sweeper import Sweeper
from nexus.system.settings import KNOWN
from support.operations import TESTER
from support.supervised import FullStore

__all__ = ["JobDaemon", "ReadableStore"]

R = TypeVar("R")
T = TypeVar("T")

_HANDLERS: dict[str, Handler] = {handler.info.name: handler for handler in collect_handlers(handlers)}


class ReadableStore(FullStore):
    """``FullStore`` with the reads of coroutines."""

    async def fetch(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """As ``StateStore``."""
        return self.read(fn, snapshot=snapshot)


class JobDaemon:
    """What a daemon has of jobs: their manager and their handlers. ``end`` ends it, and the next one adopts."""

    def __init__(self, root: Path, store: ReadableStore) -> None:
        self.root = root
        self.directory = root / "processes"
        self.store = store
        self.runtime = Runtime(self.directory, scopes=False)
        self.sweeper = Sweeper(self.runtime)
        self.boot = Boot(self.directory)
        self.context = ManagerContext(
            store=store,  # type: ignore[arg-type]
            hooks=None,
            directory=self.directory,
            runtime=self.runtime,
            boot=self.boot,
            sweeper=self.sweeper,
            ports=PortLeases(store),  # type: ignore[arg-type]
            environments=Environments(),
            nodes=Nodes(),
            leases=Leases(),
            setting=lambda key: KNOWN[key].default,
            caller=TESTER,
        )
        self.manager = JobManager(self.context)
        self._view: Any = SimpleNamespace(manager=lambda _kind: self.manager)

    async def start(self) -> JobDaemon:
        """Adopt what an earlier one left, as the daemon does at its start."""
        self.directory.mkdir(parents=True, exist_ok=True)
        await self.manager.start()
        self.boot.note()
        await self.sweeper.sweep()
        return self

    async def end(self) -> None:
        """End it; its processes go on."""
        await self.manager.close()

    async def call(self, command: Command[R]) -> R:
        """Carry out a command as dispatch does.

        Raises:
            NexusError: the handler refused it.
        """
        handler = _HANDLERS[command.info.name]
        operation = Operation(TESTER, command.info.name)
        ctx = Context(self.store, self._view, TESTER, operation=operation)  # type: ignore[arg-type]
        if command.info.effect.value == "change":
            reply = await self.store.write(lambda tx: handler.fn(tx, ctx, command))
            if handler.after is not None:
                handler.after(ctx, reply)
            return reply  # type: ignore[no-any-return]
        found = handler.fn(ctx, command)
        return await found if inspect.isawaitable(found) else found  # type: ignore[no-any-return]

    def rows(self, sql: str, *parameters: Any) -> list[Any]:
        """What a query finds."""
        return self.store.read(lambda reader: reader.all(sql, parameters))
