"""One service as the manager and its dependents see it: start, restart, stop, and the lifecycle while there is one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from nexus.capability import ManagerContext
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.runtime import Process
from nexus.services.dependencies.announcer import Change
from nexus.services.errors import ServiceRunning, ServiceUnknown
from nexus.services.lifecycle.context import ServiceContext, Services
from nexus.services.lifecycle.failures import is_ready, stopped_meanwhile
from nexus.services.lifecycle.lifecycle import Lifecycle
from nexus.services.lifecycle.resume import Found
from nexus.services.states import ServiceReason, ServiceState
from nexus.services.store import StoredService
from nexus.store import StoreError
from nexus.supervision.requests import Reason, RestartRequest, StartOptions, StopRequest
from nexus.tasks import cancel_and_wait

__all__ = ["ServiceHandle"]

_log = logging.getLogger("nexus.services")

_RESTART = Reason(ServiceReason.REQUESTED, "restarted on demand")


class ServiceHandle:
    """One service. Any number of clients may start, restart and stop it at the same time."""

    def __init__(self, manager: ManagerContext, services: Services, service_id: str) -> None:
        self.id = service_id
        self._context = ServiceContext(manager, services, service_id, self._changed, self._troubled)
        self._services = services
        self._lifecycle: Lifecycle | None = None
        """While the service is starting, up or stopping."""
        self._task: asyncio.Task[None] | None = None
        self._stops = 0
        """How many stops were requested."""

    @property
    def name(self) -> str:
        """The name of the service."""
        return self._context.state.name

    @property
    def reference(self) -> str:
        """How hints name it."""
        return self._context.state.reference

    @property
    def alive(self) -> bool:
        """Whether it has a supervision task: it is starting, up or stopping."""
        return self._lifecycle is not None

    @property
    def stopping(self) -> bool:
        """Whether it is on its way to stopped or failed."""
        return self._lifecycle is not None and self._lifecycle.stopping

    @property
    def stop_requested(self) -> bool:
        """Whether a client, or the loss of a dependency, is stopping it."""
        return self._lifecycle is not None and self._context.requests.stop is not None

    @property
    def blocked(self) -> str | None:
        """Why it waits for a dependency that nothing brings up; None while it does not."""
        return None if self._lifecycle is None else self._context.tracker.blocked

    @property
    def process(self) -> Process | None:
        """Its process, if it has one."""
        lifecycle = self._lifecycle
        return None if lifecycle is None or lifecycle.run is None else lifecycle.run.process

    # Requests

    async def start(self, options: StartOptions, *, wait: bool) -> None:
        """Start it, or join a start under way; returns when it is up, or with ``wait`` healthy or completed.

        Attempts that its restart policy retries, and failing health checks, end no wait.
        The start belongs to the service: a client that stops waiting does not end it.

        Raises:
            ServiceStopped: another client stopped it, or the loss of a dependency.
            ServiceRunning: it is up with another environment.
            NexusError: it did not come up, and nothing tries again.
        """
        await self._wait_for_stop()
        self._refuse_unknown()
        if self._lifecycle is not None and self._lifecycle.has_run:
            self._refuse_other_environment(self._lifecycle, options.environment)
        else:
            self._bring_up(options)
        await self._outcome(wait)

    async def restart(self, options: StartOptions, *, wait: bool) -> None:
        """End its run, if there is one, and start it; waits and raises as ``start``.

        Without an environment it keeps the one of its last start.
        """
        await self._wait_for_stop()
        self._refuse_unknown()
        lifecycle = self._lifecycle
        if lifecycle is None:
            if options.environment is None:
                options = StartOptions(options.operation, self._context.state.read().start_environment)
            self._bring_up(options)
        elif lifecycle.has_run:
            self._context.requests.restart = RestartRequest(options.operation, _RESTART, options=options)
            self._context.requests.wake()
        else:
            self._bring_up(options)
        await self._outcome(wait)

    def ensure(self, operation: Operation) -> bool:
        """Start it for a dependent, without waiting; False while it is stopping: call again once it has stopped."""
        if self.stopping:
            return False
        if self._lifecycle is None or not self._lifecycle.has_run:
            self._bring_up(StartOptions(operation))
        return True

    async def stop(self, request: StopRequest) -> bool:
        """Stop it; returns when every process of it has ended, with whether there was anything to stop.

        Raises:
            StoreError: it has ended, and that cannot be written at present; or the request is strict, and was refused.
        """
        self._stops += 1
        lifecycle, requests, state = self._lifecycle, self._context.requests, self._context.state
        if lifecycle is None:
            await state.write_stop(request)
            return False
        if requests.stop is None or request.on_demand:
            requests.stop = request
        self._context.waiters.fail(stopped_meanwhile(self._context))
        requests.wake()
        while self._lifecycle is lifecycle:
            if lifecycle.refused is not None and not requests.pending:
                raise lifecycle.refused
            if state.trouble is not None and not lifecycle.may_live:
                raise _ended_unwritten(self.name, state.trouble)
            await self._context.waiters.changed()
        return True

    def notice(self, changes: Sequence[Change]) -> bool:
        """Take note of changes of a dependency; whether it was woken to act on them."""
        if self._lifecycle is None or not self._context.tracker.notice(changes):
            return False
        self._context.requests.wake()
        return True

    def reconfigure(self) -> None:
        """Take over a changed record: the health check and the dependencies hold at once."""
        self._context.state.refresh()
        self._context.tracker.refresh()
        if self._lifecycle is not None:
            if self._lifecycle.run is not None:
                self._lifecycle.run.reconfigure()
            self._context.requests.wake()

    def _bring_up(self, options: StartOptions) -> None:
        """Begin a lifecycle, or let one that waits for its next run begin it now."""
        lifecycle = self._lifecycle or self._begin(options.operation)
        lifecycle.begin(options)

    def _refuse_other_environment(self, lifecycle: Lifecycle, environment: dict[str, str] | None) -> None:
        if environment is None or environment == lifecycle.wanted_environment:
            return
        raise ServiceRunning(
            f'cannot start service "{self.name}" with this environment: it is up with another one',
            hint="Restart it with this one: "
            + command_line("nexusctl", "service", "restart", self._context.state.reference, "--env", "NAME=VALUE"),
            details={"id": self.id, "name": self.name},
        )

    def _refuse_unknown(self) -> None:
        """Refuse a start while the run cannot be looked at: it may be alive."""
        lifecycle = self._lifecycle
        if lifecycle is not None and lifecycle.unknown is not None:
            raise ServiceUnknown(
                f'cannot start service "{self.name}": its present run cannot be looked at: {lifecycle.unknown}',
                hint="The daemon looks again every second; its log has the cause.",
                details={"id": self.id, "name": self.name},
            )

    async def _wait_for_stop(self) -> None:
        """Wait for the end of a stop that is under way.

        Raises:
            ServiceStopped: another stop came meanwhile.
            StoreError: the end cannot be written at present.
        """
        stops, state = self._stops, self._context.state
        while self.stopping:
            if state.trouble is not None:
                raise state.trouble
            await self._context.waiters.changed()
            if self._stops != stops:
                raise stopped_meanwhile(self._context)

    async def _outcome(self, wait: bool) -> None:
        """Wait until it is up, or with ``wait`` ready."""
        context, service = self._context, self._context.state.service
        no_request = self._lifecycle is not None and not context.requests.pending
        is_up = no_request and service is not None and service.state is ServiceState.RUNNING
        if is_up and service is not None and (not wait or is_ready(service)):
            return
        await context.waiters.outcome(ready=wait)

    # Its lifecycle

    def resume(self, stored: StoredService, found: Found, *, rebooted: bool) -> asyncio.Event:
        """Go on with what an earlier daemon began; the event is set once that has been handled."""
        self._context.state.service = stored.service
        lifecycle = self._begin(self._context.state.operation)
        lifecycle.resume(stored, found, rebooted=rebooted)
        return self._context.requests.waited

    def _begin(self, operation: Operation) -> Lifecycle:
        lifecycle = self._lifecycle = Lifecycle(self._context, operation)
        self._task = asyncio.create_task(self._supervise(lifecycle))
        return lifecycle

    async def _supervise(self, lifecycle: Lifecycle) -> None:
        try:
            await lifecycle.supervise()
        except Exception:  # a bug, which must leave no client waiting
            _log.exception("service %s: supervision task failed", self.id)
        self._lifecycle = self._task = None
        self._context.state.trouble = None
        self._context.requests.waited.set()
        self._context.waiters.fail(stopped_meanwhile(self._context))
        self._changed()

    async def close(self) -> None:
        """Release it as the daemon ends: nothing is written or ended any more."""
        await cancel_and_wait(self._task)
        if self._lifecycle is not None and self._lifecycle.run is not None:
            await self._lifecycle.run.close()

    def _changed(self) -> None:
        if self._lifecycle is not None:
            self._context.requests.waited.set()
        self._context.waiters.notify()
        self._services.changed(self.id)

    def _troubled(self, error: StoreError) -> None:
        self._context.waiters.fail(error)
        self._context.waiters.notify()


def _ended_unwritten(name: str, trouble: StoreError) -> StoreError:
    """The error of a stop that was carried out, and whose end cannot be written at present."""
    return type(trouble)(
        f'cannot write that service "{name}" has stopped: {trouble.message}',
        hint="The service has ended. Its record is corrected once the database can be written again.",
        details={"name": name, "stopped": True},
    )
