"""What is watched of a run of a service: its start window, then its process, its health and its dependencies."""

from __future__ import annotations

import asyncio
from typing import Any, NoReturn

from nexus.runtime import Process
from nexus.services.health.check import HealthCheck
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.failures import is_ready
from nexus.services.reasons import reason_columns
from nexus.services.states import ServiceHealth, ServiceReason, ServiceState, ServiceType
from nexus.supervision.requests import Reason, RestartRequest, StopRequest
from nexus.supervision.run import Run

__all__ = ["ServiceRun"]


class ServiceRun:
    """A run with a process. It waits, watches and writes; the driver decides what follows its end."""

    def __init__(self, context: ServiceContext, run: Run, *, came_up: bool) -> None:
        self.came_up = came_up
        """Whether it has outlived its start window."""
        self._context = context
        self._run = run
        self._health: HealthCheck | None = None
        self._early: tuple[ServiceHealth, str | None] | None = None
        """What the health check found within the start window; it is written once the service is running."""
        self._window: asyncio.TimerHandle | None = None
        """Ends the waits for the start of a oneshot."""

    async def settle(self, restarted: Reason | None) -> None:
        """Wait until the start window has passed or a health check succeeds, then write running.

        A oneshot is running at once, but its start has succeeded only when the window has passed. ``restarted`` is the
        reason to write: why the policy began this run. Raises as ``Run.check``.
        """
        if self.came_up:
            return
        state, requests, process = self._context.state, self._context.requests, self._run.process
        service = state.record
        assert service is not None
        columns: dict[str, Any] = {"pid": process.pid, "started_at": process.started_at}
        oneshot = service.type is ServiceType.ONESHOT
        if service.start_window_ms and not oneshot:
            if service.pid != process.pid:
                await state.write(ServiceState.STARTING, requests=requests, **columns)
            self._start_health()
            while (left_s := (service.start_window_ms - self._run.up_ms) / 1000) > 0 and not self._is_healthy_early():
                self._run.check()
                await requests.wait(left_s)
            self._run.check()
        detail = {"pid": process.pid} | ({} if service.active_port is None else {"port": service.active_port})
        columns |= reason_columns(restarted)
        service = await state.write(ServiceState.RUNNING, ("service.started", detail), requests=requests, **columns)
        self.came_up = True
        if self._early is not None:
            await self._on_health(*self._early)
        left_s = (service.start_window_ms - self._run.up_ms) / 1000
        if oneshot and left_s > 0:
            self._window = asyncio.get_running_loop().call_later(left_s, self._succeed_if_running)
        else:
            self._succeed()

    def _is_healthy_early(self) -> bool:
        return self._early is not None and self._early[0] is ServiceHealth.HEALTHY

    def _succeed(self) -> None:
        """End the waits for the start, and those for readiness if the service is ready."""
        service = self._context.state.record
        if service is not None and not self._context.requests.pending:
            self._context.waiters.succeed(ready=is_ready(service))

    def _succeed_if_running(self) -> None:
        """The window of a oneshot has passed; the end of one that has exited decides about its start."""
        if self._run.process.exit is None:
            self._succeed()

    def _start_health(self) -> None:
        if self._health is not None:
            return  # a request that was refused, or an error, has ended the wait for the start window
        service = self._context.state.read().service
        process = self._run.process
        assert isinstance(process, Process), "services run on this machine"
        self._health = HealthCheck(self._context.manager.runtime, service, process, self._on_health)
        self._health.start()

    async def watch(self) -> NoReturn:
        """Watch the process, its health and its dependencies; ends only by raising as ``Run.check``."""
        if self._health is None:
            if self._context.state.read().service.health is not ServiceHealth.UNKNOWN:
                # An earlier daemon checked it; this one has not yet.
                await self._context.state.write_health(ServiceHealth.UNKNOWN, None)
            self._start_health()
        while True:
            self._run.check()
            if self._context.tracker.due:
                await self._look_at_dependencies()
                self._run.check()
            await self._context.requests.wait()

    async def _look_at_dependencies(self) -> None:
        """Write what was lost and what is back, and request what the dependency declares for its loss."""
        context, requests = self._context, self._context.requests
        service = context.state.record or context.state.read().service
        observed = context.tracker.look(service)
        if not observed.events and observed.lost == service.lost_dependencies:
            return
        led = None if observed.cause is None else context.manager.cause(observed.cause, observed.led_by)
        await context.state.write(
            ServiceState.RUNNING,
            *observed.events,
            operation=led,
            requests=requests,
            lost_dependencies=observed.lost,
            **reason_columns(observed.reason),
        )
        if observed.stop is not None:
            requests.stop = requests.stop or StopRequest(context.state.operation, observed.stop, on_demand=False)
        elif observed.restart is not None:
            requests.restart = requests.restart or RestartRequest(context.state.operation, observed.restart)

    async def _on_health(self, health: ServiceHealth, message: str | None) -> None:
        """Write a result of the health check that differs from the one before, and act on it."""
        context, requests = self._context, self._context.requests
        if not self.came_up:
            self._early = (health, message)
            requests.wake()
            return
        service = await context.state.write_health(health, message)
        if requests.pending:
            return
        if health is ServiceHealth.HEALTHY:
            context.waiters.succeed(ready=True)
        elif health is ServiceHealth.UNHEALTHY and service.restart_unhealthy:
            text = f"unhealthy: {message}" if message else "unhealthy"
            reason = Reason(ServiceReason.UNHEALTHY, text)
            requests.restart = RestartRequest(context.state.operation, reason, counts=True)
            requests.wake()

    def reconfigure(self) -> None:
        """Take over a changed record: a changed health check replaces the present one."""
        service = self._context.state.read().service
        if self._health is not None and self._health.differs(service):
            self._health.replace(service)

    async def end(self) -> None:
        """End the health check and the wait for the start window; the process is not touched."""
        if self._window is not None:
            self._window.cancel()
        if self._health is not None:
            health, self._health = self._health, None
            await health.end()
