"""Keeps every service's record and its processes the same: starts, watches, restarts, connects and stops them.

It knows the process room and the store; it knows no socket, and the wire only as records.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from nexus_protocol import DeadlineExceeded, NexusError

from nexus import graph, journal
from nexus.capability import Caller
from nexus.runtime import Process, Runtime, RuntimeFailure
from nexus.runtime.status import boot_id, process_start
from nexus.runtime.tree import parent_of
from nexus.services import store
from nexus.services.commands import GetServiceStdout, RemoveService, RestartService, StartService, StopService
from nexus.services.configuration.environment import as_environment, resolve
from nexus.services.dependencies import store as dependency_store
from nexus.services.dependencies.tunnels import TUNNEL_OWNER, Tunnels
from nexus.services.errors import ServiceNeeded
from nexus.services.lifecycle import launch
from nexus.services.lifecycle.context import owner_of_service
from nexus.services.lifecycle.handle import Unit
from nexus.services.lifecycle.policy import completed
from nexus.services.records import LogPiece, Service, ServicesStopped, ServiceStarted, ServiceStatus
from nexus.services.states import DependencyCondition, LogStream, ServiceState, ServiceType
from nexus.store import Reader, Transaction
from nexus.supervision.requests import StopWish
from nexus.supervision.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nexus.capability import Hooks, ManagerContext
    from nexus.runtime import Exit, Orphans
    from nexus.services.dependencies.store import StoredDependency
    from nexus.services.store import StoredService

__all__ = ["ServiceManager", "make_manager"]

_log = logging.getLogger("nexus.services")

_ADOPTS_AT_ONCE = 32
_STARTS_AT_ONCE = 8
_SETTLE_S = 5.0
"""How long the daemon's start waits for what ended meanwhile to be written down."""
_SERVICE_OWNER = owner_of_service("")
_STREAMS = {LogStream.STDOUT: 1, LogStream.STDERR: 2}
_STREAM_NAMES = {number: stream for stream, number in _STREAMS.items()}


class ServiceManager:
    """The services of one daemon."""

    def __init__(self, context: ManagerContext) -> None:
        self.store = context.store
        self.hooks: Hooks | None = context.hooks
        self.runtime = Runtime(context.directory, descriptors=context.file_limit)
        self.tunnels = Tunnels(context.store, self.runtime, context.directory.parent / "tunnels")
        self.caller = Caller(os.getuid(), os.getpid(), "nexusd")
        self.boot_id = _boot_id()
        self.boot_at = _boot_at()
        self.launches = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._directory = context.directory
        self._units: dict[str, Unit] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._followers: dict[str, set[asyncio.Event]] = {}

    # The daemon's start and end

    async def start(self) -> None:
        """Take back what runs, see to what ended meanwhile, and start what is to be started with the daemon."""
        rows = self.store.read(store.all_stored, snapshot=True)
        rebooted = self._is_another_boot()
        up = [stored for stored in rows if stored.service.state in store.UP]
        gate = asyncio.Semaphore(_ADOPTS_AT_ONCE)

        async def adopt(stored: StoredService) -> Process | Exit | Exception | None:
            async with gate:
                return await self._adopt(stored)

        # Tunnels first: a service that turns out to have ended ends its own.
        tunnels = [
            self.tunnels.adopt(edge, stored.service.state in store.UP)
            for stored in rows
            for edge in stored.dependencies
            if edge.tunnel_run_id is not None
        ]
        for outcome in await asyncio.gather(*tunnels, return_exceptions=True):
            if isinstance(outcome, Exception):
                _log.error("a tunnel was not taken back", exc_info=outcome)
        found = await self._with_orphans(up, await asyncio.gather(*(adopt(stored) for stored in up)))
        # All in one turn: who needs a service that is still looked for would take it for one at rest, and start it.
        seen_to = [self._resume(stored, found, rebooted) for stored, found in zip(up, found, strict=True)]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_SETTLE_S):
                for event in seen_to:
                    if event is not None:
                        await event.wait()
        self._note_boot()
        for stored in rows:
            if stored.service.autostart and self._is_due(stored):
                self._spawn(self._autostart(stored.service))
        self._spawn(self._clean())

    async def _adopt(self, stored: StoredService) -> Process | Exit | Exception | None:
        """Look for a service's run; one that makes trouble keeps nobody else from theirs."""
        if stored.run_id is None:
            return None
        try:
            return await self.runtime.adopt(owner_of_service(stored.service.id), stored.run_id)
        except Exception as error:
            return error

    async def _with_orphans(
        self, rows: list[StoredService], found: list[Process | Exit | Exception | None]
    ) -> list[Process | Exit | Orphans | Exception | None]:
        """What was found, and what lives of runs whose files somebody deleted."""
        lost = {
            stored.run_id: owner_of_service(stored.service.id)
            for stored, one in zip(rows, found, strict=True)
            if one is None and stored.run_id is not None
        }
        orphans = await self.runtime.find_orphans(lost)
        return [
            orphans.get(stored.run_id or "") if one is None else one for stored, one in zip(rows, found, strict=True)
        ]

    def _resume(
        self, stored: StoredService, found: Process | Exit | Orphans | Exception | None, rebooted: bool
    ) -> asyncio.Event | None:
        """Go on with a service; gives what is set once that has been seen to."""
        try:
            if isinstance(found, Exception):
                raise found
            return self.unit(stored.service.id).resume(stored, found, rebooted=rebooted)
        except Exception:
            _log.exception("service %s was not taken back", stored.service.name)
            return None

    def _is_due(self, stored: StoredService) -> bool:
        service = stored.service
        if stored.stopped_in_boot == self.boot_id or self.unit(service.id).alive:
            return False
        return not (service.type is ServiceType.ONESHOT and completed(stored, self.boot_at))

    async def _autostart(self, service: Service) -> None:
        try:
            await self.unit(service.id).start(self.caller, None, wait=False)
        except NexusError as error:
            _log.warning("autostart: %s", error.message)

    def _is_another_boot(self) -> bool:
        try:
            return self._boot_file.read_text(encoding="ascii") != self.boot_id
        except (OSError, ValueError):
            return False

    def _note_boot(self) -> None:
        """Only once every row is of this boot: a start that did not come this far is done again."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._boot_file.write_text(self.boot_id, encoding="ascii")
        except OSError as error:
            _log.warning("%s cannot be written: %s", self._boot_file, error.strerror)

    @property
    def _boot_file(self) -> Path:
        return self._directory / "boot"

    async def _clean(self) -> None:
        """End and delete what no row knows: it is of a daemon that was killed between two steps."""
        for owner in await asyncio.to_thread(_owners, self._directory):
            try:
                for run_id in await asyncio.to_thread(_runs, self._directory / owner):
                    if self._known(owner) != (True, run_id):
                        found = await self.runtime.adopt(owner, run_id)
                        if isinstance(found, Process):
                            _log.warning("run %s of %s is ended: no record knows it", run_id, owner)
                            await found.stop()
                            found.close()
                        if self._known(owner) != (True, run_id):
                            self.runtime.forget(owner, run_id)
                if not self._known(owner)[0]:
                    await self.runtime.remove(owner)
            except (RuntimeFailure, OSError, ValueError) as error:
                _log.warning("what is left of %s was not deleted: %s", owner, error)

    def _known(self, owner: str) -> tuple[bool, str | None]:
        """Whether there is a row for what the process room calls so, and the run that it knows."""

        def read(reader: Reader) -> tuple[bool, str | None]:
            if owner.startswith(TUNNEL_OWNER):
                return dependency_store.tunnel_run(reader, owner.removeprefix(TUNNEL_OWNER))
            service_id = owner.removeprefix(_SERVICE_OWNER)
            found = store.find(reader, service_id)
            if found is None or found.id != service_id:
                return False, None
            return True, store.stored(reader, service_id).run_id

        return self.store.read(read, snapshot=True)

    async def close(self) -> None:
        """Let go of every process without touching it."""
        await cancel_and_wait(*self._tasks)
        await asyncio.gather(*(unit.close() for unit in self._units.values()))
        await self.tunnels.shut()

    def children(self) -> int:
        """How many services are up or in work, and tunnels: while there is one, the daemon has something to do."""
        return sum(unit.alive for unit in self._units.values()) + len(self.tunnels)

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not isinstance(task.exception(), NexusError):
            _log.error("a task of the services failed", exc_info=task.exception())

    # For the units

    def unit(self, service_id: str) -> Unit:
        """The unit of a service."""
        unit = self._units.get(service_id)
        if unit is None:
            unit = self._units[service_id] = Unit(self, service_id)
        return unit

    def changed(self, service_id: str) -> None:
        """A service's row was changed: who depends on it looks again, and its tunnels follow it."""
        self.tunnels.update(service_id)
        for edge in self.store.read(lambda reader: dependency_store.dependents_of(reader, service_id)):
            unit = self._units.get(edge.service_id)
            if unit is not None:
                unit.look()

    def service_of_pid(self, pid: int) -> str | None:
        """The name of the service that a process belongs to: its shim is above it. Blocks."""
        shims = {unit.process.shim_pid: unit for unit in list(self._units.values()) if unit.process is not None}
        while pid > 1:
            unit = shims.get(pid)
            if unit is not None:
                return unit.row.name
            pid = parent_of(pid)
        return None

    async def environment(
        self, stored: StoredService, run_id: str, port: int | None, tunnels: dict[str, int]
    ) -> dict[str, str]:
        """Everything that a run has in its environment."""
        return as_environment(await resolve(stored, port=port, tunnels=tunnels, run_id=run_id))

    # What is asked

    async def start_service(
        self, caller: Caller, command: StartService, timed_out: Callable[[], bool]
    ) -> ServiceStarted:
        """Bring a service up, and what it depends on.

        Raises:
            NexusError: as the declaration of StartService lists; the start itself goes on where a policy says so.
        """
        return await self._bring_up(
            command, timed_out, lambda unit: unit.start(caller, command.environment, wait=command.wait)
        )

    async def restart_service(
        self, caller: Caller, command: RestartService, timed_out: Callable[[], bool]
    ) -> ServiceStarted:
        """End a service's run, and bring it up as it was started or with a new environment; raises as a start."""
        return await self._bring_up(
            command, timed_out, lambda unit: unit.restart(caller, command.environment, wait=command.wait)
        )

    async def _bring_up(
        self,
        command: StartService | RestartService,
        timed_out: Callable[[], bool],
        bring: Callable[[Unit], Awaitable[None]],
    ) -> ServiceStarted:
        service = self._resolve(command.service)
        launch.refuse_without_command(service)
        before = self._started_at(service.id)
        unit = self.unit(service.id)
        with _in_time(timed_out, command.timeout_ms, service.name, unit):
            await bring(unit)
        return self._started(service.id, before)

    def _started_at(self, service_id: str) -> dict[str, int | None]:
        """When the service and all that it needs were last started, in the order of a start."""

        def read(reader: Reader) -> dict[str, int | None]:
            edges: dict[str, list[str]] = {}
            pending = [service_id]
            while pending:
                node = pending.pop()
                if node not in edges:
                    edges[node] = [edge.dependency_id for edge in dependency_store.dependencies_of(reader, node)]
                    pending += edges[node]
            layers = graph.start_layers(edges, [service_id])
            return {node: store.resolve(reader, node).started_at for layer in layers for node in layer}

        return self.store.read(read, snapshot=True)

    def _started(self, service_id: str, before: dict[str, int | None]) -> ServiceStarted:
        after = self._started_at(service_id)
        new = [node for node in after if after[node] is not None and after[node] != before.get(node)]
        order = {node: number for number, node in enumerate(after)}
        new.sort(key=lambda node: (after[node] or 0, order[node]))
        names = [self._resolve(node).name for node in new]
        return ServiceStarted(service=self._resolve(service_id), started=names)

    async def stop_service(
        self, caller: Caller, command: StopService, timed_out: Callable[[], bool]
    ) -> ServicesStopped:
        """Stop a service, with ``cascade`` after all that need it.

        Raises:
            ServiceNeeded: others that are up need it.
            StoreError: it has ended, and that cannot be written down.
        """
        service = self._resolve(command.service)
        needing = self._needing(service.id) if self._is_up(service.id) else {}
        # Those that are about to rest by another's wish need no cascade: they are only waited for.
        asked = [node for node in needing if node != service.id and self._is_up(node)]
        if asked and not command.cascade:
            raise self._needed(service, asked)
        asked.append(service.id)
        wish = StopWish(caller, "stopped on demand", on_demand=True)
        stopped: list[str] = []
        tasks: dict[str, asyncio.Task[None]] = {}

        async def stop(node: str, after: list[str]) -> None:
            await asyncio.gather(*(tasks[each] for each in after))
            name = self._resolve(node).name
            if node not in asked:
                await self.unit(node).stop(wish._replace(on_demand=False))
            elif await self.unit(node).stop(wish):
                stopped.append(name)

        # Those that nothing needs come first, so that each finds the tasks that it waits for.
        nodes = needing or {service.id: []}
        with _in_time(timed_out, command.timeout_ms, service.name):
            for layer in graph.start_layers(nodes, nodes):
                for node in layer:
                    tasks[node] = self._spawn(stop(node, nodes[node]))
            await asyncio.wait(set(tasks.values()))
        for task in tasks.values():
            task.result()
        return ServicesStopped(service=self._resolve(service.id), stopped=stopped)

    def _needing(self, service_id: str) -> dict[str, list[str]]:
        """The service and all that need it and are not at rest, each with those that need it directly."""

        def read(reader: Reader) -> dict[str, list[str]]:
            found: dict[str, list[str]] = {}
            pending = [service_id]
            while pending:
                node = pending.pop()
                if node not in found:
                    edges = dependency_store.dependents_of(reader, node)
                    found[node] = [edge.service_id for edge in edges if self._needs(reader, edge)]
                    pending += found[node]
            return found

        return self.store.read(read, snapshot=True)

    def _needs(self, reader: Reader, edge: StoredDependency) -> bool:
        unit = self._units.get(edge.service_id)
        if unit is None or not unit.alive:
            return False
        if edge.condition is not DependencyCondition.COMPLETED:
            return True
        return store.resolve(reader, edge.service_id).state is not ServiceState.RUNNING

    def _is_up(self, service_id: str) -> bool:
        unit = self._units.get(service_id)
        return unit is not None and unit.alive and not unit.leaving

    def _needed(self, service: Service, nodes: list[str]) -> ServiceNeeded:
        names = sorted(self._resolve(node).name for node in nodes)
        quoted = ", ".join(f'"{name}"' for name in names)
        return ServiceNeeded(
            f'cannot stop service "{service.name}": {quoted} need{"s" if len(names) == 1 else ""} it',
            hint=f"Stop them too: nexusctl service stop {service.name} --cascade",
            details={"id": service.id, "name": service.name, "dependents": names},
        )

    async def remove_service(self, caller: Caller, command: RemoveService) -> Service:
        """Remove a service and its kept output; gives what it was.

        The row goes first: what a daemon that is killed then leaves behind, the next one deletes.

        Raises:
            ServiceRunning: it is up, and was not to be stopped.
            ServiceNeeded: others depend on it.
        """
        service = self._resolve(command.service)
        if command.stop and not self.store.read(lambda reader: dependency_store.dependents_of(reader, service.id)):
            await self.unit(service.id).stop(StopWish(caller, "stopped to be removed", on_demand=True))
        edges = self.store.read(lambda reader: dependency_store.dependencies_of(reader, service.id))

        def change(tx: Transaction) -> Service:
            removed = store.delete(tx, service.id)
            journal.record(tx, caller, "service.removed", "service", removed.id, removed.name, {})
            return removed

        removed = await self.store.write(change)
        self._units.pop(service.id, None)
        for ended in self._followers.pop(service.id, ()):
            ended.set()
        await self.tunnels.remove([edge.id for edge in edges])
        try:
            await self.runtime.remove(owner_of_service(service.id))
        except (RuntimeFailure, OSError) as error:
            _log.warning("the output of service %s was not deleted: %s", service.name, error)
        return removed

    async def status(self, service_id: str) -> ServiceStatus:
        """A service with its neighbours, and what its processes use."""
        unit = self._units.get(service_id)
        process = None if unit is None else unit.process
        used = None if process is None else await asyncio.to_thread(process.usage)

        def read(reader: Reader) -> ServiceStatus:
            return ServiceStatus(
                service=store.resolve(reader, service_id),
                dependencies=dependency_store.listed(reader, service_id=service_id),
                dependents=dependency_store.listed(reader, dependency_id=service_id),
                memory_rss_bytes=None if used is None else used.rss_bytes,
                cpu_time_ms=None if used is None else used.cpu_ms,
                process_count=None if used is None else used.processes,
            )

        return self.store.read(read, snapshot=True)

    def updated(self, service_id: str) -> None:
        """A record was changed: what holds at once is taken over."""
        unit = self._units.get(service_id)
        if unit is not None:
            unit.reconfigure()
        gone = self.tunnels.gone(service_id)
        if gone:
            self._spawn(self.tunnels.remove(gone))
        self.changed(service_id)

    async def output(
        self, service_id: str, command: GetServiceStdout, until: asyncio.Event | None = None
    ) -> AsyncIterator[LogPiece]:
        """What a service wrote; with ``follow`` until ``until`` is set or the service is removed."""
        ended = until or asyncio.Event()
        self._followers.setdefault(service_id, set()).add(ended)
        log = self.runtime.log(owner_of_service(service_id))
        stream = None if command.stream is None else _STREAMS[command.stream]
        pieces = log.pieces(
            lines=command.lines, since=command.since_at, stream=stream, follow=command.follow, until=ended
        )
        try:
            async with contextlib.aclosing(cast("AsyncGenerator[Any]", pieces)):
                async for piece in pieces:
                    yield LogPiece(at=piece.at, stream=_STREAM_NAMES[piece.stream], data=piece.data)
        finally:
            followers = self._followers.get(service_id, set())
            followers.discard(ended)
            if not followers:
                self._followers.pop(service_id, None)

    def _resolve(self, reference: str) -> Service:
        return self.store.read(lambda reader: store.resolve(reader, reference))


class _in_time(contextlib.AbstractContextManager[None]):  # noqa: N801
    """Replace the cancellation of a request by DeadlineExceeded if its deadline caused it, and say what goes on.

    ``timed_out`` tells whether the deadline caused it. The work goes on, but a start of ``unit`` that still waits for
    the end of a stop is given up.
    """

    def __init__(
        self, timed_out: Callable[[], bool], timeout_ms: int | None, name: str, unit: Unit | None = None
    ) -> None:
        self._timed_out = timed_out
        self._timeout_ms = timeout_ms
        self._name = name
        self._unit = unit

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: object) -> None:
        if kind is asyncio.CancelledError and self._timed_out():
            goes_on = self._unit is None or not self._unit.resting
            what = "It goes on all the same" if goes_on else "It is still being stopped, and was not started"
            raise DeadlineExceeded(
                f'cannot finish with service "{self._name}" within {self._timeout_ms} ms',
                hint=f"{what}; see how far it is: nexusctl service status {self._name}",
                details={"name": self._name, "goes_on": goes_on},
            ) from None


def _owners(directory: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return sorted(path.name for path in directory.iterdir() if path.name.startswith((_SERVICE_OWNER, TUNNEL_OWNER)))
    return []


def _runs(folder: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [path.name for path in folder.iterdir() if path.name != "log"]
    return []


def _boot_id() -> str:
    """What tells this start of the machine from others, or of the container: there the kernel goes on as it was, and
    all processes end with the first one."""
    first = process_start(1)
    return boot_id() if first is None else f"{boot_id()}/{first}"


def _boot_at() -> int:
    """When that was, in ms of the clock as it goes now; a few seconds early, for clocks are set."""
    with open("/proc/stat", encoding="ascii") as file:
        for line in file:
            if line.startswith("btime "):
                after_s = (process_start(1) or 0) // os.sysconf("SC_CLK_TCK")
                return (int(line.split()[1]) + after_s - 5) * 1000
    return 0


def make_manager(context: ManagerContext) -> ServiceManager:
    """The manager of this capability."""
    return ServiceManager(context)
