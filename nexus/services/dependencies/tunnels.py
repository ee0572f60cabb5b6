"""Tunnels: for each tunnelled dependency a small process that listens on the port that the dependent was given.

The process lives while the dependent is up and outlives the daemon. It reads the dependency's present port from a file,
which is replaced whenever that port changes. This module does not know why a service is up.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from nexus_protocol import NexusError

from nexus.capability import ManagerContext
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.records.scope import reference_of
from nexus.runtime import Process, ProcessSpec, RuntimeFailure, RunUnreadable, loopback, ports
from nexus.runtime.tunnel import find_tunnel_command
from nexus.services import store
from nexus.services.dependencies import store as dependency_store
from nexus.services.dependencies.store import StoredDependency
from nexus.services.errors import ServiceStartFailed
from nexus.services.records import Service
from nexus.services.states import ServiceState
from nexus.services.store import StoredService
from nexus.store import StoreConflict, StoreError, Transaction
from nexus.tasks import cancel_and_wait

__all__ = ["TUNNEL_OWNER", "Tunnels"]

_log = logging.getLogger("nexus.services")

TUNNEL_OWNER = "tunnel-"
_HOST = loopback.HOST
_LISTEN_TIMEOUT_S = 10.0
_LOG_BYTES = 128 * 1024
_PORT_ATTEMPTS = 8
_RETRY_S = 0.2
_RETRY_MAX_S = 5.0
_LOOK_AGAIN_S = 1.0


class _Tunnel:
    """A tunnel that runs, or is being restarted."""

    def __init__(
        self, edge: StoredDependency, port: int, run_id: str, process: Process | None, operation: Operation
    ) -> None:
        self.edge = edge
        self.port = port
        self.run_id = run_id
        self.process = process
        self.operation = operation
        """What led to its present run."""
        self.watch: asyncio.Task[None] | None = None
        self.unknown = False
        """Whether its run could not be looked at yet, so that its process may live."""


class Tunnels:
    """The tunnels of one daemon; each has the id of its dependency."""

    def __init__(self, manager: ManagerContext) -> None:
        self._manager = manager
        self._store = manager.store
        self._runtime = manager.runtime
        self._ports = manager.ports
        self._directory = manager.directory.parent / "tunnels"
        self._tunnels: dict[int, _Tunnel] = {}
        self._held: Counter[str] = Counter()
        """By the id of a service, how many one-offs of it are about to run: no record says so yet."""
        self._used: set[str] = set()
        """The ids of the services that are up, or are being started."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        """By the id of a service: it and its one-offs open and close the same tunnels."""

    def __len__(self) -> int:
        return len(self._tunnels)

    # Of a dependent

    async def open(self, stored: StoredService, operation: Operation, *, one_off: bool = False) -> dict[str, int]:
        """Start the tunnels of a service that is about to run; gives the port of each tunnelled dependency by name.

        ``operation`` led to the run. With ``one_off`` it is not the service itself that runs: see ``held``.

        Raises:
            ServiceStartFailed: a dependency has no port, or its tunnel cannot be started.
        """
        if not one_off:
            self.use(stored.service.id)
        async with self._lock(stored.service.id):
            return await self._open(stored, operation)

    def use(self, service_id: str) -> None:
        """A service is up, or is being started: its tunnels stay until it calls ``close``."""
        self._used.add(service_id)

    def _lock(self, service_id: str) -> asyncio.Lock:
        lock = self._locks.get(service_id)
        if lock is None:
            lock = self._locks[service_id] = asyncio.Lock()
        return lock

    @contextlib.contextmanager
    def held(self, service_id: str) -> Iterator[None]:
        """Keep the tunnels of a service open while a one-off of it is prepared, until its record says that it runs."""
        self._held[service_id] += 1
        try:
            yield
        finally:
            self._held[service_id] -= 1
            if not self._held[service_id]:
                del self._held[service_id]

    async def _open(self, stored: StoredService, operation: Operation) -> dict[str, int]:
        found: dict[str, int] = {}
        for edge in stored.dependencies:
            if not edge.tunnel_enabled:
                continue
            dependency = self._store.read(lambda reader, edge=edge: store.get(reader, edge.dependency_id))  # type: ignore[misc]
            if dependency.port is None:
                raise _start_failed(
                    edge,
                    f'"{edge.dependency}" has no port for its tunnel',
                    "Give it a port: "
                    + command_line("nexusctl", "service", "update", reference_of(dependency), "--port", "0")
                    + "\nIn nexus.toml: port = 0",
                )
            tunnel = self._tunnels.get(edge.id)
            if tunnel is None:
                self._write_target(edge.id, dependency)
                tunnel = await self._start(edge, operation)
            found[edge.dependency] = tunnel.port
        return found

    async def close(self, service_id: str, operation: Operation, *, one_off: bool = False) -> None:
        """End all tunnels of a service that is no longer up, or of which a ``one_off`` has ended, unless they are used.

        Their ports stay leased for its next run.
        """
        if not one_off:
            self._used.discard(service_id)
        async with self._lock(service_id):
            await self._close(service_id, operation)

    async def _close(self, service_id: str, operation: Operation) -> None:
        if service_id in self._used or service_id in self._held:
            return
        if service_id in self._store.read(lambda reader: self._manager.environments.borrowed(reader, "service")):
            return
        edges = self._store.read(lambda reader: dependency_store.dependencies_of(reader, service_id))
        ids = {edge.id for edge in edges if edge.tunnel_run_id is not None}
        ids |= {id_ for id_, tunnel in self._tunnels.items() if tunnel.edge.service_id == service_id}
        rows = {edge.id: edge for edge in edges}
        for id_ in ids:
            await self._end(id_, rows.get(id_), operation)

    async def remove(self, dependency_ids: list[int]) -> None:
        """End the tunnels of deleted dependencies, and delete their files."""
        for id_ in dependency_ids:
            await self._end(id_, None, None)
            with contextlib.suppress(OSError):
                self._file(id_).unlink(missing_ok=True)
            with contextlib.suppress(OSError, RuntimeFailure):
                await self._runtime.remove(f"{TUNNEL_OWNER}{id_}")

    async def remove_deleted(self) -> None:
        """End the tunnels of all dependencies that no longer exist, and delete their files."""

        def of_files() -> set[int]:
            with contextlib.suppress(OSError):
                return {int(path.stem) for path in self._directory.iterdir() if path.stem.isdecimal()}
            return set()

        def of_processes() -> set[int]:
            numbers = (owner.removeprefix(TUNNEL_OWNER) for owner in self._runtime.owners())
            return {int(number) for number in numbers if number.isdecimal()}

        found = await asyncio.to_thread(lambda: of_files() | of_processes())
        for id_ in sorted(found | self._tunnels.keys()):
            exists, _run = self._store.read(lambda reader, id_=id_: dependency_store.tunnel_run(reader, str(id_)))  # type: ignore[misc]
            if not exists:  # ids are not given twice, so it never will
                await self.remove([id_])

    def gone(self, service_id: str) -> list[int]:
        """The ids of a service's tunnels whose dependency was deleted, or is no longer tunnelled."""
        edges = self._store.read(lambda reader: dependency_store.dependencies_of(reader, service_id))
        kept = {edge.id for edge in edges if edge.tunnel_enabled}
        return [
            id_ for id_, tunnel in self._tunnels.items() if tunnel.edge.service_id == service_id and id_ not in kept
        ]

    # Of a dependency

    def update(self, service_id: str) -> None:
        """Point the tunnels to a service at its present port."""
        ids = [id_ for id_, tunnel in self._tunnels.items() if tunnel.edge.dependency_id == service_id]
        if ids:
            service = self._store.read(lambda reader: store.by_id(reader, service_id))
            for id_ in ids:
                if service is not None:
                    self._write_target(id_, service)

    def _write_target(self, dependency_id: int, service: Service) -> None:
        up = service.state is ServiceState.RUNNING or (service.state is ServiceState.STARTING and service.pid)
        text = f"{_HOST} {service.active_port}\n" if up and service.active_port else ""
        path = self._file(dependency_id)
        try:
            if path.exists() and path.read_text(encoding="ascii") == text:
                return
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            new = path.with_suffix(".new")
            new.write_text(text, encoding="ascii")
            os.replace(new, path)  # noqa: PTH105
        except OSError as error:
            _log.error("cannot point the tunnel to service %s at its port: %s: %s", service.name, path, error.strerror)

    def _file(self, dependency_id: int) -> Path:
        return self._directory / str(dependency_id)

    # Of the daemon

    async def adopt(self, edge: StoredDependency, up: bool, operation: Operation) -> None:
        """Adopt a tunnel that an earlier daemon started, or end it if its dependent is not ``up``."""
        assert edge.tunnel_run_id is not None
        assert edge.tunnel_port is not None
        if not up:
            await self._end(edge.id, edge, operation)
            return
        tunnel = _Tunnel(edge, edge.tunnel_port, edge.tunnel_run_id, None, operation)
        try:
            tunnel.process = await self._adopt_process(edge.id, tunnel.run_id)
        except OSError as error:
            tunnel.unknown = True
            _log.error("cannot look at the tunnel of %s to %s, trying again: %s", edge.service, edge.dependency, error)
        self._tunnels[edge.id] = tunnel
        tunnel.watch = asyncio.create_task(self._watch(tunnel))
        self.update(edge.dependency_id)

    async def _adopt_process(self, dependency_id: int, run_id: str) -> Process | None:
        """Adopt the process of a tunnel's run; a process whose files were deleted or are broken is ended.

        Raises:
            OSError: it cannot be looked at.
        """
        owner = f"{TUNNEL_OWNER}{dependency_id}"
        try:
            found = await self._runtime.adopt(owner, run_id)
        except RunUnreadable as error:
            _log.warning("ending an unreadable tunnel: %s", error)
            found = None
        if found is None:
            for orphans in (await self._runtime.find_orphans({run_id: owner})).values():
                await self._runtime.end_orphans(orphans, signal.SIGKILL, 0)
        return found if isinstance(found, Process) else None

    async def shut(self) -> None:
        """Stop watching all tunnels, without touching their processes."""
        tunnels = list(self._tunnels.values())
        await cancel_and_wait(*(tunnel.watch for tunnel in tunnels))
        for tunnel in tunnels:
            if tunnel.process is not None:
                tunnel.process.close()

    # Of one tunnel

    async def _start(self, edge: StoredDependency, operation: Operation) -> _Tunnel:
        if edge.tunnel_run_id is not None:
            await self._end(edge.id, edge, operation)  # left by a start that was interrupted
        owner = dependency_store.tunnel_lease(edge.id)
        avoid: set[int] = set()
        reason = ""
        for _ in range(_PORT_ATTEMPTS):
            port = await self._ports.find_free(owner, edge.tunnel_port, avoid)
            run_id = uuid.uuid4().hex
            try:
                await self._write_row(operation, edge.id, port, run_id)
            except StoreConflict:
                avoid.add(port)
                continue
            try:
                process = await self._run(edge.id, port, run_id)
            except RuntimeFailure as error:
                reason = error.message
                break
            if process is not None:
                tunnel = self._tunnels[edge.id] = _Tunnel(edge, port, run_id, process, operation)
                tunnel.watch = asyncio.create_task(self._watch(tunnel))
                return tunnel
            reason = f"port {port} is in use"
            avoid.add(port)
        raise _start_failed(edge, f'the tunnel to "{edge.dependency}" cannot be started: {reason}', None)

    async def _write_row(self, operation: Operation, dependency_id: int, port: int, run_id: str | None) -> None:
        def change(tx: Transaction) -> None:
            dependency_store.set_tunnel(tx, operation, dependency_id, port, run_id)

        await self._store.write(change)

    async def _run(self, dependency_id: int, port: int, run_id: str) -> Process | None:
        """Start the process; None if it did not listen."""
        with contextlib.suppress(OSError):  # the start tells that there is no folder
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        spec = ProcessSpec(
            # By a name in its working directory: the folder may be renamed, see ``ProcessesFolder``.
            argv=(*find_tunnel_command(), _HOST, str(port), self._file(dependency_id).name),
            directory=str(self._directory),
            environment={},
            stop_grace_ms=0,
            log_bytes=_LOG_BYTES,
        )
        owner = f"{TUNNEL_OWNER}{dependency_id}"
        process = await self._runtime.start(owner, run_id, spec)
        problem: Exception | None = None
        try:
            if await _wait_until_listening(process, port):
                return process
        except Exception as error:
            problem = error
        await process.stop(grace_ms=0)
        process.close()
        self._runtime.forget(owner, run_id)
        if problem is not None:
            raise problem
        return None

    async def _watch(self, tunnel: _Tunnel) -> None:
        """Restart the process on the same port whenever it ends: the dependent knows only this address."""
        pause_s = _RETRY_S
        id_ = tunnel.edge.id
        while tunnel.unknown:
            await asyncio.sleep(_LOOK_AGAIN_S)
            with contextlib.suppress(OSError):
                tunnel.process = await self._adopt_process(id_, tunnel.run_id)
                tunnel.unknown = False
        ended = tunnel.process is None
        while True:
            if tunnel.process is not None:
                await tunnel.process.wait()
                tunnel.process.close()
                tunnel.process, ended = None, True
                _log.warning("the tunnel of %s to %s ended, restarting it", tunnel.edge.service, tunnel.edge.dependency)
            if ended:
                # Once for each end: the attempts to start it again belong to it, however many are needed.
                tunnel.operation, ended = self._manager.cause("tunnel.exited", tunnel.operation), False
            old, run_id = tunnel.run_id, uuid.uuid4().hex
            try:
                await self._write_row(tunnel.operation, id_, tunnel.port, run_id)
                tunnel.run_id = run_id
                self._runtime.forget(f"{TUNNEL_OWNER}{id_}", old)
                tunnel.process = await self._run(id_, tunnel.port, run_id)
            except (NexusError, RuntimeFailure, OSError) as error:
                _log.error("the tunnel of %s to %s: %s", tunnel.edge.service, tunnel.edge.dependency, error)
            if tunnel.process is None:
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
            else:
                pause_s = _RETRY_S

    async def _end(self, id_: int, row: StoredDependency | None, operation: Operation | None) -> None:
        """End a tunnel, whether or not this daemon watches it.

        One that cannot be looked at stays in its row, and is ended at the next end or adoption.
        """
        owner = f"{TUNNEL_OWNER}{id_}"
        tunnel = self._tunnels.pop(id_, None)
        process: Process | None = None
        run_id = None if row is None else row.tunnel_run_id
        if tunnel is not None:
            await cancel_and_wait(tunnel.watch)
            process, run_id = tunnel.process, tunnel.run_id
        if process is None and run_id is not None:
            try:
                process = await self._adopt_process(id_, run_id)
            except OSError as error:
                _log.error("cannot look at a tunnel that is to be ended: %s", error)
                return
        if process is not None:
            await process.stop(grace_ms=0)
            process.close()
        if row is not None and row.tunnel_port is not None:
            try:
                led = operation or self._manager.cause("adopted")
                await self._write_row(led, id_, row.tunnel_port if tunnel is None else tunnel.port, None)
            except StoreError as error:
                _log.warning("cannot write the end of the tunnel to %s: %s", row.dependency, error.message)
                return
        if run_id is not None:
            with contextlib.suppress(OSError, RuntimeFailure):
                self._runtime.forget(owner, run_id)


async def _wait_until_listening(process: Process, port: int) -> bool:
    """Wait until a tunnel listens; False if it ended, or does not listen within ``_LISTEN_TIMEOUT_S``."""
    pause_s = 0.002
    loop = asyncio.get_running_loop()
    deadline = loop.time() + _LISTEN_TIMEOUT_S
    while process.exit is None and loop.time() < deadline:
        if port in await ports.listeners_of_in_thread([process.pid]):
            return True
        await asyncio.sleep(pause_s)
        pause_s = min(2 * pause_s, 0.1)
    return False


def _start_failed(edge: StoredDependency, reason: str, hint: str | None) -> ServiceStartFailed:
    details: dict[str, Any] = {"id": edge.service_id, "name": edge.service, "reason": reason}
    return ServiceStartFailed(
        f'cannot start service "{edge.service}": {reason}',
        hint=hint or "Look at the log of the daemon.",
        details=details,
    )
