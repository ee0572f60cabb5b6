"""The handlers of the commands on events and operations."""

from __future__ import annotations

import asyncio
import functools

from nexus_protocol import InvalidArgument, declared_commands, encode_record
from nexus_protocol.events import declared_causes

from nexus.capability import PAGE_BYTES, Context, Stream, encoded_list, handles
from nexus.hints import command_line
from nexus.journal import operations
from nexus.journal.commands import (
    BeginOperation,
    Event,
    GetOperation,
    ListOperations,
    OperationBegun,
    OperationCursorInvalid,
    OperationDetail,
    OperationNotFound,
    OperationPage,
    WatchEvents,
    WatchEventsResult,
)
from nexus.journal.store import Slice, Watched, last_of_deleted, read_slice
from nexus.records.pages import MAX_PASSED_OVER, decode_cursor, encode_cursor
from nexus.records.scope import ANYWHERE, Scope
from nexus.store import Reader, Transaction
from nexus.streams import Following, daemon_stopping

__all__ = ["begin_operation", "get_operation", "list_operations", "watch_events"]

_BATCH = "Batch"
_PROGRESS_INTERVAL_S = 15.0
_PROGRESS_NUMBERS = 5000
_CHANGES_AT_ONCE = 40
_OPERATIONS_AT_ONCE = 50


@handles(WatchEvents)
async def watch_events(ctx: Context, command: WatchEvents, stream: Stream[Event]) -> WatchEventsResult:
    """Send events as the table has them: a notification only says that reading it again may be worth it."""
    clock = asyncio.get_running_loop().time
    following = Following(
        stream,
        lambda: daemon_stopping(f"Once it runs again, go on after event {after}.", {"resume_after": after}),
    )
    unsubscribe = ctx.store.on_journal(following.notify)
    project = _WatchedProject(ctx)
    try:

        def read_next(reader: Reader, start: int | None) -> Slice:
            scope, until = project.of_next(reader, start)
            return read_slice(reader, start, Watched(command.kinds, command.subject, scope, until))

        def read(start: int | None) -> Slice:
            return ctx.store.read(lambda reader: read_next(reader, start), snapshot=True)

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
            if after < part.newest or project.has_ended(after):
                await asyncio.sleep(0)
                continue
            await following.wait(_PROGRESS_INTERVAL_S if after > sent else None)
    finally:
        unsubscribe()


class _WatchedProject:
    """The project that a stream watches: the one that the request named first, whatever its name is since.

    A folder gets its project at any time, and another one once that is deleted.
    """

    def __init__(self, ctx: Context) -> None:
        self._ctx = ctx
        self._scope: Scope | None = None
        self._until: int | None = None

    def has_ended(self, after: int) -> bool:
        """Whether the project was deleted, and all its events precede the number."""
        return self._until is not None and after >= self._until

    def of_next(self, reader: Reader, after: int | None) -> tuple[Scope, int | None]:
        """Where the next events after a number are of, and up to which number.

        Raises:
            ProjectNotFound: no project has the id or name that the request gives, or it was deleted, and all its events
                precede the number.
        """
        if self._scope is not None and self._scope.project_id is not None:
            self._until = last_of_deleted(reader, self._scope.project_id)
        if self._scope is None or self._scope.is_nowhere or self.has_ended(after or 0):
            self._scope, self._until = _scope_of_history(self._ctx, reader), None
        return self._scope, self._until


def _scope_of_history(ctx: Context, reader: Reader) -> Scope:
    """What happened anywhere, where the request names no project: an event may be of none."""
    return ANYWHERE if ctx.request.project is None else ctx.scope(reader)


@handles(GetOperation)
async def get_operation(ctx: Context, command: GetOperation) -> OperationDetail:
    operation = await ctx.store.fetch(lambda reader: operations.find_operation(reader, command.id))
    if operation is None:
        raise OperationNotFound(
            f"operation {command.id} not found",
            hint="It may be older than the setting journal.keep_days. List those that are kept: "
            + command_line("nexusctl", "op", "list"),
            details={"operation": command.id},
        )
    bound = ("operation", command.id)
    after = 0
    if command.cursor is not None:
        hint = "Give one of this operation."
        after = decode_cursor(command.cursor, bound, tuple[int], OperationCursorInvalid, hint)[0]
    changes, follows = await _changes(ctx, command.id, after, command.limit)
    cause = None
    if operation.cause is not None:
        cause = await ctx.store.fetch(functools.partial(operations.find_operation, id_=operation.cause))
    return OperationDetail(
        operation,
        encoded_list([data for _seq, data in changes]),
        cause,
        await ctx.store.fetch(lambda reader: operations.caused_by(reader, command.id)),
        encode_cursor(bound, (changes[-1][0],)) if follows else None,
    )


async def _changes(ctx: Context, id_: int, after: int, limit: int) -> tuple[list[tuple[int, bytes]], bool]:
    """The encoded events of a page with their numbers, and whether more follow."""
    found: list[tuple[int, bytes]] = []
    size = 0
    while True:
        part = await ctx.store.fetch(
            functools.partial(operations.changes_of, id_=id_, after=after, count=_CHANGES_AT_ONCE)
        )
        for change in part:
            data = encode_record(change)
            if len(found) == limit or (found and size + len(data) > PAGE_BYTES):
                return found, True
            found.append((change.seq, data))
            size += len(data)
        if len(part) < _CHANGES_AT_ONCE:
            return found, False
        after = part[-1].seq
        await asyncio.sleep(0)


@handles(ListOperations)
async def list_operations(ctx: Context, command: ListOperations) -> OperationPage:
    scope = await ctx.store.fetch(functools.partial(_scope_of_history, ctx))
    if scope.is_nowhere and command.subject is None:
        return OperationPage([])
    parts = command.parts or command.command is not None or command.subject is not None
    wanted = operations.Wanted(
        command.actor, command.command, command.subject, command.since_at, scope.project_id, scope.root, parts
    )
    bound = ("operations", *wanted)
    lowest, highest = await ctx.store.fetch(operations.bounds)
    below = highest + 1
    if command.cursor is not None:
        hint = "Give the same filters as for the first page, or list from the start."
        below = decode_cursor(command.cursor, bound, tuple[int], OperationCursorInvalid, hint)[0]
    found: list[bytes] = []
    size = passed_over = 0
    while below > lowest and passed_over < MAX_PASSED_OVER:
        part, window_start = await ctx.store.fetch(
            functools.partial(operations.list_operations, below=below, wanted=wanted, limit=_OPERATIONS_AT_ONCE)
        )
        for operation in part:
            data = encode_record(operation)
            if len(found) == command.limit or (found and size + len(data) > PAGE_BYTES):
                return OperationPage(encoded_list(found), encode_cursor(bound, (below,)))
            found.append(data)
            size += len(data)
            below = operation.id
        if len(part) < _OPERATIONS_AT_ONCE:
            passed_over += operations.WINDOW - len(part)
            below = window_start
        await asyncio.sleep(0)
    return OperationPage(encoded_list(found), encode_cursor(bound, (below,)) if below > lowest else None)


@handles(BeginOperation)
def begin_operation(tx: Transaction, ctx: Context, command: BeginOperation) -> OperationBegun:
    operation = ctx.operation
    if operation.command == _BATCH:
        raise InvalidArgument(
            "cannot carry out BeginOperation in a batch: the batch is an operation itself", details={"path": "code"}
        )
    if command.command in {info.name for info in declared_commands()} | {cause.name for cause in declared_causes()}:
        raise InvalidArgument(
            f"cannot begin an operation {command.command}: that is the name of a command or a cause",
            hint="Give it a name of its own.",
            details={"path": "command"},
        )
    operation.command, operation.args = command.command, command.args
    return OperationBegun(operation.enter(tx))
