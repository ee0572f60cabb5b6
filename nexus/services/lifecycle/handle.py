"""One service as the manager sees it: what is asked of it, who waits for it, and its life while it has one."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from nexus.services.errors import ServiceRunning, ServiceStopped
from nexus.services.lifecycle.lifecycle import Life
from nexus.services.lifecycle.run import is_ready, unhealthy
from nexus.services.lifecycle.state_writer import Row
from nexus.services.states import ServiceHealth, ServiceState
from nexus.supervision.requests import RestartWish, StopWish
from nexus.supervision.tasks import cancel_and_wait
from nexus.supervision.waiters import Waiters

if TYPE_CHECKING:
    from nexus.capability import Caller
    from nexus.runtime import Exit, Orphans, Process
    from nexus.services.lifecycle.context import Keeper
    from nexus.services.store import StoredService
    from nexus.store import StoreError

__all__ = ["Unit"]

_log = logging.getLogger("nexus.services")


class Unit:
    """One service."""

    def __init__(self, keeper: Keeper, service_id: str) -> None:
        self.id = service_id
        self.keeper = keeper
        self.waiters = Waiters()
        self.row = Row(keeper, service_id, self._changed, self._troubled)
        self.life: Life | None = None
        """While it is up or in work."""
        self.failures = 0
        """How many of its starts and runs failed."""
        self._stops = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def alive(self) -> bool:
        """Whether it is up or in work."""
        return self.life is not None

    @property
    def resting(self) -> bool:
        """Whether it is on its way to rest."""
        return self.life is not None and self.life.resting

    @property
    def leaving(self) -> bool:
        """Whether somebody, or the loss of a dependency, is stopping it."""
        return self.life is not None and self.life.wishes.stop is not None

    @property
    def process(self) -> Process | None:
        """Its process, if it has one."""
        return None if self.life is None or self.life.run is None else self.life.run.process

    # What is asked of it

    async def start(self, caller: Caller, environment: dict[str, str] | None, *, wait: bool) -> None:
        """Bring it up, or wait with those who do; returns when it is up, or with ``wait`` healthy or completed.

        A start is the unit's own: whoever waits for it may leave.

        Raises:
            ServiceStopped: somebody stopped it.
            ServiceRunning: it is up with another environment.
            NexusError: it did not come up.
        """
        await self._calm()
        if self.life is not None and self.life.has_run:
            self._refuse_other_environment(environment)
        else:
            self._bring_up(caller, environment)
        await self._outcome(wait)

    async def restart(self, caller: Caller, environment: dict[str, str] | None, *, wait: bool) -> None:
        """End its run, if there is one, and bring it up; waits and raises as ``start``.

        Without ``environment`` it has the one that it was started with.
        """
        await self._calm()
        life = self.life
        if life is None:
            self._bring_up(caller, self.row.read().start_environment if environment is None else environment)
        elif life.has_run:
            life.wishes.restart = RestartWish(caller, "restarted on demand", on_demand=True)
            if environment is not None:
                self.row.pending["start_environment"] = environment
            life.wishes.wake()
        else:
            self._bring_up(caller, environment)
        await self._outcome(wait)

    def ensure(self, caller: Caller) -> bool:
        """Bring it up for a dependent, without waiting; False: it is on its way to rest, ask again then."""
        if self.resting:
            return False
        if self.life is None or not self.life.has_run:
            self._bring_up(caller, None)
        return True

    async def stop(self, wish: StopWish) -> bool:
        """Stop it; returns when nothing of it is left, with whether there was anything to stop.

        Raises:
            StoreError: it has ended, and that cannot be written down at present.
        """
        self._stops += 1
        life = self.life
        if life is None:
            await self.row.write_rest(wish)
            return False
        if life.wishes.stop is None or wish.on_demand:
            life.wishes.stop = wish
        self.waiters.fail(self._stopped())
        life.wishes.wake()
        while self.life is life:
            if self.row.trouble is not None:
                raise self.row.trouble
            await self.waiters.news()
        return True

    def look(self) -> None:
        """Something that it may depend on has changed."""
        if self.life is not None:
            self.life.wishes.wake()

    def reconfigure(self) -> None:
        """Its record was changed: the health check and the dependencies hold at once."""
        self.row.refresh()
        if self.life is not None:
            if self.life.run is not None:
                self.life.run.reconfigure()
            self.life.wishes.wake()

    def _bring_up(self, caller: Caller, environment: dict[str, str] | None) -> None:
        """Begin a life, or let one that waits for its turn begin its next run now."""
        life = self.life
        if life is None:
            life = self._begin(caller)
            self.row.pending = {"start_environment": environment or {}, "stopped_in_boot": None}
        life.begin_now(caller, environment)

    def _refuse_other_environment(self, environment: dict[str, str] | None) -> None:
        if environment is None:
            return
        known = self.row.pending.get("start_environment")
        if environment == (self.row.read().start_environment if known is None else known):
            return
        name = self.row.name
        raise ServiceRunning(
            f'cannot start service "{name}" with this environment: it is up with another one',
            hint=f"Restart it with this one: nexusctl service restart {name} --env …",
            details={"id": self.id, "name": name},
        )

    async def _calm(self) -> None:
        """Wait for the end of a stop that began before.

        Raises:
            ServiceStopped: another stop came meanwhile.
            StoreError: the end cannot be written down at present.
        """
        stops = self._stops
        while self.resting:
            if self.row.trouble is not None:
                raise self.row.trouble
            await self.waiters.news()
            if self._stops != stops:
                raise self._stopped()

    def _stopped(self) -> ServiceStopped:
        name = self.row.name
        return ServiceStopped(
            f'cannot start service "{name}": it was stopped meanwhile',
            hint=f"Start it again: nexusctl service start {name}",
            details={"id": self.id, "name": name},
        )

    async def _outcome(self, wait: bool) -> None:
        """Wait until it is up, or with ``wait`` ready."""
        life, service = self.life, self.row.service
        if life is None or life.wishes.any or service is None or service.state is not ServiceState.RUNNING:
            pass
        elif not wait or is_ready(service):
            return
        elif service.health is ServiceHealth.UNHEALTHY:
            raise unhealthy(life, service)
        await self.waiters.outcome(ready=wait)

    # Its life

    def resume(self, stored: StoredService, found: Process | Exit | Orphans | None, *, rebooted: bool) -> asyncio.Event:
        """Go on with what a daemon before this one began; gives what is set once that has been seen to."""
        self.row.service = stored.service
        life = self._begin(self.keeper.caller)
        life.resume(stored, found, rebooted=rebooted)
        return life.wishes.waited

    def _begin(self, caller: Caller) -> Life:
        self.life = Life(self, caller)
        self._task = asyncio.create_task(self._live(self.life))
        return self.life

    async def _live(self, life: Life) -> None:
        try:
            await life.live()
        except Exception:  # a bug, after which others must not wait for ever
            _log.exception("service %s: its watch has ended", self.id)
        self.life = self._task = None
        self.row.pending = {}
        self.row.trouble = None
        life.wishes.waited.set()
        self.waiters.fail(self._stopped())
        self._changed()

    async def close(self) -> None:
        """Let go: nothing is written or ended any more."""
        await cancel_and_wait(self._task)
        if self.life is not None and self.life.run is not None:
            await self.life.run.close()

    def _changed(self) -> None:
        if self.life is not None:
            self.life.wishes.waited.set()
        self.waiters.tell()
        self.keeper.changed(self.id)

    def _troubled(self, error: StoreError) -> None:
        self.waiters.fail(error)
        self.waiters.tell()
