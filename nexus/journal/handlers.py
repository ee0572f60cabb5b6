"""The handler of WatchEvents."""

from __future__ import annotations

import asyncio

from nexus.capability import Context, Stream, handles
from nexus.journal.commands import Event, WatchEvents, WatchEventsResult
from nexus.journal.store import Slice, Watched, read_slice
from nexus.streams import Following, daemon_stopping

__all__ = ["watch_events"]

_PROGRESS_INTERVAL_S = 15.0
_PROGRESS_NUMBERS = 5000


@handles(WatchEvents)
async def watch_events(ctx: Context, command: WatchEvents, stream: Stream[Event]) -> WatchEventsResult:
    """Send events as the table has them: a notification only says that reading it again may be worth it."""
    watched = Watched(command.kinds, command.subject)
    clock = asyncio.get_running_loop().time
    following = Following(
        stream,
        lambda: daemon_stopping(f"Once it runs again, go on after event {after}.", {"resume_after": after}),
    )
    unsubscribe = ctx.store.on_journal(following.notify)
    try:

        def read(start: int | None) -> Slice:
            return ctx.store.read(lambda reader: read_slice(reader, start, watched), snapshot=True)

        first = read(command.after)
        after = command.after if command.after is not None else first.start
        sent, sent_at = after, clock()
        while True:
            await following.ready()
            part = read(after)
            for event in part.events:
                await stream.send(event)
                sent, sent_at = event.seq, clock()
            after = part.seq
            if not command.follow and after >= first.newest:
                return WatchEventsResult(after)
            following.check_draining()
            # A filter may pass nothing for a long time. The watcher's cursor must not become older than the oldest
            # event that is kept, so an item without an event moves it.
            if after - sent >= _PROGRESS_NUMBERS or (after > sent and clock() - sent_at >= _PROGRESS_INTERVAL_S):
                await stream.send(Event(after))
                sent, sent_at = after, clock()
            if after < part.newest:
                await asyncio.sleep(0)
                continue
            await following.wait(_PROGRESS_INTERVAL_S if after > sent else None)
    finally:
        unsubscribe()
