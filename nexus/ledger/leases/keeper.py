"""Keeps the time of leases: what renews them, when they expire, and what then stops.

The time is that of this daemon alone, by the monotonic clock: a lease loses no time to a clock that jumps, to a
suspended machine or to a daemon that does not run. At its start every live lease gets its whole time again.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable

from nexus_protocol.context import HeldLease
from nexus_protocol.errors import NexusError

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation
from nexus.ledger.agents.store import touch
from nexus.ledger.leases.records import Lease
from nexus.ledger.leases.store import LEASES, end, live_lease, live_leases, put_back
from nexus.ledger.states import LeaseState, OnLost
from nexus.runtime.status import process_lives, process_start
from nexus.store import Reader, StoreError, Transaction
from nexus.tasks import BackgroundTasks, cancel_and_wait, wait_until_set

__all__ = ["LeaseManager"]

_log = logging.getLogger("nexus.ledger")

CAUSE = "lease.expired"
JOB_CAUSE = "lease.job_ended"
_TICK_S = 1.0
"""The longest that the timer sleeps while a lease is live, so that it notices when the daemon was stalled."""
_LATE_S = 0.1
"""A timer that is later than this was stalled, as the requests that would have renewed a lease were."""
_RETRY_S = 1.0
_LOST = frozenset({LeaseState.EXPIRED, LeaseState.REVOKED})


class _Held:
    """A live lease in memory."""

    __slots__ = ("deadline", "lease", "noted_at")

    def __init__(self, lease: Lease, now: float) -> None:
        self.lease = lease
        self.deadline = now + lease.ttl_ms / 1000
        self.noted_at = now
        """When ``renewed_at`` was last written."""


class LeaseManager:
    """The live leases of one daemon."""

    def __init__(self, context: ManagerContext, clock: Callable[[], float] = time.monotonic) -> None:
        self._context = context
        self._store = context.store
        self._clock = clock
        self._held: dict[str, _Held] = {}
        """By the ids of the leases."""
        self._on: dict[tuple[str, str], str] = {}
        """The id of the live lease on each resource that has one."""
        self._changed = asyncio.Event()
        """Set where the timer is to look again."""
        self._timer: asyncio.Task[None] | None = None
        self._tasks = BackgroundTasks("leases", _log)
        context.leases.register(self)

    # The daemon's start and end

    async def start(self) -> None:
        """Give every live lease its whole time, after those are revoked that an older database has still."""
        revoked = await self._store.write(lambda tx: put_back(tx, self._context.caller, CAUSE))
        if revoked:
            _log.warning("an older database was put back: %d leases of it are over", len(revoked))
        self._store.on_fences(self._look)
        for lease in self._store.read(live_leases):
            self._hold(lease)
        self._timer = asyncio.create_task(self._run())
        self._tasks.spawn(self._stop_what_was_lost())

    async def close(self) -> None:
        """Stop the time."""
        await cancel_and_wait(self._timer, *self._tasks)

    def children(self) -> int:
        """None: a lease is no process. One that is live is not renewed while no daemon runs."""
        return 0

    # What renews

    def presented(self, lease: HeldLease) -> None:
        """As ``LeaseKeeper``."""
        held = self._held.get(lease.id)
        if held is not None and held.lease.epoch == lease.epoch:
            self._renew(held)

    def renewed(self, lease: Lease) -> None:
        """A lease was renewed, and perhaps changed, by a command."""
        held = self._held.get(lease.id)
        if held is None:
            return
        held.lease = lease
        held.deadline = self._clock() + lease.ttl_ms / 1000
        self._note_process(lease)
        self._changed.set()
        if lease.job_id is not None:
            self._release_after_job(held)  # it may have ended before the lease named it

    def _renew(self, held: _Held) -> None:
        now = self._clock()
        ttl_s = held.lease.ttl_ms / 1000
        held.deadline = now + ttl_s
        if now - held.noted_at >= ttl_s / 4:
            held.noted_at = now
            self._tasks.spawn(self._note_renewal(held.lease.id))

    async def _note_renewal(self, lease_id: str) -> None:
        operation = self._context.cause(CAUSE)

        def note(tx: Transaction) -> None:
            lease = LEASES.write(tx, operation, lease_id, {"renewed_at": tx.now})
            if lease is not None:
                touch(tx, lease.holder)

        try:
            await self._store.write(note)
        except StoreError as error:
            _log.debug("when lease %s was renewed is not noted: %s", lease_id, error.message)

    def _note_process(self, lease: Lease) -> None:
        """Note when the process that renews a lease began: its pid alone may become another one's."""
        if lease.pid is None or lease.pid_start is not None:
            return
        try:
            began = process_start(lease.pid)
        except OSError:
            return
        if began is not None and (held := self._held.get(lease.id)) is not None:
            self._tasks.spawn(self._write_process(held, began))

    async def _write_process(self, held: _Held, began: int) -> None:
        operation = self._context.cause(CAUSE)
        try:
            lease = await self._store.write(lambda tx: LEASES.write(tx, operation, held.lease.id, {"pid_start": began}))
        except StoreError as error:
            _log.warning("the process of lease %s is not noted: %s", held.lease.id, error.message)
            return
        held.lease = lease or held.lease

    def _is_kept(self, lease: Lease) -> bool:
        """Whether the process or the job of a lease keeps it."""
        return self._has_open_job(lease) or self._has_process(lease)

    def _has_open_job(self, lease: Lease) -> bool:
        job_id = lease.job_id
        if job_id is None:
            return False
        return self._store.read(lambda reader: self._context.leases.end_of_job(reader, job_id)) is None

    def _has_process(self, lease: Lease) -> bool:
        if lease.pid is None or lease.pid_start is None or lease.boot_id != self._context.boot.id:
            return False
        try:
            return process_lives(lease.pid, lease.pid_start)
        except OSError:
            return True  # it cannot be looked at: no proof that it is gone

    # The job that renews one

    def job_ended(self, job_id: str) -> None:
        """As ``LeaseKeeper``: what the job was started for is given back, unless the job has ended it."""
        for held in list(self._held.values()):
            if held.lease.job_id == job_id:
                self._release_after_job(held)

    def _release_after_job(self, held: _Held) -> None:
        if not self._is_kept(held.lease):
            self._tasks.spawn(self._release(held.lease))

    async def _release(self, lease: Lease) -> None:
        operation = self._context.cause(JOB_CAUSE)

        def release(tx: Transaction) -> None:
            present = LEASES.by_id(tx, lease.id)
            if present is None or present.state is not LeaseState.LIVE or present.job_id is None:
                return
            told = self._context.leases.end_of_job(tx, present.job_id)
            if told is not None and present.job_id == lease.job_id:
                end(tx, operation, present, LeaseState.RELEASED, told)

        try:
            await self._store.write(release)
        except StoreError as error:
            _log.warning("lease %s is not given back, and expires: %s", lease.id, error.message)

    # The time

    def _hold(self, lease: Lease) -> None:
        self._held[lease.id] = _Held(lease, self._clock())
        self._on[lease.resource_kind, lease.resource_id] = lease.id
        self._note_process(lease)

    def _look(self, resources: set[tuple[str, str]]) -> None:
        """Take over which leases on these resources are live."""
        for resource in resources:
            live = self._store.read(lambda reader, resource=resource: live_lease(reader, *resource))  # type: ignore[misc]
            before = self._on.get(resource)
            if before is not None and (live is None or live.id != before):
                del self._held[before], self._on[resource]
                ended = self._store.read(lambda reader, before=before: LEASES.by_id(reader, before))  # type: ignore[misc]
                if ended is not None:
                    self._lost(ended)
            if live is not None and live.id not in self._held:
                self._hold(live)
        self._changed.set()

    async def _run(self) -> None:
        while True:
            self._changed.clear()
            now = self._clock()
            wait_s = None
            if self._held:
                wait_s = max(0.0, min(_TICK_S, min(held.deadline for held in self._held.values()) - now))
            await wait_until_set(self._changed, wait_s)
            if wait_s is None:
                continue
            late_s = self._clock() - now - wait_s
            if late_s > _LATE_S:
                for held in self._held.values():
                    held.deadline += late_s
            try:
                await self._expire()
            except StoreError as error:
                _log.warning("a lease that is not renewed cannot be ended, trying again: %s", error.message)
                await asyncio.sleep(_RETRY_S)

    async def _expire(self) -> None:
        now = self._clock()
        for held in [held for held in self._held.values() if held.deadline <= now]:
            if self._is_kept(held.lease):
                self._renew(held)
                continue
            operation = self._context.cause(CAUSE)
            await self._store.write(functools.partial(self._end, operation=operation, held=held))

    def _end(self, tx: Transaction, operation: Operation, held: _Held) -> None:
        lease = LEASES.by_id(tx, held.lease.id)
        if lease is None or lease.state is not LeaseState.LIVE or held.deadline > self._clock():
            return  # it was renewed or ended meanwhile
        end(tx, operation, lease, LeaseState.EXPIRED, f"not renewed for {lease.ttl_ms / 1000:g} seconds")

    # What is lost

    def _lost(self, lease: Lease) -> None:
        if lease.state in _LOST and lease.on_lost is OnLost.STOP:
            self._tasks.spawn(self._stop(lease))

    async def _stop(self, lease: Lease) -> None:
        """Stop all that was begun under a lease."""
        reason = f"its lease {'has expired' if lease.state is LeaseState.EXPIRED else 'was revoked'}"
        operation = self._context.cause(CAUSE)
        for carrier in self._context.leases.carriers:
            try:
                await carrier.lost(lease.id, reason, operation)
            except NexusError as error:
                _log.warning("what runs under lease %s was not stopped: %s", lease.id, error.message)

    async def _stop_what_was_lost(self) -> None:
        """Stop what an earlier daemon did not stop any more, once all that runs is adopted."""
        await self._context.boot.reconciled()
        for held in [held for held in self._held.values() if held.lease.job_id is not None]:
            self._release_after_job(held)

        def read(reader: Reader) -> list[Lease]:
            ids = {id_ for carrier in self._context.leases.carriers for id_ in carrier.carried(reader)}
            return [lease for id_ in sorted(ids) if (lease := LEASES.by_id(reader, id_)) is not None]

        for lease in self._store.read(read, snapshot=True):
            self._lost(lease)
