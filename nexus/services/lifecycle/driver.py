"""What a supervision of a service does beside the shared part: dependencies, its policy, its record and sentences.

docs/architecture.md has the states as a diagram.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from nexus_protocol import NexusError

from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.runtime import Exit, Orphans, Process, Watched
from nexus.runtime.status import now_ms
from nexus.services import store
from nexus.services.errors import ServiceConfigFile, ServiceDependencyFailed, ServiceNoCommand
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.ending import admit, write_leftovers, write_orphans
from nexus.services.lifecycle.failures import early_exit_hint, policy_ended, start_failed
from nexus.services.lifecycle.ports import describe_held
from nexus.services.lifecycle.resume import plan_resumption
from nexus.services.lifecycle.run import ServiceRun
from nexus.services.lifecycle.series import RestartSeries, wants_restart
from nexus.services.lifecycle.start import prepare_run
from nexus.services.reasons import HOST_RESTARTED, exit_reason, reason_columns, stored_reason
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceReason, ServiceState, ServiceType
from nexus.services.store import StoredService
from nexus.store import StoreError
from nexus.supervision.driver import End, Launch, NotStarted, RunEnded, RunStopped, StopLadder
from nexus.supervision.exits import accepts_exit, exit_columns, exit_detail, may_end_with_machine
from nexus.supervision.requests import Reason, Request, StartOptions, StopRequest
from nexus.supervision.run import Run, RunExited

__all__ = ["ServiceDriver"]

_log = logging.getLogger("nexus.services")


def _time_up(service: Service, exit_: Exit, observed_ms: int | None) -> int:
    """How long a run was up, in ms; of one whose exit no daemon observed, only the wall clock tells."""
    return observed_ms if observed_ms is not None else exit_.at - (service.started_at or exit_.at)


class ServiceDriver:
    """One supervision of a service: it may begin several runs, and ends when the service is stopped or failed.

    ``adopted`` is the record that an earlier daemon left, and ``rebooted`` whether that was before a boot.
    """

    def __init__(
        self,
        context: ServiceContext,
        operation: Operation,
        adopted: StoredService | None = None,
        *,
        rebooted: bool = False,
    ) -> None:
        self.launching = False
        """Whether a process is about to exist."""
        self.environment: dict[str, str] = {}
        """What the start gave beside the record's own variables."""
        self._context = context
        self._state = context.state
        self._operation = operation
        """What led to the next run."""
        self._adopted = adopted
        self._run: ServiceRun | None = None
        self._ending = False
        self._forced = False
        """Whether the next run begins even if the restart policy is removed before it."""
        self._came_up = False
        self._series = RestartSeries()
        self._rebooted = rebooted
        self._unwritten_exit: dict[str, Any] = {}
        """The exit of the run that a restart ended, until the next write has it."""
        self._withdrawn: NexusError | None = None
        """The error of a start whose restart policy was removed."""

    @property
    def wanted_environment(self) -> dict[str, str]:
        """The environment of the present start, or of the restart that is requested."""
        restart = self._context.requests.restart
        options = None if restart is None else restart.options
        return self.environment if options is None or options.environment is None else options.environment

    @property
    def stopping(self) -> bool:
        """Whether the service is on its way to stopped or failed."""
        service, requests = self._state.record, self._context.requests
        ending = service is not None and service.state is ServiceState.STOPPING and requests.restart is None
        return self._ending or ending or requests.stop is not None

    # How it begins

    def begin(self, options: StartOptions) -> None:
        """Begin the next run at once, on demand: no backoff, and a new series of restarts."""
        self._operation, self._forced = options.operation, False
        self._series = RestartSeries()
        if options.environment is not None:
            self.environment = options.environment
        self._context.tracker.reset(on_demand=True)
        self._context.requests.wake()

    def resume(self, found: Watched | Exit | Orphans | None) -> RunEnded | None:
        """As ``Driver``."""
        assert found is None or isinstance(found, (Process, Exit, Orphans)), "services run on this machine"
        stored = self._adopted or self._state.read()
        self._adopted = None  # a later look reads it again
        service, requests = stored.service, self._context.requests
        self.environment = stored.start_environment
        self._forced = service.restart is RestartPolicy.NO
        self._series.resume(stored, rebooted=self._rebooted)
        self._context.tracker.resume(stored)
        self._operation = self._state.operation
        plan = plan_resumption(stored, found, self._operation, rebooted=self._rebooted)
        self._came_up = plan.came_up
        # A request may have come while the run was unknown.
        requests.stop = requests.stop or plan.stop
        requests.restart = requests.restart or plan.restart
        if isinstance(found, Orphans):
            self._rebooted = False
        if plan.exit is None:
            return None
        return RunEnded(plan.exit, self._operation if plan.is_written else self._state.cause("process.exited"))

    # Up

    @contextlib.asynccontextmanager
    async def prepare(self, run_id: str) -> AsyncIterator[Launch]:
        """As ``Driver``: wait for the backoff and the dependencies, then make the run."""
        await self._wait_for_backoff()
        await self._wait_for_dependencies()
        self.launching = True
        try:
            made = prepare_run(self._context, run_id, self._operation, self.environment, self._write_run)
            async with made as spec:
                yield Launch(spec)
        finally:
            self.launching = False

    async def _wait_for_backoff(self) -> None:
        """Wait until the policy begins the next run; raises if it was removed meanwhile."""
        while (left_s := self._series.left_s) is not None:
            if left_s > 0:
                await self._context.requests.wait(left_s)
                if self._series.left_s is not None and self._policy_withdrawn():
                    reason = self._withdrawal()
                    self._withdrawn = start_failed(self._context, reason.text, reason.text, None)
                    raise self._withdrawn
                continue
            self._operation = self._state.operation
            self._series.begin_run()

    def _policy_withdrawn(self) -> bool:
        """Whether the restart policy was removed while the next run waited for its time."""
        return not self._forced and self._state.read().service.restart is RestartPolicy.NO

    def _withdrawal(self) -> Reason:
        """The reason of an end because the policy was removed: that of the last run."""
        reason = stored_reason(self._state.read().service)
        return reason or Reason(ServiceReason.START_FAILED, "its restart policy was removed")

    def _attempt_columns(self) -> dict[str, Any]:
        """What every write of an attempt to start sets, so that the first one makes the request durable."""
        return {
            "wanted": True,
            "stopped_in_boot": None,
            "start_environment": self.environment,
            **self._series.columns(),
            **self._unwritten_exit,
        }

    async def _wait_for_dependencies(self) -> None:
        """Start missing dependencies, or wait for them; the record says which."""
        tracker = self._context.tracker
        written: Reason | None = None
        while True:
            self._context.requests.check()
            was_blocked = tracker.blocked
            missing = tracker.missing(self._operation, self._context.waiters.fail)
            if tracker.blocked != was_blocked:
                # No write follows that would tell the dependents.
                self._context.services.changed(self._context.id)
            if missing is None:
                return
            if missing.reason == written:
                await self._context.requests.wait()
                continue
            written = missing.reason
            service = self._state.record
            first = service is None or service.state is not ServiceState.STARTING
            await self._state.write(
                ServiceState.STARTING,
                *([("service.starting", {"reason": written.text})] if first else []),
                operation=self._operation,
                insist=False,
                run_id=None,
                pid=None,
                next_restart_at=None,
                lost_dependencies=missing.lost,
                **reason_columns(written),
                **self._attempt_columns(),
            )

    async def _write_run(self, run_id: str, port: int | None, made_from: StoredService) -> None:
        """Write the durable row that precedes the process, whose configuration is from an earlier reading of it."""
        detail: dict[str, Any] = {} if port is None else {"port": port}
        if self._series.count:
            detail["restarts"] = self._series.count
        await self._state.write(
            ServiceState.STARTING,
            ("service.starting", detail),
            operation=self._operation,
            insist=False,
            made_from=made_from,
            run_id=run_id,
            active_port=port,
            pid=None,
            started_at=None,
            next_restart_at=None,
            lost_dependencies=[],
            **reason_columns(None),
            **self._attempt_columns() | {"exit_code": None, "exit_signal": None},
        )
        self._unwritten_exit = {}
        self._came_up = False

    async def watch(self, run: Run) -> NoReturn:
        """As ``Driver``: its start window, then its process, health and dependencies."""
        if self._run is None:
            self._run = ServiceRun(self._context, run, came_up=self._came_up)
        try:
            await self._run.settle(self._series.restarted)
            await self._run.watch()
        except RunExited:
            self._came_up = self._run.came_up
            await self._end_watch()
            raise

    def reconfigure(self) -> None:
        """Take over a changed record."""
        if self._run is not None:
            self._run.reconfigure()

    async def _end_watch(self) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            await run.end()

    async def close(self) -> None:
        """Stop watching as the daemon ends."""
        await self._end_watch()

    # What follows an end

    async def ending(self, cause: Request | RunEnded | Orphans) -> None:
        """As ``Driver``."""
        if isinstance(cause, RunEnded):
            await write_leftovers(self._context, cause, self._exit_columns(cause.exit))
        elif isinstance(cause, Orphans):
            await write_orphans(self._context)
        else:
            await admit(self._context, cause, self.wanted_environment)
            await self._end_watch()

    def stop_ladder(self) -> StopLadder:
        """As ``Driver``."""
        service = self._state.read().service
        return StopLadder(signal.Signals[service.stop_signal.value], service.stop_grace_ms)

    async def verdict(self, end: End) -> bool:
        """As ``Driver``; False when the service is stopped or failed."""
        await self._end_watch()  # of a run whose watch met an error
        if isinstance(end, NotStarted):
            assert isinstance(end.error, NexusError)
            if end.error is self._withdrawn:
                return await self._after_withdrawal(end.error)
            return await self._after_failed_start(end.error)
        if isinstance(end, RunStopped):
            return await self._after_request(end)
        return await self._after_exit(end)

    async def stop_at_rest(self, request: StopRequest) -> None:
        """As ``Driver``."""
        await self._state.write_stop(request)

    async def give_up(self, failure: NexusError) -> None:
        """As ``Driver``."""
        if self._state.record is None or self._state.record.state not in store.UP:
            return
        reason = Reason(ServiceReason.SUPERVISOR_FAILED, failure.message)
        await self._end(ServiceState.FAILED, reason, (("service.failed", {"reason": reason.text}),), {})

    async def _after_exit(self, end: RunEnded) -> bool:
        """The main process ended by itself: the policy decides whether another run follows."""
        exit_, reason = end.exit, exit_reason(end.exit)
        self._forced = False
        stored = self._state.read()
        service = stored.service
        accepted = accepts_exit(exit_) and self._came_up
        if accepts_exit(exit_) and not accepted:
            reason = reason._replace(text=f"{reason.text} within its start window of {service.start_window_ms} ms")
        columns = self._exit_columns(exit_)
        ended_with_machine = self._rebooted and may_end_with_machine(exit_)
        self._rebooted = False
        if ended_with_machine:
            reason = HOST_RESTARTED
        failed = not accepts_exit(exit_) and not ended_with_machine
        retry = stored.wanted and wants_restart(service.restart, failed=failed)
        up_ms = _time_up(service, exit_, end.up_ms) if self._came_up else 0
        sentence = reason.text if exit_.kind == "lost" else f"it {'was ' * (exit_.kind == 'signal')}{reason.text}"
        if self._came_up and service.type is not ServiceType.ONESHOT:
            sentence += " before it was healthy"
        hint = None if self._came_up else early_exit_hint(service, exit_)
        return await self._end_or_retry(
            start_failed(self._context, sentence, reason.text, exit_, hint),
            reason,
            (("service.exited", {"reason": reason.text} | exit_detail(exit_)),),
            columns,
            end.operation,
            retry=retry,
            accepted=accepted or ended_with_machine or not stored.wanted,
            up_ms=up_ms,
            ended_ms_ago=0 if end.up_ms is not None else now_ms() - exit_.at,
            # Its dependencies ended with the machine as well.
            on_demand=ended_with_machine,
        )

    async def _after_failed_start(self, error: NexusError) -> bool:
        """The process was not started: the policy decides whether another attempt follows."""
        stored = self._state.read()
        if isinstance(error, StoreError) and stored.service.state not in store.UP:
            self._context.waiters.fail(error)  # nothing was written, so nothing has changed
            return False
        # Another attempt would meet the same dependency, the same record and the same files.
        lasting = isinstance(error, (ServiceDependencyFailed, ServiceNoCommand, ServiceConfigFile))
        retry = not lasting and wants_restart(stored.service.restart, failed=True)
        failed_dependency = isinstance(error, ServiceDependencyFailed)
        code = ServiceReason.DEPENDENCY_FAILED if failed_dependency else ServiceReason.START_FAILED
        reason = Reason(code, str(error.details.get("reason") or error.message))
        columns = self._attempt_columns() | {"exit_code": None, "exit_signal": None}
        return await self._end_or_retry(error, reason, (), columns, self._failed_start(retry), retry=retry)

    def _failed_start(self, retry: bool) -> Operation:
        """What a failed start belongs to: its own operation, unless the policy goes on from here."""
        if not retry:
            return self._operation
        return self._context.manager.cause("start.failed", self._operation)

    async def _end_or_retry(
        self,
        error: NexusError,
        reason: Reason,
        events: tuple[Event, ...],
        columns: dict[str, Any],
        operation: Operation,
        *,
        retry: bool,
        accepted: bool = False,
        up_ms: int = 0,
        ended_ms_ago: int = 0,
        on_demand: bool = False,
    ) -> bool:
        """End, or wait for another run; False when it has ended: only then do clients that wait get ``error``."""
        if retry:
            service = self._state.read().service
            plan = self._series.plan(service, ended_ms_ago, up_ms)
            if plan.at is not None:
                self._context.tracker.reset(on_demand=on_demand)
                await self._retry(reason, plan.at, events, columns, operation)
                return True
            limit = f"{plan.recent} restarts within {service.restart_window_ms / 1000:g} s"
            error = policy_ended(error, limit)
            reason, accepted = Reason(ServiceReason.RESTART_LIMIT, f"{reason.text}; {limit}"), False
        state = ServiceState.STOPPED if accepted else ServiceState.FAILED
        events = (*events, (f"service.{state}", {"reason": reason.text}))
        service = await self._end(state, reason, events, columns, operation)
        if accepted and service.type is ServiceType.ONESHOT:
            self._context.waiters.succeed(ready=True)
        self._context.waiters.fail(error)
        return False

    async def _after_withdrawal(self, error: NexusError) -> bool:
        """The restart policy was removed while the next run waited for its time."""
        reason = self._withdrawal()
        await self._end(ServiceState.FAILED, reason, (("service.failed", {"reason": reason.text}),), {})
        self._context.waiters.fail(policy_ended(error, "its restart policy was removed"))
        return False

    async def _retry(
        self,
        reason: Reason,
        at: int,
        events: tuple[Event, ...],
        columns: dict[str, Any],
        operation: Operation,
    ) -> None:
        """Write when the next run begins, and why."""
        wait_ms = self._series.wait_until(at, reason)
        await self._state.write(
            ServiceState.STARTING,
            *events,
            ("service.restarting", {"reason": reason.text, "wait_ms": wait_ms, "restarts": self._series.count}),
            operation=operation,
            next_restart_at=now_ms() + wait_ms,
            run_id=None,
            pid=None,
            **reason_columns(reason),
            **columns | self._series.columns(),
        )
        self._unwritten_exit = {}

    async def _end(
        self,
        state: ServiceState,
        reason: Reason,
        events: tuple[Event, ...],
        columns: dict[str, Any],
        operation: Operation | None = None,
    ) -> Service:
        """End the tunnels and write stopped or failed."""
        self._ending = True
        try:
            await self._context.services.tunnels.close(self._context.id, operation or self._state.operation)
        except Exception:  # the service has ended, and its record must say so
            _log.exception("the tunnels of service %s were not ended", self._state.name)
        columns = {
            "start_environment": self.wanted_environment,
            **self._unwritten_exit,
            **columns,
            **self._series.columns(),
        }
        return await self._state.write(
            state, *events, operation=operation, run_id=None, **reason_columns(reason), **columns
        )

    # What follows a request

    async def _after_request(self, end: RunStopped) -> bool:
        """Write stopped, or begin the next run."""
        exit_, request = end.exit, end.request
        columns = {} if exit_ is None else self._exit_columns(exit_)
        if isinstance(request, StopRequest):
            port = None if self._state.record is None else self._state.record.active_port
            reason = request.reason._replace(text=request.reason.text + await describe_held(port))
            detail = {"reason": reason.text} | ({} if exit_ is None else exit_detail(exit_))
            columns |= self._state.stop_columns(request)
            events = (("service.stopped", detail),)
            await self._end(ServiceState.STOPPED, reason, events, columns, operation=request.operation)
            return False
        if request.counts:
            service = self._state.read().service
            up_ms = 0 if exit_ is None else _time_up(service, exit_, end.up_ms)
            self._forced = True
            error = start_failed(self._context, f"it was {request.reason.text}", request.reason.text, None)
            return await self._end_or_retry(
                error, request.reason, (), columns, request.operation, retry=True, up_ms=up_ms
            )
        if request.options is not None:
            self.begin(request.options)
        else:
            self._operation = request.operation
            self._series.restart_uncounted(request.reason)
            self._context.tracker.reset(on_demand=False)
        self._unwritten_exit = columns
        return True

    def _exit_columns(self, exit_: Exit) -> dict[str, Any]:
        """The columns that hold an exit; the id of an earlier boot is not known."""
        return exit_columns(exit_) | {"ended_in_boot": "-" if self._rebooted else self._context.manager.boot.id}
