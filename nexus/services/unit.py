"""One service that is up or in work: its life from start to rest, as one task that alone writes its state.

Wishes (stop, restart) and news (an exit, a dependency) only wake that task; it looks at what is true then. What it does
outside is always written down before: whoever kills the daemon at any point leaves a row that says what to look for.
It knows the process room, the store and its keeper; it knows no client.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar

import msgspec
from nexus_protocol import Internal, NexusError

from nexus import journal
from nexus.runtime import Exit, RuntimeFailure, ports
from nexus.services import launch, port_store, store
from nexus.services.errors import (
    ServiceDependencyFailed,
    ServiceNoCommand,
    ServiceRunning,
    ServiceStartFailed,
    ServiceStopped,
)
from nexus.services.health import HealthCheck
from nexus.services.needs import Needs
from nexus.services.policy import (
    accepts_exit,
    describe_exit,
    ends_with_machine,
    exit_columns,
    has_health_check,
    plan_restart,
    wants_restart,
)
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceHealth, ServiceState, ServiceType
from nexus.store import DiskFull, OutcomeUnknown, StoreConflict, StoreError, StoreUnavailable, Transaction

if TYPE_CHECKING:
    from nexus.handling import Hooks, Origin
    from nexus.runtime import Process, ProcessSpec, Runtime
    from nexus.services.store import StoredService
    from nexus.services.tunnels import Tunnels
    from nexus.store import StateStore

__all__ = ["Keeper", "StopWish", "Unit", "now_ms", "owner_of_service"]

T = TypeVar("T")

_log = logging.getLogger("nexus.services")

_RETRY_WRITE_S = 1.0
_LEFTOVERS_S = 0.1
"""What ends within this time after its main process needs no state of its own."""
_PORT_FREE_S = 2.0
_LOG_LINES = 20
_LOG_LINE_BYTES = 500

Events = tuple[str, dict[str, Any]]


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)


def owner_of_service(service_id: str) -> str:
    """What the process room calls a service."""
    return f"service-{service_id}"


class Keeper(Protocol):
    """What a unit needs of the manager."""

    store: StateStore
    runtime: Runtime
    hooks: Hooks | None
    tunnels: Tunnels
    origin: Origin
    """Of what the daemon does by itself."""
    boot_id: str
    boot_at: int

    def changed(self, service_id: str) -> None:
        """The service's row was changed."""

    def unit(self, service_id: str) -> Unit:
        """The unit of a service."""

    def whose(self, pid: int) -> str | None:
        """The name of the service that a process belongs to. Blocks."""

    launches: asyncio.Semaphore
    """How many may be on their way to a process at the same time."""

    async def environment(
        self, stored: StoredService, run_id: str, port: int | None, tunnels: dict[str, int]
    ) -> dict[str, str]:
        """Everything that a run has in its environment."""


class StopWish(NamedTuple):
    """That a service is to be stopped, by whom and why."""

    origin: Origin
    reason: str
    on_demand: bool


class _Restart(NamedTuple):
    """That a run is to be ended and followed by another one."""

    origin: Origin
    reason: str
    counts: bool = False
    """Whether it is one of the restarts that the policy limits."""
    on_demand: bool = False
    """Whether what it depends on is started for it, else it waits for that."""


class _Told(Exception):
    """There is a wish to be obeyed."""


class _Ended(Exception):
    """The main process has ended."""


class Unit:
    """The life of one service."""

    def __init__(self, keeper: Keeper, service_id: str) -> None:
        self.id = service_id
        self.owner = owner_of_service(service_id)
        self.process: Process | None = None
        self.service: Service | None = None
        """As it was last written."""
        self.stops = 0
        """How often somebody wanted it stopped."""
        self.failures = 0
        """How many of its starts and runs failed."""
        self.settled = asyncio.Event()
        """Whether what a daemon before this one left of it has been seen to."""
        self._keeper = keeper
        self._task: asyncio.Task[None] | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._health: HealthCheck | None = None
        self._wake = asyncio.Event()
        self._listeners: list[asyncio.Future[None]] = []
        self._waiters: list[tuple[bool, asyncio.Future[NexusError | None]]] = []
        self._trouble: StoreError | None = None
        self._needs = Needs(keeper, service_id)
        self._reset(keeper.origin)

    def _reset(self, origin: Origin) -> None:
        self._origin = origin
        self._stop: StopWish | None = None
        self._restart: _Restart | None = None
        self._exit: Exit | None = None
        self._run_id: str | None = None
        self._came_up = False
        self._launching = False
        self._not_before: int | None = None
        self._pending: dict[str, Any] = {}
        self._times: list[int] = []
        self._restarts = 0
        self._rebooted = False
        self._needs.reset(on_demand=True)

    @property
    def alive(self) -> bool:
        """Whether it is up or in work."""
        return self._task is not None

    @property
    def stopping(self) -> bool:
        """Whether it is about to rest."""
        state = None if self.service is None else self.service.state
        return self._stop is not None or (state is ServiceState.STOPPING and self._restart is None)

    @property
    def leaving(self) -> bool:
        """Whether it is being stopped on demand."""
        return self._stop is not None

    # What is asked of it

    async def start(self, origin: Origin, environment: dict[str, str] | None, *, wait: bool) -> None:
        """Bring it up, or wait with those who do; returns when it is up, or with ``wait`` healthy or completed.

        A start is the unit's own: whoever waits for it may leave.

        Raises:
            NexusError: it did not come up; ServiceStopped when somebody stopped it; ServiceRunning when it is up with
                another environment.
        """
        await self._calm()
        if self.alive and (self.process is not None or self._launching):
            self._refuse_other_environment(environment)
        else:
            self._bring_up(origin, environment)
        await self._outcome(wait)

    async def restart(self, origin: Origin, environment: dict[str, str] | None, *, wait: bool) -> None:
        """End its run, if there is one, and bring it up; waits and raises as ``start``."""
        await self._calm()
        if self.alive and (self.process is not None or self._launching):
            self._restart = _Restart(origin, "restarted on demand", on_demand=True)
            if environment is not None:
                self._pending["start_environment"] = environment
            self._wake.set()
        else:
            kept = environment if environment is not None or self.alive else self._read().start_environment
            self._bring_up(origin, kept)
        await self._outcome(wait)

    def ensure(self, origin: Origin) -> bool:
        """Bring it up for a dependent, without waiting; False: it is about to rest, ask again then."""
        if self.alive and self.stopping:
            return False
        if not (self.alive and (self.process is not None or self._launching)):
            self._bring_up(origin, None)
        return True

    async def stop(self, wish: StopWish) -> bool:
        """Stop it; returns when nothing of it is left, with whether there was anything to stop.

        Raises:
            StoreError: it has ended, and that cannot be written down.
        """
        self.stops += 1
        if not self.alive and self.process is None:
            await self._rest_on_demand(wish)
            return False
        if self._stop is None or wish.on_demand:
            self._stop = wish
        name = self.service.name if self.service is not None else self.id
        self._fail(
            ServiceStopped(
                f'service "{name}" was stopped while it was being started',
                hint=f"Start it again: nexusctl service start {name}",
                details={"id": self.id, "name": name},
            )
        )
        self._wake.set()
        self._run()
        while self.alive:
            if self._trouble is not None:
                raise self._trouble
            await self._news()
        return True

    def look(self) -> None:
        """Something that it may depend on, or its own record, has changed."""
        self._wake.set()

    def reconfigure(self) -> None:
        """Its record was changed: the health check is taken over at once."""
        if self._health is not None and self.alive:
            stored = self._read()
            if self.service is not None and self._health.differs(stored.service):
                self._health.replace(stored.service)
        self._wake.set()

    def _bring_up(self, origin: Origin, environment: dict[str, str] | None) -> None:
        """Begin a life, or let one that waits for its turn begin its next run now."""
        if not self.alive:
            self._reset(origin)
            self._pending = {"start_environment": environment or {}, "stopped_in_boot": None}
        elif environment is not None:
            self._pending["start_environment"] = environment
        self._origin = origin
        self._times, self._restarts, self._not_before = [], 0, None
        self._pending |= {"wanted": True, "restarts": 0, "restart_times": []}
        self._needs.reset(on_demand=True)
        self._wake.set()
        self._run()

    def _refuse_other_environment(self, environment: dict[str, str] | None) -> None:
        if environment is None or environment == (self._pending.get("start_environment") or self._started_with()):
            return
        assert self.service is not None
        name = self.service.name
        raise ServiceRunning(
            f'cannot start service "{name}" with this environment: it is up with another one',
            hint=f"Restart it with this one: nexusctl service restart {name} --env …",
            details={"id": self.id, "name": name},
        )

    def _started_with(self) -> dict[str, str]:
        return self._read().start_environment

    async def _calm(self) -> None:
        """Wait for the end of a stop that began before.

        Raises:
            ServiceStopped: another stop came meanwhile.
        """
        stops = self.stops
        while self.alive and self.stopping:
            if self._trouble is not None:
                raise self._trouble
            await self._news()
            if self.stops != stops:
                raise ServiceStopped("the service was stopped while it waited to be started", details={"id": self.id})

    async def _rest_on_demand(self, wish: StopWish) -> None:
        """Nothing runs: only what is to come changes."""

        def change(tx: Transaction) -> Service:
            stored = store.stored(tx, self.id)
            if stored.service.state is ServiceState.FAILED:
                service = store.change_state(
                    tx, self.id, ServiceState.STOPPED, wanted=False, reason=wish.reason, **self._stopped_in(wish)
                )
                journal.record(
                    tx, wish.origin, "service.stopped", "service", self.id, service.name, {"reason": wish.reason}
                )
                return service
            if stored.service.state is ServiceState.STOPPED and wish.on_demand:
                columns = {"wanted": False, **self._stopped_in(wish)}
                return store.change_state(tx, self.id, ServiceState.STOPPED, **columns)
            return stored.service

        self.service = await self._keeper.store.write(change)

    def _stopped_in(self, wish: StopWish) -> dict[str, Any]:
        return {"stopped_in_boot": self._keeper.boot_id} if wish.on_demand else {}

    # Who waits

    async def _outcome(self, wait: bool) -> None:
        """Wait until it is up, or with ``wait`` ready."""
        service = self.service
        if service is not None and service.state is ServiceState.RUNNING and self._undisturbed:
            if not wait or self._is_ready(service):
                return
            if service.health is ServiceHealth.UNHEALTHY:
                raise self._unhealthy(service)
        future: asyncio.Future[NexusError | None] = asyncio.get_running_loop().create_future()
        self._waiters.append((wait, future))
        try:
            error = await future
        finally:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not future]
        if error is not None:
            raise error

    @property
    def _undisturbed(self) -> bool:
        return self.alive and self._stop is None and self._restart is None

    @staticmethod
    def _is_ready(service: Service) -> bool:
        if service.type is ServiceType.ONESHOT:
            return False
        return service.health is ServiceHealth.HEALTHY or not has_health_check(service)

    def _succeed(self, *, ready: bool) -> None:
        if self._restart is not None:
            return
        for wait, future in self._waiters:
            if not future.done() and (ready or not wait):
                future.set_result(None)

    def _fail(self, error: NexusError, *, up: bool = True) -> None:
        """Tell those who wait for it to come up, or to be healthy, that this failed."""
        for wait, future in self._waiters:
            if not future.done() and (wait or up):
                future.set_result(error)

    async def _news(self) -> None:
        """Wait for the next change of its row, or its rest."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._listeners.append(future)
        await future

    def _tell(self) -> None:
        listeners, self._listeners = self._listeners, []
        for future in listeners:
            if not future.done():
                future.set_result(None)

    # Its life

    def resume(self, stored: StoredService, found: Process | Exit | None, *, rebooted: bool) -> None:
        """Go on with what a daemon before this one began; ``found`` is what the process room has of the run."""
        service = stored.service
        self._reset(self._keeper.origin)
        self.service = service
        self._run_id = stored.run_id
        self._times, self._restarts = list(stored.restart_times), service.restarts
        self._not_before = service.next_restart_at
        self._rebooted = rebooted
        self._needs.resume(stored)
        if isinstance(found, Exit):
            self._exit = found
        elif found is not None:
            self.process = found
        elif service.state is ServiceState.RUNNING:
            self._exit = Exit("lost", 0, False, now_ms(), "nothing is known of its process")
        self._came_up = service.state is ServiceState.RUNNING or service.type is ServiceType.ONESHOT
        if service.state is ServiceState.STOPPING:
            self._came_up = True
            if not stored.wanted:
                self._stop = StopWish(self._keeper.origin, service.reason or "stopped on demand", on_demand=False)
            elif service.exit_code is None and service.exit_signal is None:
                self._restart = _Restart(self._keeper.origin, service.reason or "restarted")
        if rebooted and service.restart is not RestartPolicy.ALWAYS and self.process is None and not self._exit:
            self._exit = Exit("lost", 0, False, now_ms(), "the machine was restarted")
        if self.process is not None:
            self._follow(self.process)
        self._run()

    def _run(self) -> None:
        if self._task is None:
            self._task = asyncio.create_task(self._live())

    async def close(self) -> None:
        """Let go: nothing is written or ended any more."""
        tasks = [task for task in (self._task, self._watcher) if task is not None]
        if self._health is not None:
            tasks += self._health.cancel()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.process is not None:
            self.process.close()

    async def _live(self) -> None:
        try:
            while await self._step():
                pass
        except asyncio.CancelledError:
            raise
        except Exception as error:
            if not isinstance(error, NexusError):
                _log.exception("service %s: its watch ended", self.id)
                error = Internal(
                    f"cannot go on with the service: {type(error).__name__}",
                    hint="This is a bug in nexusd; its log has the details.",
                )
            self._fail(error)
        self._stop = self._restart = None
        self._trouble = None
        self._task = None
        self.settled.set()
        self._tell()
        self._keeper.changed(self.id)

    async def _step(self) -> bool:
        """From one run to the next, or to rest; tells whether it goes on."""
        try:
            if self._exit is None:
                if self.process is None:
                    await self._wait_for_turn()
                    try:
                        await self._launch()
                    except NexusError as error:
                        return await self._after_failed_launch(error)
                    finally:
                        self._launching = False
                await self._settle()
                await self._watch()
        except _Told:
            return await self._obey()
        except _Ended:
            pass
        return await self._after_exit()

    def _check(self) -> None:
        if self._stop is not None or self._restart is not None:
            raise _Told

    async def _woken(self, until_s: float | None = None) -> None:
        """Wait to be woken, or until so much time has passed; raises _Told when there is a wish."""
        self._check()
        self.settled.set()
        if not self._wake.is_set():
            timer = None
            if until_s is not None:
                timer = asyncio.get_running_loop().call_later(max(until_s, 0), self._wake.set)
            try:
                await self._wake.wait()
            finally:
                if timer is not None:
                    timer.cancel()
        self._wake.clear()
        self._check()

    async def _unless_told(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for what may take long, unless a wish comes."""
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._wake.set())
        try:
            while not task.done():
                await self._woken()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        return task.result()

    def _read(self) -> StoredService:
        return self._keeper.store.read(lambda reader: store.stored(reader, self.id), snapshot=True)

    async def _write(
        self,
        state: ServiceState,
        *events: Events,
        origin: Origin | None = None,
        insist: bool = True,
        **columns: Any,
    ) -> Service:
        """Write its state and the journal; with ``insist`` until the store takes it."""
        pending, self._pending = self._pending, {}
        who = origin or self._keeper.origin

        def change(tx: Transaction) -> Service:
            service = store.change_state(tx, self.id, state, **(pending | columns))
            for kind, detail in events:
                journal.record(tx, who, kind, "service", service.id, service.name, detail)
            return service

        while True:
            try:
                self.service = await self._keeper.store.write(change, size_bytes=1024)
                break
            except (DiskFull, OutcomeUnknown, StoreUnavailable) as error:
                if not insist:
                    self._pending = pending | self._pending
                    raise
                self._trouble = error
                self._fail(error)
                self._tell()
                await asyncio.sleep(_RETRY_WRITE_S)
            except BaseException:
                self._pending = pending | self._pending
                raise
        self._trouble = None
        self.settled.set()
        self._tell()
        self._keeper.changed(self.id)
        return self.service

    # Up

    async def _wait_for_turn(self) -> None:
        """Wait until the next restart is due, or somebody wants it now; it counts when its turn has come."""
        self._check()
        while (due := self._not_before) is not None:
            left_ms = due - now_ms()
            if left_ms > 0:
                await self._woken(left_ms / 1000)
                continue
            self._not_before = None
            self._origin = self._keeper.origin
            self._restarts += 1
            self._times.append(now_ms())
            self._pending |= {"restarts": self._restarts, "restart_times": self._times}

    async def _launch(self) -> None:
        """From what it depends on to its process."""
        await self._wait_for_dependencies()
        self._launching = True
        async with self._keeper.launches:
            try:
                spec, run_id = await self._prepare()
                self.process = await self._keeper.runtime.start(self.owner, run_id, spec)
            except (RuntimeFailure, ValueError) as error:
                words = getattr(error, "message", str(error)).removeprefix("cannot start ")
                raise self._start_failed(words, words, None, getattr(error, "hint", None)) from error
        self._follow(self.process)

    async def _prepare(self) -> tuple[ProcessSpec, str]:
        """Everything that its process needs, and the row that comes before it."""
        keeper = self._keeper
        avoid: set[int] = set()
        while True:
            self._check()
            stored = self._read()
            if "start_environment" in self._pending:
                stored = msgspec.structs.replace(stored, start_environment=self._pending["start_environment"])
            service = self.service = stored.service
            launch.refuse_without_command(service)
            lease = await self._unless_told(launch.choose_port(keeper.store, stored, avoid, keeper.whose))
            tunnels = await self._unless_told(keeper.tunnels.open(stored))
            run_id = uuid.uuid4().hex
            environment = await self._unless_told(keeper.environment(stored, run_id, lease.port, tunnels))
            spec = await self._unless_told(launch.make_spec(service, environment, keeper.hooks))
            keeper.runtime.check(spec)
            try:
                await self._write_new_run(run_id, lease.port)
            except StoreConflict:
                assert lease.port is not None
                if not lease.leased:
                    name = keeper.store.read(lambda reader, port=lease.port: port_store.port_user(reader, port))  # type: ignore[misc]
                    raise launch.port_taken(service, lease.port, None, name) from None
                avoid.add(lease.port)
                continue
            return spec, run_id

    async def _write_new_run(self, run_id: str, port: int | None) -> None:
        """The durable row that comes before the process."""
        detail: dict[str, Any] = {} if port is None else {"port": port}
        if self._restarts:
            detail["restarts"] = self._restarts
        old = self._run_id
        await self._write(
            ServiceState.STARTING,
            ("service.starting", detail),
            origin=self._origin,
            insist=False,
            run_id=run_id,
            active_port=port,
            pid=None,
            exit_code=None,
            exit_signal=None,
            next_restart_at=None,
            reason=None,
            lost_dependencies=[],
        )
        self._run_id = run_id
        self._came_up = False
        self._forget(old)

    def _follow(self, process: Process) -> None:
        async def watch() -> None:
            await process.wait_exit()
            self._wake.set()

        self._watcher = asyncio.create_task(watch())

    async def _wait_for_dependencies(self) -> None:
        """Bring up what it depends on, or wait for that; says in its row what it waits for."""
        said: str | None = None
        while True:
            self._check()
            missing = self._needs.missing(self._origin, self._fail)
            if missing is None:
                return
            if missing.words != said:
                said = missing.words
                first = self.service is None or self.service.state is not ServiceState.STARTING
                events = [("service.starting", {"reason": said})] if first else []
                await self._write(
                    ServiceState.STARTING,
                    *events,
                    origin=self._origin,
                    insist=False,
                    reason=said,
                    run_id=None,
                    pid=None,
                    next_restart_at=None,
                    lost_dependencies=missing.lost,
                )
                self._forget_run()
                continue  # it may have come while this was written
            await self._woken()

    async def _settle(self) -> None:
        """See it through its start window."""
        process = self.process
        assert process is not None
        assert self.service is not None
        if self._came_up:
            return
        columns: dict[str, Any] = {"pid": process.pid, "started_at": process.started_at}
        window_ms = 0 if self.service.type is ServiceType.ONESHOT else self.service.start_window_ms
        if window_ms:
            if self.service.pid != process.pid:
                await self._write(ServiceState.STARTING, **columns)
            while (left_ms := process.started_at + window_ms - now_ms()) > 0:
                self._check_exit(process)
                await self._woken(min(left_ms, window_ms) / 1000)
            self._check_exit(process)
        detail = {"pid": process.pid} | ({} if self.service.active_port is None else {"port": self.service.active_port})
        service = await self._write(ServiceState.RUNNING, ("service.started", detail), **columns)
        self._came_up = True
        self._succeed(ready=self._is_ready(service))

    def _check_exit(self, process: Process) -> None:
        self._check()
        if process.exit is not None:
            self._exit = process.exit
            raise _Ended

    async def _watch(self) -> None:
        """Watch it while it runs, and what it depends on."""
        process = self.process
        assert process is not None
        service = self._read().service
        if service.health is not ServiceHealth.UNKNOWN or service.pid != process.pid:
            # Of an earlier daemon: what it knew is not known any more.
            columns: dict[str, Any] = {"pid": process.pid, "started_at": process.started_at}
            service = await self._write(ServiceState.RUNNING, **columns)
            service = await self._report(ServiceHealth.UNKNOWN, None)
        self._health = HealthCheck(self._keeper.runtime, service, process, self._checked)
        self._health.start()
        while True:
            self._check_exit(process)
            await self._look_at_dependencies()
            self._check_exit(process)
            await self._woken()

    async def _look_at_dependencies(self) -> None:
        """Note what was lost and what is back, and do what the dependency says follows."""
        stored = self._read()
        looked = self._needs.look(stored)
        if not looked.events and looked.lost == stored.service.lost_dependencies:
            return
        await self._write(
            ServiceState.RUNNING, *looked.events, lost_dependencies=looked.lost, reason=looked.reason or None
        )
        if looked.stop is not None:
            self._stop = StopWish(self._keeper.origin, looked.stop, on_demand=False)
        elif looked.restart is not None:
            self._restart = _Restart(self._keeper.origin, looked.restart)

    async def _checked(self, health: ServiceHealth, message: str | None) -> None:
        """What the health check found, when that is something new."""
        service = await self._report(health, message)
        if health is ServiceHealth.HEALTHY:
            self._succeed(ready=True)
        elif health is ServiceHealth.UNHEALTHY:
            self._fail(self._unhealthy(service), up=False)
            if service.restart_unhealthy and self._undisturbed:
                words = f"unhealthy: {message}" if message else "unhealthy"
                self._restart = _Restart(self._keeper.origin, words, counts=True, on_demand=True)
                self._wake.set()

    async def _report(self, health: ServiceHealth, message: str | None) -> Service:
        before = self.service.health if self.service is not None else None

        def change(tx: Transaction) -> Service:
            service = store.set_health(tx, self.id, health, message)
            if service.health is health and health is not before and health is not ServiceHealth.UNKNOWN:
                detail = {} if message is None else {"message": message}
                journal.record(
                    tx, self._keeper.origin, f"service.{health}", "service", service.id, service.name, detail
                )
            return service

        self.service = await self._keeper.store.write(change)
        self._tell()
        self._keeper.changed(self.id)
        return self.service

    # Down

    async def _after_exit(self) -> bool:
        """The main process has ended by itself: what follows is the policy's."""
        exit_ = self._exit
        assert exit_ is not None
        await self._end_health()
        reason = describe_exit(exit_)
        if self.process is not None and not await self._is_gone(self.process):
            await self._write(
                ServiceState.STOPPING, reason=f"{reason}; what it left behind is being ended", **exit_columns(exit_)
            )
            await self.process.wait()
        stored = self._read()
        service = stored.service
        detail = _exit_detail(exit_)
        if self._stop is not None or self._restart is not None:
            return await self._obeyed(exit_)
        self._let_go()
        accepted = accepts_exit(exit_) and self._came_up
        if accepts_exit(exit_) and not accepted:
            reason += f" within its start window of {service.start_window_ms} ms"
        if not self._came_up:
            error = self._start_failed(f"it {reason}", reason, exit_, None)
        else:
            error = self._start_failed(f"it {reason} before it was healthy", reason, exit_, None)
        swept_away = self._rebooted and ends_with_machine(exit_)
        self._rebooted = False
        if swept_away:
            reason = "the machine was restarted"
        retry = stored.wanted and wants_restart(service.restart, failed=not accepts_exit(exit_) and not swept_away)
        up_ms = exit_.at - (service.started_at or exit_.at) if self._came_up else 0
        events: list[Events] = [("service.exited", {"reason": reason} | detail)]
        self._exit = None
        if swept_away or not stored.wanted:
            accepted = True
        return await self._rest_or_retry(error, reason, retry, accepted, exit_.at, up_ms, events, exit_columns(exit_))

    async def _is_gone(self, process: Process) -> bool:
        """Whether everything of it is gone, or will be in a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEFTOVERS_S):
                await process.wait()
                return True
        return False

    async def _after_failed_launch(self, error: NexusError) -> bool:
        if isinstance(error, StoreError):
            self._fail(error)
            if self.service is None or self._read().service.state not in store.UP:
                return False
        stored = self._read()
        reason = str(error.details.get("reason") or error.message)
        lasting = isinstance(error, (ServiceDependencyFailed, ServiceNoCommand))
        retry = not lasting and wants_restart(stored.service.restart, failed=True)
        ended_at = now_ms()
        nothing = {"exit_code": None, "exit_signal": None}
        return await self._rest_or_retry(error, reason, retry, False, ended_at, 0, [], nothing)

    async def _rest_or_retry(
        self,
        error: NexusError,
        reason: str,
        retry: bool,
        accepted: bool,
        ended_at: int,
        up_ms: int,
        events: list[Events],
        columns: dict[str, Any],
    ) -> bool:
        """Rest, or be started again once the wait is over; tells whether it goes on."""
        failed = not accepted  # counted once the row says what follows: a dependent that looked earlier would not know
        if retry:
            service = self._read().service
            plan = plan_restart(service, self._times, ended_at, now_ms(), up_ms)
            self._times = plan.times
            if plan.at is not None:
                await self._retry(error, reason, plan.at, events, columns)
                self.failures += failed
                return True
            window_s = service.restart_window_ms / 1000
            reason = f"{reason}; {plan.recent} restarts within {window_s:g} s"
            accepted = False
        state = ServiceState.STOPPED if accepted else ServiceState.FAILED
        detail = {"reason": reason} | {
            name: columns[name] for name in ("exit_code", "exit_signal") if columns.get(name)
        }
        service = await self._rest(state, (*events, (f"service.{state}", detail)), reason, columns)
        self.failures += failed
        if accepted and service.type is ServiceType.ONESHOT:
            self._succeed(ready=True)
        self._fail(error)
        return False

    async def _retry(
        self, error: NexusError, reason: str, at: int, events: list[Events], columns: dict[str, Any]
    ) -> None:
        """Write down when it is started again."""
        wait_ms = at - now_ms()
        self._not_before = at
        self._needs.reset(on_demand=True)
        await self._write(
            ServiceState.STARTING,
            *events,
            ("service.restarting", {"reason": reason, "wait_ms": max(wait_ms, 0), "restarts": self._restarts}),
            reason=reason,
            next_restart_at=at,
            run_id=None,
            pid=None,
            restart_times=self._times,
            **columns,
        )
        self._forget_run()
        name = self.service.name if self.service is not None else self.id
        again = f"It is tried again, as its restart policy says; to end that: nexusctl service stop {name}"
        self._fail(_with_hint(error, again))

    async def _rest(
        self, state: ServiceState, events: tuple[Events, ...], reason: str, columns: dict[str, Any], **more: Any
    ) -> Service:
        origin = more.pop("origin", None)
        await self._keeper.tunnels.close(self.id)
        service = await self._write(
            state, *events, origin=origin, reason=reason, run_id=None, restart_times=self._times, **columns, **more
        )
        self._forget_run()
        return service

    async def _obey(self) -> bool:
        """Carry out a stop or a restart that was wished for."""
        exit_: Exit | None = None
        if self.process is not None:
            await self._end_health()
            wish = self._stop or self._restart
            assert wish is not None
            columns = self._columns_of_stop()
            try:
                await self._write(
                    ServiceState.STOPPING,
                    ("service.stopping", {"reason": wish.reason}),
                    origin=wish.origin,
                    insist=False,
                    reason=wish.reason,
                    **columns,
                )
            except StoreError as error:
                # It is to stop all the same; the row is put right by the next write.
                _log.warning("service %s: %s", self.id, error.message)
            exit_ = await self.process.stop()
            await self.process.wait()
        return await self._obeyed(exit_)

    def _columns_of_stop(self) -> dict[str, Any]:
        if self._stop is None:
            return {}
        return {"wanted": False, **self._stopped_in(self._stop)}

    async def _obeyed(self, exit_: Exit | None) -> bool:
        """No process is left: rest, or go on to the next run."""
        self._let_go()
        self._exit = None
        columns = {} if exit_ is None else exit_columns(exit_)
        stop, restart = self._stop, self._restart
        if stop is not None:
            reason = stop.reason + await self._port_still_held()
            detail = {"reason": reason} | ({} if exit_ is None else _exit_detail(exit_))
            await self._rest(
                ServiceState.STOPPED,
                (("service.stopped", detail),),
                reason,
                columns,
                origin=stop.origin,
                **self._columns_of_stop(),
            )
            return False
        assert restart is not None
        self._restart = None
        self._came_up = False
        self._origin = restart.origin
        if restart.counts:
            service = self._read().service
            ended_at = now_ms() if exit_ is None else exit_.at
            up_ms = ended_at - (service.started_at or ended_at)
            error = self._start_failed(f"it was {restart.reason}", restart.reason, exit_, None)
            return await self._rest_or_retry(error, restart.reason, True, False, ended_at, up_ms, [], columns)
        self._not_before = None
        self._needs.reset(on_demand=restart.on_demand)
        if restart.on_demand:
            self._times, self._restarts = [], 0
            self._pending |= {"restarts": 0, "restart_times": []}
        self._pending |= columns
        return True

    async def _port_still_held(self) -> str:
        """A stopped service's port is free; who has it otherwise, in words."""
        port = None if self.service is None else self.service.active_port
        if port is None or self.process is not None or await ports.wait_until_free(port, _PORT_FREE_S):
            return ""
        holder = await ports.holder_in_thread(port)
        return "" if holder is None else f"; port {port} is in use by {ports.describe_holder(holder)}"

    def _let_go(self) -> None:
        if self._watcher is not None:
            self._watcher.cancel()
            self._watcher = None
        if self.process is not None:
            self.process.close()
            self.process = None

    async def _end_health(self) -> None:
        if self._health is not None:
            tasks = self._health.cancel()
            self._health = None
            await asyncio.gather(*tasks, return_exceptions=True)

    def _forget_run(self) -> None:
        old, self._run_id = self._run_id, None
        self._forget(old)

    def _forget(self, run_id: str | None) -> None:
        """The row knows this run no more: its files may go."""
        if run_id is not None:
            with contextlib.suppress(OSError):
                self._keeper.runtime.forget(self.owner, run_id)

    # Words

    def _start_failed(self, sentence: str, reason: str, exit_: Exit | None, hint: str | None) -> ServiceStartFailed:
        name = self.service.name if self.service is not None else self.id
        details: dict[str, Any] = {"id": self.id, "name": name, "reason": reason}
        if exit_ is not None:
            details |= _exit_detail(exit_)
            lines = self._keeper.runtime.log(self.owner).tail(_LOG_LINES, from_run=self._run_id)
            details["log"] = [line[:_LOG_LINE_BYTES].decode(errors="replace") for line in lines]
        return ServiceStartFailed(
            f'cannot start service "{name}": {sentence}',
            hint=hint or f"Look at its output: nexusctl service logs {name}",
            details=details,
        )

    def _unhealthy(self, service: Service) -> ServiceStartFailed:
        words = f"it is unhealthy: {service.health_message}" if service.health_message else "it is unhealthy"
        return self._start_failed(words, words.removeprefix("it is "), None, "It goes on running; look at its output.")


def _exit_detail(exit_: Exit) -> dict[str, Any]:
    if exit_.kind == "exit":
        return {"exit_code": exit_.code}
    return {"exit_signal": exit_.code} if exit_.kind == "signal" else {}


def _with_hint(error: NexusError, more: str) -> NexusError:
    """The same error, whose hint says more."""
    return type(error)(error.message, hint=f"{error.hint} {more}" if error.hint else more, details=error.details)
