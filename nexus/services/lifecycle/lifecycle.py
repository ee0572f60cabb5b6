"""The life of a service from its start to its rest: one task, which alone writes the service's state.

Wishes (stop, restart) and news (an exit, a dependency) only wake that task; it looks at what is true then. What it does
outside is always written down before: whoever kills the daemon at any point leaves a row that says what to look for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from typing import TYPE_CHECKING, Any

from nexus_protocol import Internal, NexusError

from nexus.runtime import Exit, Orphans, Process, RuntimeFailure, ports
from nexus.services import store
from nexus.services.dependencies.tracker import Needs
from nexus.services.errors import ServiceDependencyFailed, ServiceNoCommand
from nexus.services.lifecycle.context import now_ms, owner_of_service
from nexus.services.lifecycle.policy import (
    accepts_exit,
    describe_exit,
    ends_with_machine,
    exit_columns,
    plan_restart,
    wants_restart,
)
from nexus.services.lifecycle.run import Ended, Run, ended_early_hint, exit_detail, launch_run, start_failed
from nexus.services.states import RestartPolicy, ServiceState, ServiceType
from nexus.store import StoreError
from nexus.supervision.requests import RestartWish, StopWish, Told, Wishes

if TYPE_CHECKING:
    from nexus.capability import Caller
    from nexus.services.lifecycle.handle import Unit
    from nexus.services.lifecycle.state_writer import Event
    from nexus.services.records import Service
    from nexus.services.store import StoredService

__all__ = ["Life"]

_log = logging.getLogger("nexus.services")

_AGAIN_S = 1.0
_PORT_FREE_S = 2.0
_FILES_DELETED = "its files were deleted: what is left of it is being ended"
_REMNANTS_ENDED = "its files were deleted: what was left of it was ended"


class Life:
    """One life of a service."""

    def __init__(self, unit: Unit, caller: Caller) -> None:
        self.id = unit.id
        self.owner = owner_of_service(unit.id)
        self.keeper = unit.keeper
        self.row = unit.row
        self.waiters = unit.waiters
        self.wishes = Wishes()
        self.needs = Needs(unit.keeper, unit.id)
        self.run: Run | None = None
        self.run_id: str | None = None
        """Of the run that the row knows."""
        self.launching = False
        self._ending = False
        self._forced = False
        """Whether the next run comes without the policy's consent."""
        self._unit = unit
        self._caller = caller
        self._orphans: Orphans | None = None
        """Of a run that cannot be taken back, and is to be ended."""
        self._exit: Exit | None = None
        """How the run ended, that is to be seen to."""
        self._came_up = False
        self._turn_at: float | None = None
        """When the next run may begin, by the clock of the loop."""
        self._times: list[int] = []
        self._restarts = 0
        self.restarted: str | None = None
        """Why its policy started it again, in words."""
        self._rebooted = False

    @property
    def has_run(self) -> bool:
        """Whether it has a process, or will have one in a moment."""
        return self.run is not None or self.launching or self._orphans is not None

    @property
    def resting(self) -> bool:
        """Whether it is on its way to rest."""
        service = self.row.service
        ending = service is not None and service.state is ServiceState.STOPPING and self.wishes.restart is None
        return self._ending or ending or self.wishes.stop is not None

    # How it begins

    def begin_now(self, caller: Caller, environment: dict[str, str] | None) -> None:
        """Somebody wants it up: it begins its next run at once, however often it was restarted before."""
        self._caller, self._forced = caller, False
        self._times, self._restarts, self._turn_at, self.restarted = [], 0, None, None
        self.row.pending |= {"wanted": True, "restarts": 0, "restart_times": []}
        if environment is not None:
            self.row.pending["start_environment"] = environment
        self.needs.reset(on_demand=True)
        self.wishes.wake()

    def resume(self, stored: StoredService, found: Process | Exit | Orphans | None, *, rebooted: bool) -> None:
        """Go on where a daemon before this one was; ``found`` is what the process room has of the run."""
        service = stored.service
        self.run_id = stored.run_id
        self._times, self._restarts, self._rebooted = list(stored.restart_times), service.restarts, rebooted
        self._forced = service.restart is RestartPolicy.NO
        if service.next_restart_at is not None:
            wait_ms = min(service.next_restart_at - now_ms(), 2 * service.restart_backoff_max_ms)
            self._turn_at = asyncio.get_running_loop().time() + wait_ms / 1000
            self.restarted = f"restarted: {service.reason}"
        self.needs.resume(stored)
        if isinstance(found, Exit):
            self._exit = found
        elif isinstance(found, Orphans):
            self._orphans, self._rebooted = found, False
        elif service.state is ServiceState.RUNNING and found is None:
            self._exit = Exit("lost", 0, False, now_ms(), "nothing is known of its process")
        elif found is None and rebooted and service.restart is not RestartPolicy.ALWAYS:
            self._exit = Exit("lost", 0, False, now_ms(), "the machine was restarted")
        self._came_up = service.state is not ServiceState.STARTING
        if isinstance(found, Process):
            self.run = Run(self, found, came_up=self._came_up)
        elif self._exit is not None and not self._came_up:
            began_at = service.started_at or service.state_at
            self._came_up = service.type is ServiceType.ONESHOT or self._exit.at - began_at > service.start_window_ms
        if service.state is ServiceState.STOPPING:
            self._resume_stopping(stored)

    def _resume_stopping(self, stored: StoredService) -> None:
        """It was stopped on demand, or had ended and what it left behind is being ended, or was to be restarted."""
        service = stored.service
        caller = self.keeper.caller
        if service.reason == _FILES_DELETED:
            if self._orphans is None:
                self._exit = Exit("lost", 0, False, now_ms(), _REMNANTS_ENDED)
        elif not stored.wanted:
            self.wishes.stop = StopWish(caller, service.reason or "stopped on demand", on_demand=False)
        elif service.exit_code is not None:
            self._exit = Exit("exit", service.exit_code, False, service.stopped_at or now_ms())
        elif service.exit_signal is not None:
            self._exit = Exit("signal", service.exit_signal, False, service.stopped_at or now_ms())
        else:
            on_demand = not service.lost_dependencies
            self.wishes.restart = RestartWish(caller, service.reason or "restarted", on_demand=on_demand)

    # From one step to the next

    async def live(self) -> None:
        """Live until there is nothing more to do. What goes wrong here is a bug, and leaves no process unwatched."""
        while True:
            try:
                while await self._step():
                    pass
                if self.wishes.stop is not None:
                    await self.row.write_rest(self.wishes.stop)  # it may have come while the end was written
                return
            except Exception as error:
                if isinstance(error, NexusError):
                    failure = error
                else:
                    _log.exception("service %s: its watch was disturbed", self.row.name)
                    failure = Internal(
                        f'cannot go on with service "{self.row.name}": {type(error).__name__}',
                        hint="This is a bug in nexusd; its log has the details.",
                    )
                self.waiters.fail(failure)
                if self.run is None:
                    await self._break_off(failure)
                    return
            await asyncio.sleep(_AGAIN_S)

    async def _break_off(self, failure: NexusError) -> None:
        """Nothing of it runs, and nobody goes on with it: its row says so."""
        if self.row.service is None or self.row.service.state not in store.UP:
            return
        reason = failure.message
        try:
            await self._rest(ServiceState.FAILED, (("service.failed", {"reason": reason}),), reason, {})
        except Exception:
            _log.exception("service %s: its end was not written", self.row.name)

    async def _step(self) -> bool:
        """From one run to the next, or to rest; tells whether it goes on."""
        try:
            if self._orphans is not None:
                self._exit = await self._end_orphans(self._orphans)
                self._orphans = None
            if self._exit is None:
                if self.run is None:
                    try:
                        if not await self._launch():
                            return await self._give_up()
                    except NexusError as error:
                        return await self._after_failed_launch(error)
                    finally:
                        self.launching = False
                assert self.run is not None
                await self.run.settle()
                await self.run.watch()
        except Told:
            return await self._obey()
        except Ended:
            assert self.run is not None
            self._exit, self._came_up = self.run.process.exit, self.run.came_up
        return await self._after_exit()

    # Up

    def _given_up(self) -> bool:
        """Whether its policy was taken back while it waited for its turn."""
        return not self._forced and self.row.read().service.restart is RestartPolicy.NO

    async def _launch(self) -> bool:
        """From the wait for its turn to its process; False when that is not to come."""
        self.wishes.check()
        loop = asyncio.get_running_loop()
        while self._turn_at is not None:
            left_s = self._turn_at - loop.time()
            if left_s > 0:
                await self.wishes.woken(left_s)
                if self._turn_at is not None and self._given_up():
                    return False
                continue
            # A restart counts when its turn has come.
            self._turn_at = None
            self._caller = self.keeper.caller
            self._restarts += 1
            self._times.append(now_ms())
            self.row.pending |= {"restarts": self._restarts, "restart_times": self._times}
        await self._wait_for_dependencies()
        self.launching = True
        self.run = await launch_run(self)
        return True

    async def _wait_for_dependencies(self) -> None:
        """Bring up what it depends on, or wait for that; its row says what it waits for."""
        said: str | None = None
        while True:
            self.wishes.check()
            missing = self.needs.missing(self._caller, self.waiters.fail)
            if missing is None:
                return
            if missing.words == said:
                await self.wishes.woken()
                continue
            said = missing.words
            service = self.row.service
            first = service is None or service.state is not ServiceState.STARTING
            await self.row.write(
                ServiceState.STARTING,
                *([("service.starting", {"reason": said})] if first else []),
                caller=self._caller,
                insist=False,
                reason=said,
                run_id=None,
                pid=None,
                next_restart_at=None,
                lost_dependencies=missing.lost,
            )
            self._forget(None)

    async def write_new_run(self, run_id: str, port: int | None) -> None:
        """The durable row that comes before the process."""
        detail: dict[str, Any] = {} if port is None else {"port": port}
        if self._restarts:
            detail["restarts"] = self._restarts
        await self.row.write(
            ServiceState.STARTING,
            ("service.starting", detail),
            caller=self._caller,
            insist=False,
            run_id=run_id,
            active_port=port,
            pid=None,
            started_at=None,
            exit_code=None,
            exit_signal=None,
            next_restart_at=None,
            reason=None,
            lost_dependencies=[],
        )
        self._forget(run_id)
        self._came_up = False

    # What follows an end

    async def _end_orphans(self, orphans: Orphans) -> Exit:
        """End a run whose files somebody deleted: nobody would see its end, and what it writes is lost."""
        _log.warning("service %s: %s", self.row.name, _FILES_DELETED)
        service = self.row.read().service
        try:
            await self.row.write(
                ServiceState.STOPPING,
                *([] if service.state is ServiceState.STOPPING else [("service.stopping", {"reason": _FILES_DELETED})]),
                insist=False,
                reason=_FILES_DELETED,
            )
        except StoreError as error:
            _log.warning("service %s: %s", self.row.name, error.message)
        await self.keeper.runtime.end_orphans(orphans, signal.Signals[service.stop_signal.value], service.stop_grace_ms)
        return Exit("lost", 0, False, now_ms(), _REMNANTS_ENDED)

    async def _after_exit(self) -> bool:
        """The main process has ended by itself: what follows is the policy's."""
        exit_ = self._exit
        assert exit_ is not None
        reason = describe_exit(exit_)
        if self.run is not None:
            await self.run.end_health()
            if not await self.run.is_gone():
                words = f"{reason}; what it left behind is being ended"
                said = self.row.service is not None and self.row.service.state is ServiceState.STOPPING
                events = () if said else (("service.stopping", {"reason": words}),)
                await self.row.write(ServiceState.STOPPING, *events, reason=words, **exit_columns(exit_))
                await self.run.process.wait()
        if self.wishes.any:
            return await self._obeyed(exit_)
        self._let_go()
        self._exit, self._forced = None, False
        stored = self.row.read()
        service = stored.service
        accepted = accepts_exit(exit_) and self._came_up
        if accepts_exit(exit_) and not accepted:
            reason += f" within its start window of {service.start_window_ms} ms"
        swept_away = self._rebooted and ends_with_machine(exit_)
        self._rebooted = False
        if swept_away:
            reason = "the machine was restarted"
        retry = stored.wanted and wants_restart(service.restart, failed=not accepts_exit(exit_) and not swept_away)
        up_ms = exit_.at - (service.started_at or exit_.at) if self._came_up else 0
        words = (reason if exit_.kind == "lost" else f"it {reason}") + " before it was healthy" * self._came_up
        error = start_failed(self, words, reason, exit_, None if self._came_up else ended_early_hint(service, exit_))
        return await self._rest_or_retry(
            error,
            reason,
            (("service.exited", {"reason": reason} | exit_detail(exit_)),),
            exit_columns(exit_),
            retry=retry,
            accepted=accepted or swept_away or not stored.wanted,
            up_ms=up_ms,
            # What it depends on went down with the machine as well.
            on_demand=swept_away,
        )

    async def _after_failed_launch(self, error: NexusError) -> bool:
        stored = self.row.read()
        if isinstance(error, StoreError) and stored.service.state not in store.UP:
            self.waiters.fail(error)  # nothing was written, so nothing has changed
            return False
        lasting = isinstance(error, (ServiceDependencyFailed, ServiceNoCommand))
        retry = not lasting and wants_restart(stored.service.restart, failed=True)
        reason = str(error.details.get("reason") or error.message)
        columns = {"exit_code": None, "exit_signal": None}
        return await self._rest_or_retry(error, reason, (), columns, retry=retry)

    async def _rest_or_retry(
        self,
        error: NexusError,
        reason: str,
        events: tuple[Event, ...],
        columns: dict[str, Any],
        *,
        retry: bool,
        accepted: bool = False,
        up_ms: int = 0,
        on_demand: bool = False,
    ) -> bool:
        """Rest, or wait for another run; tells whether it goes on."""
        if retry:
            service = self.row.read().service
            now = now_ms()
            # A clock that was set must not keep it down.
            ended_at = min(columns.get("stopped_at") or now, now)
            plan = plan_restart(service, self._times, ended_at, now, up_ms)
            self._times = plan.times
            if plan.at is not None:
                self.needs.reset(on_demand=on_demand)
                await self._retry(error, reason, plan.at, events, columns)
                self._unit.failures += not accepted
                return True
            reason = f"{reason}; {plan.recent} restarts within {service.restart_window_ms / 1000:g} s"
            accepted = False
        state = ServiceState.STOPPED if accepted else ServiceState.FAILED
        service = await self._rest(state, (*events, (f"service.{state}", {"reason": reason})), reason, columns)
        if not accepted:
            self._unit.failures += 1
        elif service.type is ServiceType.ONESHOT:
            self.waiters.succeed(ready=True)
        self.waiters.fail(error)
        return False

    async def _give_up(self) -> bool:
        reason = self.row.read().service.reason or "it is not restarted any more"
        await self._rest(ServiceState.FAILED, (("service.failed", {"reason": reason}),), reason, {})
        return False

    async def _retry(
        self, error: NexusError, reason: str, at: int, events: tuple[Event, ...], columns: dict[str, Any]
    ) -> None:
        wait_ms = max(at - now_ms(), 0)
        starters = self.waiters.present()
        self._turn_at = asyncio.get_running_loop().time() + wait_ms / 1000
        self.restarted = f"restarted: {reason}"
        await self.row.write(
            ServiceState.STARTING,
            *events,
            ("service.restarting", {"reason": reason, "wait_ms": wait_ms, "restarts": self._restarts}),
            reason=reason,
            next_restart_at=at,
            run_id=None,
            pid=None,
            restart_times=self._times,
            **columns,
        )
        self._forget(None)
        again = f"It is tried again, as its restart policy says; to end that: nexusctl service stop {self.row.name}"
        error.hint = f"{error.hint} {again}" if error.hint else again
        self.waiters.fail(error, among=starters)

    async def _rest(
        self,
        state: ServiceState,
        events: tuple[Event, ...],
        reason: str,
        columns: dict[str, Any],
        caller: Caller | None = None,
    ) -> Service:
        self._ending = True
        try:
            await self.keeper.tunnels.close(self.id)
        except Exception:  # the row has to be true all the same
            _log.exception("the tunnels of service %s were not ended", self.row.name)
        service = await self.row.write(
            state, *events, caller=caller, reason=reason, run_id=None, restart_times=self._times, **columns
        )
        self._forget(None)
        return service

    # What follows a wish

    async def _obey(self) -> bool:
        """Carry out a stop or a restart that was wished for."""
        exit_: Exit | None = None
        wish = self.wishes.stop or self.wishes.restart
        assert wish is not None
        if self.run is not None:
            await self.run.end_health()
            columns = self.row.columns_of(wish) if isinstance(wish, StopWish) else {}
            try:
                await self.row.write(
                    ServiceState.STOPPING,
                    ("service.stopping", {"reason": wish.reason}),
                    caller=wish.caller,
                    insist=False,
                    reason=wish.reason,
                    **columns,
                )
            except StoreError as error:
                # It is to end all the same; the next write puts the row right.
                _log.warning("service %s: %s", self.row.name, error.message)
            exit_ = await self.run.process.stop()
        return await self._obeyed(exit_)

    async def _obeyed(self, exit_: Exit | None) -> bool:
        """No process is left: rest, or go on to the next run."""
        self._let_go()
        self._exit = None
        columns = {} if exit_ is None else exit_columns(exit_)
        stop, restart = self.wishes.stop, self.wishes.restart
        if stop is not None:
            reason = stop.reason + await self._port_still_held()
            detail = {"reason": reason} | ({} if exit_ is None else exit_detail(exit_))
            columns |= self.row.columns_of(stop)
            events = (("service.stopped", detail),)
            await self._rest(ServiceState.STOPPED, events, reason, columns, caller=stop.caller)
            return False
        assert restart is not None
        self.wishes.restart = None
        if restart.counts:
            service = self.row.read().service
            up_ms = 0 if exit_ is None else exit_.at - (service.started_at or exit_.at)
            self._forced = True
            error = start_failed(self, f"it was {restart.reason}", restart.reason, None)
            return await self._rest_or_retry(error, restart.reason, (), columns, retry=True, up_ms=up_ms)
        if restart.on_demand:
            self.begin_now(restart.caller, None)
        else:
            self._caller, self._turn_at = restart.caller, None
            self.restarted = f"restarted: {restart.reason}"
            self.needs.reset(on_demand=False)
        self.row.pending |= columns
        return True

    async def _port_still_held(self) -> str:
        """A stopped service's port is free; who has it otherwise, in words."""
        port = None if self.row.service is None else self.row.service.active_port
        if port is None or await ports.wait_until_free(port, _PORT_FREE_S):
            return ""
        holder = await ports.holder_in_thread(port)
        return "" if holder is None else f"; port {port} is in use by {ports.describe_holder(holder)}"

    def _let_go(self) -> None:
        if self.run is not None:
            self.run.let_go()
            self.run = None

    def _forget(self, run_id: str | None) -> None:
        """The row has come to know another run, or none: the files of the one before may go."""
        old, self.run_id = self.run_id, run_id
        if old is not None and old != run_id:
            with contextlib.suppress(OSError, RuntimeFailure):
                self.keeper.runtime.forget(self.owner, old)
