"""Keeps the records of services and their processes in agreement: starts, stops, removes, adopts, reads output.

It knows the process runtime and the store; it knows no socket, and the wire only as records.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from typing import cast

from nexus_protocol import DeadlineExceeded, NexusError

from nexus import graph
from nexus.attaching import Run
from nexus.capability import Context, ManagerContext
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.records.processes import LogPiece
from nexus.records.scope import reference_of
from nexus.runtime import CursorGone, RuntimeFailure
from nexus.runtime.tree import parent_of
from nexus.services import store
from nexus.services.adoption import adopt_services
from nexus.services.commands import GetServiceStdout, RemoveService, RestartService, StartService, StopService
from nexus.services.configuration.command import refuse_without_command
from nexus.services.configuration.environment import as_environment, resolve
from nexus.services.dependencies import store as dependency_store
from nexus.services.dependencies.announcer import Announcer
from nexus.services.dependencies.conditions import completed
from nexus.services.dependencies.store import StoredDependency
from nexus.services.dependencies.tunnels import TUNNEL_OWNER, Tunnels
from nexus.services.errors import ServiceCursorInvalid, ServiceNeeded, ServiceNotFound
from nexus.services.lifecycle.context import SERVICE_OWNER, owner_of_service
from nexus.services.lifecycle.handle import ServiceHandle
from nexus.services.lifecycle.progress import describe_progress
from nexus.services.one_off import OneOffs
from nexus.services.records import Service, ServicesStopped, ServiceStarted, ServiceStatus
from nexus.services.states import DependencyCondition, ServiceReason, ServiceState, ServiceType
from nexus.services.store import StoredService
from nexus.store import Reader, Transaction
from nexus.supervision.output import Followers, read_output
from nexus.supervision.requests import Reason, StartOptions, StopRequest
from nexus.supervision.sweeper import Known
from nexus.tasks import BackgroundTasks, cancel_and_wait, uninterrupted

__all__ = ["ServiceManager", "make_manager"]

_log = logging.getLogger("nexus.services")

_STARTS_AT_ONCE = 8
_STOP = Reason(ServiceReason.REQUESTED, "stopped on demand")
_REMOVAL = Reason(ServiceReason.REQUESTED, "stopped to be removed")


class ServiceManager:
    """The services of one daemon: the one handle of each, and the commands that act on several."""

    def __init__(self, context: ManagerContext) -> None:
        self.tunnels = Tunnels(context)
        self.launches = asyncio.Semaphore(_STARTS_AT_ONCE)
        self._context = context
        self._store = context.store
        self._handles: dict[str, ServiceHandle] = {}
        self._tasks = BackgroundTasks("services", _log, (NexusError,))
        self._announcer = Announcer(context, self._handles.get, self._tasks.spawn)
        self._followers = Followers()
        context.environments.register("service", OneOffs(context, self.tunnels))
        context.sweeper.register(SERVICE_OWNER, self._known_service)
        context.sweeper.register(TUNNEL_OWNER, self._known_tunnel)
        context.leases.register_carrier(self)
        context.ports.avoid_declared(
            lambda reader, owner: store.declared_ports(reader, owner.id if owner.kind == "service" else None)
        )

    # The daemon's start and end

    async def start(self) -> None:
        """Adopt what runs, write the ends of what does not, and start what autostart declares once all is adopted."""
        rows = self._store.read(store.all_stored, snapshot=True)
        await adopt_services(self._context, self.tunnels, rows, self.handle)
        self._tasks.spawn(self.tunnels.remove_deleted())
        for stored in rows:
            if stored.service.autostart and self._is_due(stored):
                self._tasks.spawn(self._autostart(stored.service))

    def _is_due(self, stored: StoredService) -> bool:
        """Whether autostart starts it: unless it is up, stopped on demand in this boot, or a completed oneshot."""
        service = stored.service
        if stored.stopped_in_boot == self._context.boot.id or self.handle(service.id).alive:
            return False
        return not (service.type is ServiceType.ONESHOT and completed(stored, self._context.boot))

    async def _autostart(self, service: Service) -> None:
        await self._context.boot.reconciled()
        try:
            await self.handle(service.id).start(StartOptions(self._context.cause("autostart")), wait=False)
        except NexusError as error:
            _log.warning("autostart: %s", error.message)

    def _known_service(self, service_id: str) -> Known:
        def read(reader: Reader) -> Known:
            found = store.by_id(reader, service_id)
            if found is None or found.id != service_id:
                return Known(False)
            return Known(True, store.stored(reader, service_id).run_id)

        return self._store.read(read, snapshot=True)

    def _known_tunnel(self, dependency: str) -> Known:
        return Known(*self._store.read(lambda reader: dependency_store.tunnel_run(reader, dependency)))

    async def close(self) -> None:
        """Stop watching every process; they keep running."""
        await cancel_and_wait(*self._tasks)
        await asyncio.gather(*(handle.close() for handle in self._handles.values()))
        await cancel_and_wait(*self._tasks)  # what a last result of a health check began
        await self.tunnels.shut()

    def children(self) -> int:
        """How many services are starting, up or stopping, and tunnels; with any the daemon is not idle."""
        return sum(handle.alive for handle in self._handles.values()) + len(self.tunnels)

    # For the supervisions (lifecycle.context.Services)

    def handle(self, service_id: str) -> ServiceHandle:
        """The handle of a service."""
        handle = self._handles.get(service_id)
        if handle is None:
            handle = self._handles[service_id] = ServiceHandle(self._context, self, service_id)
        return handle

    def changed(self, service_id: str) -> None:
        """A service's record was changed: its dependents are told, and its tunnels follow it."""
        self.tunnels.update(service_id)
        self._announcer.changed(service_id)

    def run_of(self, service_id: str) -> Run | None:
        """The present run of a service; None while it has no process."""
        handle = self._handles.get(service_id)
        process = None if handle is None else handle.process
        return None if process is None else Run(self._context.runtime, process.owner, process.run_id)

    def service_of_pid(self, pid: int) -> str | None:
        """The service that a process belongs to, as hints name it: its shim is an ancestor. Blocks."""
        shims = {
            handle.process.shim_pid: handle for handle in list(self._handles.values()) if handle.process is not None
        }
        while pid > 1:
            handle = shims.get(pid)
            if handle is not None:
                return handle.reference
            pid = parent_of(pid)
        return None

    async def environment(
        self, stored: StoredService, run_id: str, port: int | None, tunnels: dict[str, int]
    ) -> dict[str, str]:
        """The whole environment of a run."""
        return as_environment(await resolve(stored, port=port, tunnels=tunnels, run_id=run_id))

    # Commands

    async def start_service(self, ctx: Context, command: StartService) -> ServiceStarted:
        """Start a service and its dependencies.

        Raises:
            NexusError: as the declaration of StartService lists; the start itself goes on where a policy says so.
        """
        options = StartOptions(ctx.operation, command.environment)
        return await self._bring_up(ctx, command, lambda handle: handle.start(options, wait=command.wait))

    async def restart_service(self, ctx: Context, command: RestartService) -> ServiceStarted:
        """End a service's run, and start it with the environment of its last start or a new one; raises as a start."""
        options = StartOptions(ctx.operation, command.environment)
        return await self._bring_up(ctx, command, lambda handle: handle.restart(options, wait=command.wait))

    async def _bring_up(
        self,
        ctx: Context,
        command: StartService | RestartService,
        bring: Callable[[ServiceHandle], Awaitable[None]],
    ) -> ServiceStarted:
        service = self._resolve(ctx, command.service)
        verb = "start" if isinstance(command, StartService) else "restart"
        store.SERVICES.expect(service, f'cannot {verb} service "{service.name}"', None, command.if_state_revision)
        refuse_without_command(service)
        before = self._started_at(service.id)
        handle = self.handle(service.id)
        with self._deadline(ctx, command.timeout_ms, service, lambda: not handle.stopping):
            await bring(handle)
        return self._started(service.id, before)

    def _started_at(self, service_id: str) -> dict[str, int | None]:
        """When the service and its dependencies were last started, in the order of a start."""

        def read(reader: Reader) -> dict[str, int | None]:
            edges: dict[str, list[str]] = {}
            pending = [service_id]
            while pending:
                node = pending.pop()
                if node not in edges:
                    edges[node] = [edge.dependency_id for edge in dependency_store.dependencies_of(reader, node)]
                    pending += edges[node]
            layers = graph.start_layers(edges, [service_id])
            return {node: store.get(reader, node).started_at for layer in layers for node in layer}

        return self._store.read(read, snapshot=True)

    def _started(self, service_id: str, before: dict[str, int | None]) -> ServiceStarted:
        after = self._started_at(service_id)
        new = [node for node in after if after[node] is not None and after[node] != before.get(node)]
        order = {node: number for number, node in enumerate(after)}
        new.sort(key=lambda node: (after[node] or 0, order[node]))
        names = [self._get(node).name for node in new]
        return ServiceStarted(service=self._get(service_id), started=names)

    async def stop_service(self, ctx: Context, command: StopService) -> ServicesStopped:
        """Stop a service, with ``cascade`` after all that depend on it.

        Raises:
            ServiceNeeded: others that are up depend on it.
            StoreError: it has ended, and that cannot be written.
        """
        service = self._resolve(ctx, command.service)
        store.SERVICES.expect(service, f'cannot stop service "{service.name}"', None, command.if_state_revision)
        needing = self._dependents_up(service.id) if self._is_up(service.id) else {}
        # Dependents that another request is stopping already need no cascade: the stop only waits for them.
        asked = [node for node in needing if node != service.id and self._is_up(node)]
        if asked and not command.cascade:
            raise self._needed(service, asked)
        asked.append(service.id)
        request = StopRequest(ctx.operation, _STOP, on_demand=True)
        stopped: list[str] = []
        tasks: dict[str, asyncio.Task[None]] = {}

        async def stop(node: str, after: list[str]) -> None:
            await asyncio.gather(*(tasks[each] for each in after))
            name = self._get(node).name
            if node not in asked:
                await self.handle(node).stop(request._replace(on_demand=False))
            elif await self.handle(node).stop(request):
                stopped.append(name)

        # Services without dependents come first, so that each task finds those that it waits for.
        nodes = needing or {service.id: []}
        with self._deadline(ctx, command.timeout_ms, service, lambda: True):
            for layer in graph.start_layers(nodes, nodes):
                for node in layer:
                    tasks[node] = self._tasks.spawn(stop(node, nodes[node]))
            await asyncio.wait(set(tasks.values()))
        for task in tasks.values():
            task.result()
        return ServicesStopped(service=self._get(service.id), stopped=stopped)

    def carried(self, reader: Reader) -> set[str]:
        """As ``Carrier``."""
        return store.carried_leases(reader)

    async def lost(self, lease_id: str, reason: str, operation: Operation) -> None:
        """As ``Carrier``: stop the services that were started under a lease, and no others."""
        ids = self._store.read(lambda reader: store.under_lease(reader, lease_id))
        why = Reason(ServiceReason.REQUESTED, f"stopped because {reason}")
        request = StopRequest(operation, why, on_demand=True)
        await asyncio.gather(*(self.handle(id_).stop(request) for id_ in ids))

    @contextlib.contextmanager
    def _deadline(
        self, ctx: Context, timeout_ms: int | None, service: Service, goes_on: Callable[[], bool]
    ) -> Iterator[None]:
        """Turn the cancellation by the request's deadline into an error that says whether the work goes on."""
        try:
            yield
        except asyncio.CancelledError:
            if not ctx.timed_out:
                raise
            going_on = goes_on()
            what = "It continues in the daemon" if going_on else "It is still being stopped, and was not started"
            look = command_line("nexusctl", "service", "status", reference_of(service))
            raise DeadlineExceeded(
                f'cannot finish with service "{service.name}" within {timeout_ms} ms{self._progress(service.id)}',
                hint=f"{what}; see how far it is: {look}",
                details={"name": service.name, "goes_on": going_on},
            ) from None

    def _progress(self, service_id: str) -> str:
        def read(reader: Reader) -> str:
            return f": {describe_progress(reader, service_id, self._context.boot)}"

        with contextlib.suppress(ServiceNotFound):  # it was removed meanwhile
            return self._store.read(read, snapshot=True)
        return ""

    def _dependents_up(self, service_id: str) -> dict[str, list[str]]:
        """The service and all dependents that are not stopped, each with its direct dependents."""

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

        return self._store.read(read, snapshot=True)

    def _needs(self, reader: Reader, edge: StoredDependency) -> bool:
        handle = self._handles.get(edge.service_id)
        if handle is None or not handle.alive:
            return False
        if edge.condition is not DependencyCondition.COMPLETED:
            return True
        return store.get(reader, edge.service_id).state is not ServiceState.RUNNING

    def _is_up(self, service_id: str) -> bool:
        handle = self._handles.get(service_id)
        return handle is not None and handle.alive and not handle.stop_requested

    def _needed(self, service: Service, nodes: list[str]) -> ServiceNeeded:
        names = sorted(self._get(node).name for node in nodes)
        quoted = ", ".join(f'"{name}"' for name in names)
        return ServiceNeeded(
            f'cannot stop service "{service.name}": {quoted} need{"s" if len(names) == 1 else ""} it',
            hint=f"Stop them too: {command_line('nexusctl', 'service', 'stop', reference_of(service), '--cascade')}",
            details={"id": service.id, "name": service.name, "dependents": names},
        )

    async def remove_service(self, ctx: Context, command: RemoveService) -> Service:
        """Remove a service and its kept output; gives what it was.

        The record goes first: what a daemon that is killed then leaves behind, the next one's sweep deletes.

        Raises:
            ServiceRunning: it is up, and was not to be stopped.
            ServiceNeeded: others depend on it.
        """
        service = self._resolve(ctx, command.service)
        cannot = f'cannot remove service "{service.name}"'
        store.SERVICES.expect(service, cannot, command.if_revision, command.if_state_revision)
        if command.stop and not self._store.read(lambda reader: dependency_store.dependents_of(reader, service.id)):
            await self.handle(service.id).stop(StopRequest(ctx.operation, _REMOVAL, on_demand=True, strict=True))
        # A stop changes the state that was expected.
        state_revision = None if command.stop else command.if_state_revision
        # Once the record is deleted the request has succeeded, and its files are deleted even if it is cancelled.
        return await uninterrupted(self._remove(ctx, service, command.if_revision, state_revision))

    async def _remove(
        self, ctx: Context, service: Service, revision: int | None, state_revision: int | None
    ) -> Service:
        edges = self._store.read(lambda reader: dependency_store.dependencies_of(reader, service.id))

        def change(tx: Transaction) -> Service:
            return store.delete(tx, ctx.operation, service.id, revision, state_revision)

        removed = await self._store.write(change)
        await self._forget(service.id, [edge.id for edge in edges])
        return removed

    async def _forget(self, service_id: str, edges: list[int]) -> None:
        """Drop what belonged to a deleted service and its dependencies, its kept output too."""
        self._handles.pop(service_id, None)
        self._followers.end(service_id)
        await self.tunnels.remove(edges)
        try:
            await self._context.runtime.remove(owner_of_service(service_id))
        except (RuntimeFailure, OSError) as error:
            _log.warning("the output of service %s was not deleted: %s", service_id, error)

    def deleted(self, ids: list[str]) -> None:
        """Drop what belonged to services that were deleted with their project."""

        async def forget() -> None:
            for service_id in ids:
                await self._forget(service_id, [])
            await self.tunnels.remove_deleted()

        self._tasks.spawn(forget())

    async def status(self, service_id: str) -> ServiceStatus:
        """A service with its dependencies and dependents, and the resources that its processes use."""
        handle = self._handles.get(service_id)
        process = None if handle is None else handle.process
        used = None
        if process is not None:
            with contextlib.suppress(OSError):  # without descriptors its usage is not known
                used = await asyncio.to_thread(process.usage)

        def read(reader: Reader) -> ServiceStatus:
            return ServiceStatus(
                service=store.get(reader, service_id),
                dependencies=dependency_store.listed(reader, service_id=service_id),
                dependents=dependency_store.listed(reader, dependency_id=service_id),
                memory_rss_bytes=None if used is None else used.rss_bytes,
                cpu_time_ms=None if used is None else used.cpu_ms,
                process_count=None if used is None else used.processes,
            )

        return self._store.read(read, snapshot=True)

    def updated(self, service_id: str) -> None:
        """Apply a changed record: health check, dependencies and tunnels change at once."""
        handle = self._handles.get(service_id)
        if handle is not None:
            handle.reconfigure()
        gone = self.tunnels.gone(service_id)
        if gone:
            self._tasks.spawn(self.tunnels.remove(gone))
        self.changed(service_id)

    async def dependency_removed(self, service_id: str, dependency: int) -> None:
        """End the tunnel of a deleted dependency and delete its files, then apply the changed record."""
        await self.tunnels.remove([dependency])
        self.updated(service_id)

    async def output(
        self, service_id: str, command: GetServiceStdout, until: asyncio.Event | None = None
    ) -> AsyncIterator[LogPiece]:
        """The output of a service; with ``follow`` until ``until`` is set or the service is removed.

        Raises:
            ServiceCursorInvalid: the cursor is no place of the output that is kept.
        """
        log = self._context.runtime.log(owner_of_service(service_id))
        with self._followers.follow(service_id, until) as ended:
            try:
                pieces = read_output(log, command, ended)
                async with contextlib.aclosing(cast("AsyncGenerator[LogPiece]", pieces)):
                    async for piece in pieces:
                        yield piece
            except CursorGone:
                raise ServiceCursorInvalid(
                    f'cannot continue the output of service "{command.service}": the output that the cursor belongs to '
                    "was deleted",
                    hint="Ask for the output without a cursor.",
                    details={"service": command.service},
                ) from None

    def _resolve(self, ctx: Context, reference: str) -> Service:
        return self._store.read(lambda reader: store.resolve(reader, reference, ctx.scope(reader)))

    def _get(self, service_id: str) -> Service:
        return self._store.read(lambda reader: store.get(reader, service_id))


def make_manager(context: ManagerContext) -> ServiceManager:
    """The manager of this capability."""
    return ServiceManager(context)
