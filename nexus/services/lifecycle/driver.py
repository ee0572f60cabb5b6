"""The supervision of one service from a start to its end: one task, the only writer of the service's state.

Requests and events only wake the task; it re-reads state and decides (level-triggered). Every effect on the world is
written before: a daemon that is killed at any point leaves a record that says what to look for.
docs/architecture.md has the states as a diagram.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from nexus_protocol import Internal, NexusError

from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.runtime import Exit, Orphans, Process, RuntimeFailure
from nexus.runtime.status import now_ms
from nexus.services import store
from nexus.services.errors import ServiceConfigFile, ServiceDependencyFailed, ServiceNoCommand
from nexus.services.lifecycle.admission import admit
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.lifecycle.failures import early_exit_hint, policy_ended, start_failed
from nexus.services.lifecycle.leftovers import end_orphans, write_leftovers
from nexus.services.lifecycle.ports import describe_held
from nexus.services.lifecycle.resume import Found, find_run, plan_resumption
from nexus.services.lifecycle.run import Exited, Run, time_up
from nexus.services.lifecycle.series import RestartSeries, wants_restart
from nexus.services.lifecycle.start import start_process
from nexus.services.reasons import HOST_RESTARTED, exit_reason, reason_columns, stored_reason
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceReason, ServiceState, ServiceType
from nexus.services.store import StoredService
from nexus.store import StoreError
from nexus.supervision.exits import accepts_exit, exit_columns, exit_detail, may_end_with_machine
from nexus.supervision.requests import Reason, RequestPending, Requests, StartOptions

__all__ = ["Lifecycle"]

_log = logging.getLogger("nexus.services")

_RETRY_S = 1.0


class Lifecycle:
    """One supervision of a service: it may begin several runs, and ends when the service is stopped or failed."""

    def __init__(self, context: ServiceContext, operation: Operation) -> None:
        self.run: Run | None = None
        self.launching = False
        """Whether a process is about to exist."""
        self.environment: dict[str, str] = {}
        """What the start gave beside the record's own variables."""
        self.refused: NexusError | None = None
        """Why the last request that was refused could not be carried out."""
        self._context = context
        self._requests = context.requests = Requests()
        self._state = context.state
        self._operation = operation
        """What led to the next run."""
        self._ending = False
        self._forced = False
        """Whether the next run begins even if the restart policy is removed before it."""
        self.unknown: Exception | None = None
        """Why the run cannot be looked at; None while it can."""
        self._orphans: Orphans | None = None
        """Processes of a run that cannot be adopted, which are to be ended."""
        self._exit: Exit | None = None
        """How the run ended, while that is not handled yet."""
        self._exit_is_written = False
        """Whether an earlier daemon wrote the exit, so that its operation is that of the present state."""
        self._came_up = False
        self._series = RestartSeries()
        self._rebooted = False
        self._unwritten_exit: dict[str, Any] = {}
        """The exit of the run that a restart ended, until the next write has it."""

    @property
    def has_run(self) -> bool:
        """Whether there is a process, or is about to be."""
        known = self.run is not None or self.launching or self._orphans is not None
        return known or self.unknown is not None

    @property
    def may_live(self) -> bool:
        """Whether a process of its run may be alive."""
        return self.has_run and (self.run is None or not self.run.process.finished)

    @property
    def wanted_environment(self) -> dict[str, str]:
        """The environment of the present start, or of the restart that is requested."""
        restart = self._requests.restart
        options = None if restart is None else restart.options
        return self.environment if options is None or options.environment is None else options.environment

    @property
    def stopping(self) -> bool:
        """Whether the service is on its way to stopped or failed."""
        service = self._state.service
        ending = service is not None and service.state is ServiceState.STOPPING and self._requests.restart is None
        return self._ending or ending or self._requests.stop is not None

    # How it begins

    def begin(self, options: StartOptions) -> None:
        """Begin the next run at once, on demand: no backoff, and a new series of restarts."""
        self._operation, self._forced = options.operation, False
        self._series = RestartSeries()
        if options.environment is not None:
            self.environment = options.environment
        self._context.tracker.reset(on_demand=True)
        self._requests.wake()

    def resume(self, stored: StoredService, found: Found, *, rebooted: bool) -> None:
        """Go on where an earlier daemon was; ``found`` is what the process runtime has of the run."""
        self._context.run_id = stored.run_id
        if isinstance(found, Exception):
            self.unknown, self._rebooted = found, rebooted
            return
        service = stored.service
        self.environment = stored.start_environment
        self._rebooted = rebooted
        self._forced = service.restart is RestartPolicy.NO
        self._series.resume(stored, rebooted=rebooted)
        self._context.tracker.resume(stored)
        self._operation = self._state.operation
        plan = plan_resumption(stored, found, self._operation, rebooted=rebooted)
        self._exit, self._came_up, self._exit_is_written = plan.exit, plan.came_up, plan.is_written
        # A request may have come while the run was unknown.
        self._requests.stop = self._requests.stop or plan.stop
        self._requests.restart = self._requests.restart or plan.restart
        if isinstance(found, Process):
            self.run = Run(self._context, found, came_up=self._came_up)
        elif isinstance(found, Orphans):
            self._orphans, self._rebooted = found, False

    # From one step to the next

    async def supervise(self) -> None:
        """Carry out steps until the service is stopped or failed. An unexpected error ends no running process."""
        while True:
            try:
                while await self._step():
                    pass
                if self._requests.stop is not None:
                    # It arrived while the end was written.
                    await self._state.write_stop(self._requests.stop)
                return
            except Exception as error:
                if isinstance(error, NexusError):
                    failure = error
                else:
                    _log.exception("service %s: supervision task failed, retrying", self._state.name)
                    failure = Internal(
                        f'cannot go on with service "{self._state.name}": {type(error).__name__}',
                        hint="This is a bug in nexusd; its log has the details.",
                    )
                self._context.waiters.fail(failure)
                if self.run is None:
                    await self._fail(failure)
                    return
            await asyncio.sleep(_RETRY_S)

    async def _fail(self, failure: NexusError) -> None:
        """Write failed after a bug, since no process runs and no task goes on."""
        if self._state.service is None or self._state.service.state not in store.UP:
            return
        reason = Reason(ServiceReason.SUPERVISOR_FAILED, failure.message)
        try:
            await self._end(ServiceState.FAILED, reason, (("service.failed", {"reason": reason.text}),), {})
        except Exception:
            _log.exception("service %s: its end was not written", self._state.name)

    async def _step(self) -> bool:
        """Begin and watch one run, then decide what follows; False when the service is stopped or failed."""
        try:
            if self.unknown is not None:
                await self._look_until_known(self.unknown)
            if self._state.read().service.unknown_since is not None:
                # Also where an earlier daemon wrote it, and this one could look at once.
                await self._state.write(self._state.read().service.state, requests=self._requests)
            if self._orphans is not None:
                self._exit = await end_orphans(self._context, self._orphans)
                self._orphans = None
            if self._exit is None:
                if self.run is None:
                    try:
                        if not await self._start():
                            return await self._end_without_policy()
                    except NexusError as error:
                        return await self._after_failed_start(error)
                    finally:
                        self.launching = False
                assert self.run is not None
                await self.run.settle(self._series.restarted)
                await self.run.watch()
        except RequestPending:
            return await self._carry_out_request()
        except Exited:
            assert self.run is not None
            self._exit, self._came_up = self.run.process.exit, self.run.came_up
        return await self._after_exit()

    async def _look_until_known(self, error: Exception) -> None:
        """Look for the run again until that is possible, then resume."""
        found = await find_run(self._context, error)
        self.unknown = None
        self.resume(self._state.read(), found, rebooted=self._rebooted)

    # Up

    def _policy_withdrawn(self) -> bool:
        """Whether the restart policy was removed while the next run waited for its time."""
        return not self._forced and self._state.read().service.restart is RestartPolicy.NO

    async def _start(self) -> bool:
        """Wait for the backoff and the dependencies, then start the process; False when the policy was removed."""
        self._requests.check()
        while (left_s := self._series.left_s) is not None:
            if left_s > 0:
                await self._requests.wait(left_s)
                if self._series.left_s is not None and self._policy_withdrawn():
                    return False
                continue
            self._operation = self._state.operation
            self._series.begin_run()
        await self._wait_for_dependencies()
        self.launching = True
        self.run = Run(
            self._context, await start_process(self._context, self._operation, self.environment, self._write_run)
        )
        return True

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
            self._requests.check()
            was_blocked = tracker.blocked
            missing = tracker.missing(self._operation, self._context.waiters.fail)
            if tracker.blocked != was_blocked:
                # No write follows that would tell the dependents.
                self._context.services.changed(self._context.id)
            if missing is None:
                return
            if missing.reason == written:
                await self._requests.wait()
                continue
            written = missing.reason
            service = self._state.service
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
            self._forget_run(None)

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
        self._forget_run(run_id)
        self._came_up = False

    # What follows an end

    async def _after_exit(self) -> bool:
        """The main process ended by itself: the policy decides whether another run follows."""
        exit_ = self._exit
        assert exit_ is not None
        reason = exit_reason(exit_)
        observed_up_ms: int | None = None
        operation = self._state.operation if self._exit_is_written else self._state.cause("process.exited")
        self._exit_is_written = False
        if self.run is not None:
            observed_up_ms = self.run.up_ms
            await self.run.end_health()
            if not await self.run.is_gone():
                await write_leftovers(self._context, operation, reason, self._exit_columns(exit_))
                await self.run.process.wait()
        if self._requests.pending:
            return await self._after_stop(exit_, observed_up_ms)
        self._release_run()
        self._exit, self._forced = None, False
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
        up_ms = time_up(service, exit_, observed_up_ms) if self._came_up else 0
        sentence = reason.text if exit_.kind == "lost" else f"it {'was ' * (exit_.kind == 'signal')}{reason.text}"
        if self._came_up and service.type is not ServiceType.ONESHOT:
            sentence += " before it was healthy"
        hint = None if self._came_up else early_exit_hint(service, exit_)
        return await self._end_or_retry(
            start_failed(self._context, sentence, reason.text, exit_, hint),
            reason,
            (("service.exited", {"reason": reason.text} | exit_detail(exit_)),),
            columns,
            operation,
            retry=retry,
            accepted=accepted or ended_with_machine or not stored.wanted,
            up_ms=up_ms,
            ended_ms_ago=0 if observed_up_ms is not None else now_ms() - exit_.at,
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

    async def _end_without_policy(self) -> bool:
        reason = stored_reason(self._state.read().service)
        reason = reason or Reason(ServiceReason.START_FAILED, "its restart policy was removed")
        error = start_failed(self._context, reason.text, reason.text, None)
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
        self._forget_run(None)

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
        service = await self._state.write(
            state, *events, operation=operation, run_id=None, **reason_columns(reason), **columns
        )
        self._forget_run(None)
        return service

    # What follows a request

    async def _carry_out_request(self) -> bool:
        """Write a stop or restart, then end the process, if there is one. What is refused ends nothing."""
        exit_: Exit | None = None
        up_ms: int | None = None
        request = self._requests.stop or self._requests.restart
        assert request is not None
        if self.run is not None:
            self.refused = await admit(self._context, request, self.wanted_environment)
            if self.refused is not None:
                self._requests.withdraw(request)
                self._context.waiters.fail(self.refused)
                self._context.waiters.notify()
                return True
            await self.run.end_health()
            up_ms = self.run.up_ms
            exit_ = await self.run.process.stop()
        return await self._after_stop(exit_, up_ms)

    async def _after_stop(self, exit_: Exit | None, up_ms: int | None) -> bool:
        """Every process has ended and a request is pending: write stopped, or begin the next run."""
        self._release_run()
        self._exit = None
        columns = {} if exit_ is None else self._exit_columns(exit_)
        stop, restart = self._requests.stop, self._requests.restart
        if stop is not None:
            port = None if self._state.service is None else self._state.service.active_port
            reason = stop.reason._replace(text=stop.reason.text + await describe_held(port))
            detail = {"reason": reason.text} | ({} if exit_ is None else exit_detail(exit_))
            columns |= self._state.stop_columns(stop)
            events = (("service.stopped", detail),)
            await self._end(ServiceState.STOPPED, reason, events, columns, operation=stop.operation)
            return False
        assert restart is not None
        self._requests.restart = None
        if restart.counts:
            service = self._state.read().service
            up_ms = 0 if exit_ is None else time_up(service, exit_, up_ms)
            self._forced = True
            error = start_failed(self._context, f"it was {restart.reason.text}", restart.reason.text, None)
            return await self._end_or_retry(
                error, restart.reason, (), columns, restart.operation, retry=True, up_ms=up_ms
            )
        if restart.options is not None:
            self.begin(restart.options)
        else:
            self._operation = restart.operation
            self._series.restart_uncounted(restart.reason)
            self._context.tracker.reset(on_demand=False)
        self._unwritten_exit = columns
        return True

    def _exit_columns(self, exit_: Exit) -> dict[str, Any]:
        """The columns that hold an exit; the id of an earlier boot is not known."""
        return exit_columns(exit_) | {"ended_in_boot": "-" if self._rebooted else self._context.manager.boot.id}

    def _release_run(self) -> None:
        if self.run is not None:
            self.run.release()
            self.run = None

    def _forget_run(self, run_id: str | None) -> None:
        """The record knows another run now, or none: delete the files of the one before."""
        old, self._context.run_id = self._context.run_id, run_id
        if old is not None and old != run_id:
            with contextlib.suppress(OSError, RuntimeFailure):
                self._context.manager.runtime.forget(self._context.owner, old)
