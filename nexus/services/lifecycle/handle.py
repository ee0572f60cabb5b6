"""One service as the manager and its dependents see it: start, restart, stop, and its present supervision."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from nexus.capability import ManagerContext
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.runtime import Process
from nexus.services.dependencies.announcer import Change
from nexus.services.errors import ServiceRunning, ServiceUnknown
from nexus.services.lifecycle.context import ServiceContext, Services
from nexus.services.lifecycle.driver import ServiceDriver
from nexus.services.lifecycle.failures import is_ready, stopped_meanwhile
from nexus.services.states import ServiceReason, ServiceState
from nexus.services.store import StoredService
from nexus.supervision.adoption import Found
from nexus.supervision.requests import Reason, RestartRequest, StartOptions, StopRequest
from nexus.supervision.supervisor import Supervisor

__all__ = ["ServiceHandle"]

_RESTART = Reason(ServiceReason.REQUESTED, "restarted on demand")


class _Supervision(NamedTuple):
    """A supervision of the service: the shared part, and its own."""

    supervisor: Supervisor
    driver: ServiceDriver

    @property
    def has_run(self) -> bool:
        """Whether there is a process, or is about to be."""
        return self.driver.launching or self.supervisor.has_run


class ServiceHandle:
    """One service. Any number of clients may start, restart and stop it at the same time."""

    def __init__(self, manager: ManagerContext, services: Services, service_id: str) -> None:
        self.id = service_id
        self._context = ServiceContext(manager, services, service_id)
        self._supervision: _Supervision | None = None
        """While the service is starting, up or stopping."""
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
        return self._supervision is not None

    @property
    def stopping(self) -> bool:
        """Whether it is on its way to stopped or failed."""
        return self._supervision is not None and self._supervision.driver.stopping

    @property
    def stop_requested(self) -> bool:
        """Whether a client, or the loss of a dependency, is stopping it."""
        return self._supervision is not None and self._context.requests.stop is not None

    @property
    def blocked(self) -> str | None:
        """Why it waits for a dependency that nothing brings up; None while it does not."""
        return None if self._supervision is None else self._context.tracker.blocked

    @property
    def process(self) -> Process | None:
        """Its process, if it has one."""
        run = None if self._supervision is None else self._supervision.supervisor.run
        return run.process if run is not None and isinstance(run.process, Process) else None

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
        if self._supervision is not None and self._supervision.has_run:
            self._refuse_other_environment(self._supervision.driver, options.environment)
        else:
            self._bring_up(options)
        await self._outcome(wait)

    async def restart(self, options: StartOptions, *, wait: bool) -> None:
        """End its run, if there is one, and start it; waits and raises as ``start``.

        Without an environment it keeps the one of its last start.
        """
        await self._wait_for_stop()
        self._refuse_unknown()
        supervision = self._supervision
        if supervision is None:
            if options.environment is None:
                options = StartOptions(options.operation, self._context.state.read().start_environment)
            self._bring_up(options)
        elif supervision.has_run:
            self._context.requests.restart = RestartRequest(options.operation, _RESTART, options=options)
            self._context.requests.wake()
        else:
            self._bring_up(options)
        await self._outcome(wait)

    def ensure(self, operation: Operation) -> bool:
        """Start it for a dependent, without waiting; False while it is stopping: call again once it has stopped."""
        if self.stopping:
            return False
        if self._supervision is None or not self._supervision.has_run:
            self._bring_up(StartOptions(operation))
        return True

    async def stop(self, request: StopRequest) -> bool:
        """Stop it; returns when every process of it has ended, with whether there was anything to stop.

        Raises:
            StoreError: it has ended, and that cannot be written at present; or the request is strict, and was refused.
        """
        self._stops += 1
        if self._supervision is None:
            await self._context.state.write_stop(request)
            return False
        self._context.waiters.fail(stopped_meanwhile(self._context))
        await self._supervision.supervisor.stop(request)
        return True

    def notice(self, changes: Sequence[Change]) -> bool:
        """Take note of changes of a dependency; whether it was woken to act on them."""
        if self._supervision is None or not self._context.tracker.notice(changes):
            return False
        self._context.requests.wake()
        return True

    def reconfigure(self) -> None:
        """Take over a changed record: the health check and the dependencies hold at once."""
        self._context.state.refresh()
        self._context.tracker.refresh()
        if self._supervision is not None:
            self._supervision.driver.reconfigure()
            self._context.requests.wake()

    def _bring_up(self, options: StartOptions) -> None:
        """Begin a supervision, or let one that waits for its next run begin it now."""
        supervision = self._supervision
        if supervision is None:
            supervision = self._supervise(ServiceDriver(self._context, options.operation))
            supervision.supervisor.begin()
        supervision.driver.begin(options)

    def _refuse_other_environment(self, driver: ServiceDriver, environment: dict[str, str] | None) -> None:
        if environment is None or environment == driver.wanted_environment:
            return
        raise ServiceRunning(
            f'cannot start service "{self.name}" with this environment: it is up with another one',
            hint="Restart it with this one: "
            + command_line("nexusctl", "service", "restart", self._context.state.reference, "--env", "NAME=VALUE"),
            details={"id": self.id, "name": self.name},
        )

    def _refuse_unknown(self) -> None:
        """Refuse a start while the run cannot be looked at: it may be alive."""
        unknown = None if self._supervision is None else self._supervision.supervisor.unknown
        if unknown is not None:
            raise ServiceUnknown(
                f'cannot start service "{self.name}": its present run cannot be looked at: {unknown}',
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
        context = self._context
        context.state.refresh()  # a write that other requests see already may not have been handed to this task yet
        service = context.state.record
        no_request = self._supervision is not None and not context.requests.pending
        is_up = no_request and service is not None and service.state is ServiceState.RUNNING
        if is_up and service is not None and (not wait or is_ready(service)):
            return
        await context.waiters.outcome(ready=wait)

    # Its supervision

    def resume(self, stored: StoredService, found: Found, *, rebooted: bool) -> asyncio.Event:
        """Go on with what an earlier daemon began; the event is set once that has been handled."""
        state, was_unknown = self._context.state, stored.service.unknown_since is not None
        state.record = stored.service
        supervision = self._supervise(ServiceDriver(self._context, state.operation, stored, rebooted=rebooted))
        return supervision.supervisor.resume(found, run_id=stored.run_id, was_unknown=was_unknown)

    def _supervise(self, driver: ServiceDriver) -> _Supervision:
        self._supervision = _Supervision(Supervisor(self._context, driver, self._ended), driver)
        return self._supervision

    def _ended(self) -> None:
        self._supervision = None
        self._context.waiters.fail(stopped_meanwhile(self._context))
        self._context.changed()

    async def close(self) -> None:
        """Release it as the daemon ends: nothing is written or ended any more."""
        supervision = self._supervision  # which may end while it is closed
        if supervision is not None:
            await supervision.supervisor.close()
            await supervision.driver.close()
