"""What the process runtime has of the runs of an earlier daemon: all at once, and again where that is impossible."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from nexus.runtime import Exit, Orphans, Runtime, Watched
from nexus.runtime.status import now_ms
from nexus.store import StoreError
from nexus.supervision.exits import lost
from nexus.supervision.nodes import Runs
from nexus.supervision.requests import RequestPending
from nexus.supervision.supervised import Supervised
from nexus.tasks import cancel_and_wait

__all__ = ["Found", "RecordedRun", "find_run", "find_runs", "wait_until_handled"]

_log = logging.getLogger("nexus.supervision")

_ADOPTED_AT_ONCE = 32
_SETTLE_S = 5.0
"""How long the daemon's start waits until the ends of runs are written."""
_LOOK_AGAIN_S = 1.0

Found = Watched | Exit | Orphans | Exception | None
"""What the process runtime has of a run; an exception is why it cannot be looked at."""


class RecordedRun(NamedTuple):
    """The run that a record knows."""

    owner: str
    run_id: str | None
    runs: Runs | None = None
    """What has it, where that is not the process runtime."""


async def find_runs(runtime: Runtime, runs: Sequence[RecordedRun]) -> list[Found]:
    """What the process runtime has of each run, then the orphans of runs that it has no trace of."""
    gate = asyncio.Semaphore(_ADOPTED_AT_ONCE)

    async def adopt(run: RecordedRun) -> Watched | Exit | Exception | None:
        if run.run_id is None:
            return None
        async with gate:
            try:
                return await (run.runs or runtime).adopt(run.owner, run.run_id)
            except Exception as error:  # it must not keep the others from being adopted
                return error

    found = await asyncio.gather(*(adopt(run) for run in runs))
    lost = {
        run.run_id: run.owner
        for run, each in zip(runs, found, strict=True)
        if each is None and run.run_id is not None and run.runs is None
    }
    try:
        orphans = await runtime.find_orphans(lost)
    except Exception as error:
        return [error if run.run_id in lost else each for run, each in zip(runs, found, strict=True)]
    return [orphans.get(run.run_id or "") if each is None else each for run, each in zip(runs, found, strict=True)]


async def wait_until_handled(handled: Iterable[asyncio.Event]) -> None:
    """Wait until each adopted object is watched or its end is written (``Supervisor.resume``), or five seconds."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_SETTLE_S):
            for event in handled:
                await event.wait()


async def find_run(context: Supervised, error: Exception) -> Watched | Exit | Orphans | None:
    """Look for the run that the record knows until that is possible; ``error`` is why it was not.

    Meanwhile the record says since when the run is unknown; the caller unsets that. It is not taken for ended, and none
    is started. A stop that is requested reaches its shim at once, also while a look waits for a lock.
    """
    run_id = context.run_id
    assert run_id is not None
    owner, name, runtime = context.owner, context.state.name, context.runs
    _log.error("%s (%s): cannot look at its run, trying again: %s", owner, name, error)
    try:
        operation = context.state.cause("adopted")
        await context.state.write(
            None, operation=operation, insist=False, unknown_since=now_ms(), **context.state.unknown_columns(error)
        )
    except StoreError as unwritten:
        _log.warning("%s (%s): %s", owner, name, unwritten.message)
    told = asyncio.Event()
    telling = asyncio.create_task(_stop_when_requested(context, run_id, told))
    try:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN_S):
                    await told.wait()
            told.clear()
            stop = context.requests.stop
            if stop is not None and stop.abandon:
                return lost(stop.reason.text)
            try:
                found = await runtime.adopt(owner, run_id)
                orphans = {} if found is not None else await runtime.find_orphans({run_id: owner})
            except Exception as again:
                if str(again) != str(error):
                    _log.error("%s (%s): cannot look at its run: %s", owner, name, again)
                error = again
                continue
            _log.warning("%s (%s): its run can be looked at again", owner, name)
            return orphans.get(run_id) if found is None else found
    finally:
        await cancel_and_wait(telling)


async def _stop_when_requested(context: Supervised, run_id: str, told: asyncio.Event) -> None:
    """Tell the shim of a run to stop it while that is requested, every second; sets ``told`` each time."""
    requests = context.requests
    while True:
        if requests.stop is not None:
            with contextlib.suppress(OSError):
                await context.runs.stop_unreadable(context.owner, run_id)
            told.set()
        elif not requests.pending:
            with contextlib.suppress(RequestPending):
                await requests.wait()
            continue
        await asyncio.sleep(_LOOK_AGAIN_S)
