"""Runs the process that follows sources of conversations, while any source is followed.

The process outlives the daemon, which finds it again by the files of its run: there is one at most. It is told of a
change of the sources by SIGURG, which does nothing to a process that is only starting, and reads them through the
socket as any client does.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import time
import uuid

from nexus.capability import ManagerContext
from nexus.conversations import import_store
from nexus.runtime import Process, ProcessSpec, RuntimeFailure
from nexus.runtime.inheritance import inherited_environment
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait, wait_until_set

__all__ = ["Follower"]

_log = logging.getLogger("nexus.conversations")

_OWNER = "conversation-follow"
_MODULE = "nexus.conversations.cli.follow"
_MIB = 1024 * 1024
_GRACE_MS = 2000
_RETRY_S = 1.0
_LONGEST_RETRY_S = 60.0
_LONG_S = 60.0
"""A process that ran so long was no failure at its start."""


class Follower:
    """Starts, adopts and ends the process. It is level-triggered: an event only wakes it, and it reads the sources."""

    def __init__(self, context: ManagerContext, version: str) -> None:
        self._context = context
        self._prefix = f"v{version}-"
        """How the ids of runs of this version begin."""
        self._awake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._process: Process | None = None
        self._started = 0.0
        self._retry_s = _RETRY_S
        self._not_before = 0.0
        self.is_needed = False
        """Whether a source is followed."""

    async def start(self) -> None:
        """Find the process of an earlier daemon, and go on with it."""
        self.is_needed = self._context.store.read(import_store.watched_exist)
        try:
            await self._adopt()
        except (RuntimeFailure, OSError) as error:
            _log.warning("cannot look for the process that follows conversations: %s", error)
        self._task = asyncio.create_task(self._work())
        self.wake()

    async def close(self) -> None:
        """Watch the process no more; it goes on."""
        await cancel_and_wait(self._task)
        if self._process is not None:
            self._process.close()

    def wake(self) -> None:
        """The sources may have changed: read them again."""
        self._awake.set()

    async def _adopt(self) -> None:
        runtime = self._context.runtime
        for run_id in await asyncio.to_thread(runtime.runs, _OWNER):
            found = await runtime.adopt(_OWNER, run_id)
            if not isinstance(found, Process):
                runtime.forget(_OWNER, run_id)
            elif self._process is None and run_id.startswith(self._prefix):
                self._take(found)
            else:  # of another version, or one too many
                await found.stop(grace_ms=_GRACE_MS)
                found.close()
                runtime.forget(_OWNER, run_id)

    def _take(self, process: Process) -> None:
        self._process = process
        self._started = time.monotonic()
        process.on_exit(self.wake)

    async def _work(self) -> None:
        await self._context.boot.reconciled()
        while True:
            self._awake.clear()
            left_s: float | None = None
            try:
                left_s = await self._look()
            except (RuntimeFailure, OSError, StoreError) as error:
                _log.warning("cannot follow conversations, trying again: %s", error)
                left_s = self._failed()
            except Exception:
                _log.exception("following conversations failed, trying again")
                left_s = self._failed()
            await wait_until_set(self._awake, left_s)

    def _failed(self) -> float:
        left_s, self._retry_s = self._retry_s, min(2 * self._retry_s, _LONGEST_RETRY_S)
        self._not_before = time.monotonic() + left_s
        return left_s

    async def _look(self) -> float | None:
        """Start, notify or end the process; returns the seconds until the next look, None to wait for an event."""
        self.is_needed = self._context.store.read(import_store.watched_exist)
        process = self._process
        if process is not None and process.exit is not None:
            await process.wait()
            _log.warning("the process that follows conversations ended: %s", process.exit)
            self._end(process)
            if time.monotonic() - self._started >= _LONG_S:
                self._retry_s = _RETRY_S
            self._failed()
            process = None
        if process is not None and not self.is_needed:
            await process.stop(grace_ms=_GRACE_MS)
            self._end(process)
        elif process is not None:
            process.send_signal(signal.SIGURG)
        elif self.is_needed:
            left_s = self._not_before - time.monotonic()
            if left_s > 0:
                return left_s
            await self._start()
        return None

    def _end(self, process: Process) -> None:
        process.close()
        self._context.runtime.forget(_OWNER, process.run_id)
        self._process = None

    async def _start(self) -> None:
        database = str(self._context.store.path)
        spec = ProcessSpec(
            argv=(sys.executable, "-m", _MODULE, database),
            directory="/",
            environment=inherited_environment(),
            log_bytes=_MIB,
        )
        self._take(await self._context.runtime.start(_OWNER, f"{self._prefix}{uuid.uuid4()}", spec))
