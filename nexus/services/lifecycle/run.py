"""One run of a service: from its port and environment to its process, and what is watched while that lives."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any

import msgspec

from nexus.runtime import Exit, RuntimeFailure
from nexus.services.errors import ServiceStartFailed
from nexus.services.health.check import HealthCheck
from nexus.services.lifecycle import launch
from nexus.services.lifecycle.context import now_ms
from nexus.services.lifecycle.policy import accepts_exit, has_health_check
from nexus.services.states import ServiceHealth, ServiceState, ServiceType
from nexus.store import StoreConflict
from nexus.supervision import store as port_store
from nexus.supervision.requests import RestartWish, StopWish
from nexus.supervision.tasks import cancel_and_wait

if TYPE_CHECKING:
    from nexus.runtime import Process, ProcessSpec
    from nexus.services.lifecycle.lifecycle import Life
    from nexus.services.records import Service

__all__ = ["Ended", "Run", "ended_early_hint", "exit_detail", "is_ready", "launch_run", "start_failed", "unhealthy"]

_LEFTOVERS_S = 0.1
"""What ends within this time after its main process needs no state of its own."""
_LOG_LINES = 20
_LOG_LINE_BYTES = 500


class Ended(Exception):
    """The main process has ended."""


async def launch_run(life: Life) -> Run:
    """Bring a run to its process.

    Raises:
        NexusError: it cannot be started; nothing of it is left.
        Told: there is a wish.
    """
    async with life.keeper.launches:
        try:
            spec, run_id = await _prepare(life)
            return Run(life, await life.keeper.runtime.start(life.owner, run_id, spec))
        except (RuntimeFailure, ValueError) as error:
            words = getattr(error, "message", str(error)).removeprefix("cannot start ")
            reason = words.partition(": ")[2]
            if reason.startswith("its directory "):
                words = reason  # which is the service's, whatever the program
            raise start_failed(life, words, words, None, getattr(error, "hint", None)) from error


async def _prepare(life: Life) -> tuple[ProcessSpec, str]:
    """Everything that a process needs, and the row that comes before it."""
    keeper, wishes = life.keeper, life.wishes
    avoid: set[int] = set()
    while True:
        wishes.check()
        stored = life.row.read()
        if "start_environment" in life.row.pending:
            stored = msgspec.structs.replace(stored, start_environment=life.row.pending["start_environment"])
        service = stored.service
        launch.refuse_without_command(service)
        lease = await wishes.unless_told(launch.choose_port(keeper.store, stored, avoid, keeper.service_of_pid))
        tunnels = await wishes.unless_told(keeper.tunnels.open(stored))
        run_id = uuid.uuid4().hex
        environment = await wishes.unless_told(keeper.environment(stored, run_id, lease.port, tunnels))
        spec = await wishes.unless_told(launch.make_spec(service, environment, keeper.hooks))
        keeper.runtime.check(spec)
        try:
            await life.write_new_run(run_id, lease.port)
        except StoreConflict:
            if lease.port is None or not lease.leased:
                raise _taken(life, service, lease.port) from None
            avoid.add(lease.port)
            continue
        return spec, run_id


def _taken(life: Life, service: Service, port: int | None) -> Exception:
    assert port is not None
    name = life.keeper.store.read(lambda reader: port_store.port_user(reader, port))
    return launch.port_taken(service, port, None, name)


class Run:
    """A run that has a process, of this daemon or of one before it."""

    def __init__(self, life: Life, process: Process, *, came_up: bool = False) -> None:
        self.process = process
        self.came_up = came_up
        """Whether it has outlived its start window."""
        self._life = life
        self._health: HealthCheck | None = None
        self._watcher = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        await self.process.wait_exit()
        self._life.wishes.wake()

    def check(self) -> None:
        """Raise Told for a wish, and Ended once the main process has."""
        self._life.wishes.check()
        if self.process.exit is not None:
            raise Ended

    async def settle(self) -> None:
        """See it through its start window."""
        life, process, service = self._life, self.process, self._life.row.service
        assert service is not None
        if self.came_up:
            return
        columns: dict[str, Any] = {"pid": process.pid, "started_at": process.started_at}
        window_ms = 0 if service.type is ServiceType.ONESHOT else service.start_window_ms
        if window_ms:
            if service.pid != process.pid:
                await life.row.write(ServiceState.STARTING, **columns)
            loop = asyncio.get_running_loop()
            passed_ms = max(now_ms() - process.started_at, 0)
            ends_at = loop.time() + (window_ms - passed_ms) / 1000
            while (left_s := ends_at - loop.time()) > 0:
                self.check()
                await life.wishes.woken(left_s)
            self.check()
        detail = {"pid": process.pid} | ({} if service.active_port is None else {"port": service.active_port})
        service = await life.row.write(
            ServiceState.RUNNING, ("service.started", detail), reason=life.restarted, **columns
        )
        self.came_up = True
        if not life.wishes.any:
            life.waiters.succeed(ready=is_ready(service))

    async def watch(self) -> None:
        """Watch it while it runs, and what it depends on; ends with Told or Ended."""
        life = self._life
        service = life.row.read().service
        if service.health is not ServiceHealth.UNKNOWN:
            # An earlier daemon knew that; this one does not.
            service = await life.row.write_health(ServiceHealth.UNKNOWN, None)
        await self.end_health()  # of a watch that was disturbed
        self._health = HealthCheck(life.keeper.runtime, service, self.process, self._checked)
        self._health.start()
        while True:
            self.check()
            await self._look_at_dependencies()
            self.check()
            await life.wishes.woken()

    async def _look_at_dependencies(self) -> None:
        """Note what was lost and what is back, and do what the dependency says follows."""
        life = self._life
        stored = life.row.read()
        looked = life.needs.look(stored)
        if not looked.events and looked.lost == stored.service.lost_dependencies:
            return
        await life.row.write(
            ServiceState.RUNNING, *looked.events, lost_dependencies=looked.lost, reason=looked.reason or None
        )
        if looked.stop is not None:
            life.wishes.stop = life.wishes.stop or StopWish(life.keeper.caller, looked.stop, on_demand=False)
        elif looked.restart is not None:
            life.wishes.restart = life.wishes.restart or RestartWish(life.keeper.caller, looked.restart)

    async def _checked(self, health: ServiceHealth, message: str | None) -> None:
        """What the health check found, when that is something new."""
        life = self._life
        service = await life.row.write_health(health, message)
        if life.wishes.any:
            return
        if health is ServiceHealth.HEALTHY:
            life.waiters.succeed(ready=True)
        elif health is ServiceHealth.UNHEALTHY:
            life.waiters.fail(unhealthy(life, service), only_ready=True)
            if service.restart_unhealthy:
                words = f"unhealthy: {message}" if message else "unhealthy"
                life.wishes.restart = RestartWish(life.keeper.caller, words, counts=True)
                life.wishes.wake()

    def reconfigure(self) -> None:
        """The record was changed: another check holds at once."""
        service = self._life.row.read().service
        if self._health is not None and self._health.differs(service):
            self._health.replace(service)

    async def is_gone(self) -> bool:
        """Whether everything of it is gone, or will be in a moment."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LEFTOVERS_S):
                await self.process.wait()
                return True
        return False

    async def end_health(self) -> None:
        """No more checks."""
        if self._health is not None:
            health, self._health = self._health, None
            await health.end()

    def let_go(self) -> None:
        """Nothing is watched any more; what lives goes on."""
        self._watcher.cancel()
        self.process.close()

    async def close(self) -> None:
        """Let go, as the daemon ends."""
        await self.end_health()
        self.let_go()
        await cancel_and_wait(self._watcher)


def is_ready(service: Service) -> bool:
    """Whether a service that is up is all that somebody who waits for it wants."""
    if service.type is ServiceType.ONESHOT:
        return False
    return service.health is ServiceHealth.HEALTHY or not has_health_check(service)


def exit_detail(exit_: Exit) -> dict[str, Any]:
    """What an event or an error says of an exit."""
    if exit_.kind == "exit":
        return {"exit_code": exit_.code}
    return {"exit_signal": exit_.code} if exit_.kind == "signal" else {}


def start_failed(
    life: Life, sentence: str, reason: str, exit_: Exit | None, hint: str | None = None
) -> ServiceStartFailed:
    """The error of a start that failed, with the last that the run wrote."""
    name = life.row.name
    details: dict[str, Any] = {"id": life.id, "name": name, "reason": reason}
    if exit_ is not None:
        lines = life.keeper.runtime.log(life.owner).tail(_LOG_LINES, from_run=life.run_id)
        details |= exit_detail(exit_)
        details["log"] = [line[:_LOG_LINE_BYTES].decode(errors="replace") for line in lines]
    return ServiceStartFailed(
        f'cannot start service "{name}": {sentence}',
        hint=hint or f"Look at its output: nexusctl service logs {name}",
        details=details,
    )


def ended_early_hint(service: Service, exit_: Exit) -> str | None:
    """The way out for a service that ended well and at once: mostly it went to the background, or is no service."""
    if not accepts_exit(exit_) or service.type is ServiceType.ONESHOT:
        return None
    return (
        "It has to stay in the foreground, without becoming a daemon; one that does its work and ends: "
        f"nexusctl service update {service.name} --type oneshot\n"
        f"Look at its output: nexusctl service logs {service.name}"
    )


def unhealthy(life: Life, service: Service) -> ServiceStartFailed:
    """The error of a start that came up and is not well."""
    words = f"unhealthy: {service.health_message}" if service.health_message else "unhealthy"
    return start_failed(
        life, f"it is {words}", words, None, f"It goes on running; look at it: nexusctl service logs {service.name}"
    )
