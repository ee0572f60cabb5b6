"""The handler of WatchEvents."""

from __future__ import annotations

import asyncio
import contextlib

from nexus_protocol import Unavailable

from nexus.capability import Context, Stream, handles
from nexus.journal.commands import Event, WatchEvents, WatchEventsResult
from nexus.journal.store import Slice, Watched, read_slice

__all__ = ["watch_events"]

_PROGRESS_INTERVAL_S = 15.0
_PROGRESS_NUMBERS = 5000


@handles(WatchEvents)
async def watch_events(ctx: Context, command: WatchEvents, stream: Stream[Event]) -> WatchEventsResult:
    """Only the table tells what to send; a wake-up merely says that looking again may be worth it."""
    watched = Watched(command.kinds, command.subject)
    clock = asyncio.get_running_loop().time
    wake = asyncio.Event()
    unsubscribe = ctx.store.on_journal(wake.set)
    stream.on_draining(wake.set)
    try:

        def look(start: int | None) -> Slice:
            return ctx.store.read(lambda reader: read_slice(reader, start, watched), snapshot=True)

        first = look(command.after)
        after = command.after if command.after is not None else first.start
        told, told_at = after, clock()
        while True:
            await stream.ready()
            wake.clear()
            part = look(after)
            for event in part.events:
                await stream.send(event)
                told, told_at = event.seq, clock()
            after = part.seq
            if not command.follow and after >= first.newest:
                return WatchEventsResult(after)
            if stream.draining:
                raise Unavailable(
                    "the daemon is stopping",
                    hint=f"Once it runs again, go on after event {after}.",
                    details={"resume_after": after},
                )
            # A filter may pass nothing for a long time; the watcher's cursor must not grow too old meanwhile.
            if after - told >= _PROGRESS_NUMBERS or (after > told and clock() - told_at >= _PROGRESS_INTERVAL_S):
                await stream.send(Event(after))
                told, told_at = after, clock()
            if after < part.newest:
                await asyncio.sleep(0)
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PROGRESS_INTERVAL_S if after > told else None):
                    await wake.wait()
    finally:
        unsubscribe()
