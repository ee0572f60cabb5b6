"""Makes backups of the database without being asked, as often as the setting ``backup.every`` says.

What counts is the time in the name of the newest backup, so a restart changes nothing. A backup whose time is in the
future is looked at as if it were not there, and after a backup the next one waits for the whole time by the clock of
the boot: neither a clock set forward nor one set back stops backups, or makes one after the other.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import NamedTuple

from nexus_protocol import NexusError

from nexus.capability import ManagerContext
from nexus.journal.store import bounds
from nexus.runtime.status import boot_clock_ms
from nexus.store import BackupAt, BackupOptions, DiskFull, StoreError
from nexus.system.settings import KNOWN, time_of, validate
from nexus.tasks import cancel_and_wait, wait_until_set

__all__ = ["BackupManager", "make_manager"]

_log = logging.getLogger("nexus.backup")

FIRST_LOOK_S = 60.0
"""A daemon that is started again and again makes no backup each time."""
_LOOK_EVERY_S = 60.0
_FIRST_RETRY_S = 60.0
_LAST_RETRY_S = 3600.0


class _Newest(NamedTuple):
    """What is known of the newest backup."""

    at: int
    last_event: int | None


class BackupManager:
    """The backups that one daemon makes by itself."""

    def __init__(self, context: ManagerContext) -> None:
        self._context = context
        self._store = context.store
        self._task: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._working = False
        self._made_at: int | None = None
        """When this daemon has made a backup by itself (clock of the boot, ms)."""
        self._newest: _Newest | None = None
        self._failures = 0
        self._problem: str | None = None
        self._retry_at = 0.0

    async def start(self) -> None:
        """Begin to look, a minute later for the first time."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """Stop looking. A backup that has begun is left behind unfinished, and deleted by the next one."""
        await cancel_and_wait(self._task)

    def children(self) -> int:
        """It has no processes. A backup that is being made keeps the daemon from being idle."""
        return int(self._working)

    def look_now(self) -> None:
        """Look at once, because a setting was changed; also where the last attempt has failed."""
        self._retry_at = 0.0
        self._wake.set()

    def health(self) -> tuple[str, str]:
        """The status of the backups, ok or degraded, and a sentence."""
        if self._every_ms() is None:
            return "ok", "backups are off: the setting backup.every"
        if self._problem is not None:
            wait = max(0, round((self._retry_at - time.monotonic()) / 60))
            return "degraded", f"{self._problem}; the next attempt is in {wait} min"
        if self._newest is None:
            return "ok", "no backup was made yet"
        at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self._newest.at / 1000))
        return "ok", f"the newest backup is of {at}"

    async def _work(self) -> None:
        wait_s = FIRST_LOOK_S
        while True:
            await wait_until_set(self._wake, wait_s)
            self._wake.clear()
            wait_s = _LOOK_EVERY_S
            try:
                await self._look()
            except Exception as error:
                if isinstance(error, NexusError):
                    _log.warning("no backup was made: %s", error.message)
                    self._failed(error.message)
                else:
                    _log.exception("no backup was made")
                    self._failed("cannot back up the database: an internal error, which is in the log")

    def _failed(self, problem: str) -> None:
        self._problem = problem
        self._retry_at = time.monotonic() + min(_FIRST_RETRY_S * 2**self._failures, _LAST_RETRY_S)
        self._failures += 1

    async def _look(self) -> None:
        every_ms = self._every_ms()
        now = self._context.boot.trusted_now_ms()
        try:
            newest = await asyncio.to_thread(self._store.newest_backup, now)
        except StoreError:
            if time.monotonic() < self._retry_at:
                return
            raise
        self._newest = newest and _Newest(newest.at, newest.last_event)
        if every_ms is None or not self._is_due(every_ms, now, newest):
            self._failures, self._problem = 0, None  # also where a client has made a backup since
            return
        if time.monotonic() < self._retry_at:
            return
        problem = self._store.problem()
        if problem is not None and not isinstance(problem, DiskFull):
            raise problem  # a database that was replaced is backed up on request alone
        self._working = True
        try:
            options = BackupOptions(self._context.setting("backup.keep_days"), now_ms=now, dated_ms=now)
            # Not to be waited for when the daemon ends: the next backup deletes what an unfinished one leaves.
            info = await asyncio.to_thread(self._store.backup_now, None, options)
        finally:
            self._working = False
        self._made_at = boot_clock_ms()
        self._failures, self._problem = 0, None
        _log.info("backed up the database to %s (%d bytes)", info.path, info.size_bytes)
        self._newest = _Newest(now, None)

    def _is_due(self, every_ms: int, now: int, newest: BackupAt | None) -> bool:
        """Whether a backup is to be made: the newest is old, and the journal has grown since."""
        if self._made_at is not None and boot_clock_ms() - self._made_at < every_ms:
            return False
        if newest is not None and now - newest.at < every_ms:
            return False
        _pruned, last_event = self._store.read(bounds)
        return last_event > 0 if newest is None else last_event != newest.last_event

    def _every_ms(self) -> int | None:
        """How long after a backup the next one is due; None for never."""
        value = self._context.setting("backup.every")
        try:
            validate("backup.every", value)
        except NexusError as error:
            # Another program wrote the value.
            _log.warning("%s; the default is used", error.message)
            value = KNOWN["backup.every"].default
        return time_of(value)


def make_manager(context: ManagerContext) -> BackupManager:
    """Make the manager of a daemon."""
    return BackupManager(context)
