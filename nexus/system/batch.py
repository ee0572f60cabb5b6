"""Carries out the commands of a ``Batch`` in one transaction."""

from __future__ import annotations

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from msgspec import Raw
from nexus_protocol import (
    MAX_PAYLOAD,
    Command,
    InvalidArgument,
    NexusError,
    ResourceExhausted,
    UnknownCommand,
    encode_record,
)
from nexus_protocol.context import ProjectRoot

from nexus.capability import Change, Context
from nexus.journal.keys import canonical, has_secrets, under_key
from nexus.records.leases import check_lease
from nexus.records.scope import scope_of
from nexus.store import Reader, Transaction
from nexus.system.commands import Batch, BatchedCommand, BatchResult
from nexus.tasks import uninterrupted

__all__ = ["carry_out"]

_TURN_S = 0.002
_RESULTS_BYTES = MAX_PAYLOAD - 64
"""Of all encoded replies together; the rest of the frame is the map around them."""


async def carry_out(ctx: Context, batch: Batch) -> BatchResult | Raw:
    """Decode every command and ask the plugins, then carry out all in one write.

    Raises:
        NexusError: the first error of a command, with ``details.index``. Nothing is changed.
        ResourceExhausted: the replies are larger than a frame may be. Nothing is changed.
    """
    count = len(batch.commands)
    prepared: list[tuple[Change, Command[Any]]] = []
    turns = _Turns()
    for index, given in enumerate(batch.commands):
        try:
            prepared.append(_prepare(ctx, given))
        except NexusError as error:
            raise _of_command(error, index, count) from None
        await turns.end()
    for index, (change, command) in enumerate(prepared):
        try:
            await ctx.daemon.ask_hooks(change.info, command, ctx.caller)
        except NexusError as error:
            raise _of_command(error, index, count) from None
        await turns.end()

    operation = ctx.operation
    operation.args = {"commands": Counter(change.info.name for change, _command in prepared)}
    if operation.key is not None:
        operation.key = operation.key._replace(content=functools.partial(_content, prepared, ctx.request.project))
    afters: list[tuple[Callable[[Context, Any], None], Any]] = []
    confidential = False

    def change_all(tx: Transaction) -> BatchResult:
        # The replies are encoded here: one that does not fit into the frame undoes the batch.
        nonlocal confidential
        results, size, confidential = [], 0, False
        afters.clear()
        if ctx.request.lease is not None:
            check_lease(tx, ctx.request.lease)
        for index, (change, command) in enumerate(prepared):
            try:
                reply = change.fn(tx, ctx, command)
                results.append(Raw(encode_record(reply)))
                size += len(results[-1])
                if size > _RESULTS_BYTES:
                    raise ResourceExhausted(
                        f"cannot carry out the batch: its replies exceed {_RESULTS_BYTES} bytes",
                        hint="Divide it into several.",
                        details={"limit": _RESULTS_BYTES},
                    )
            except NexusError as error:
                raise _of_command(error, index, count) from None
            confidential = confidential or has_secrets(reply)
            if change.after is not None:
                afters.append((change.after, reply))
        return BatchResult(results)

    def write(tx: Transaction) -> tuple[BatchResult | Raw, bool]:
        return under_key(tx, operation, lambda: change_all(tx), is_secret=lambda _reply: confidential)

    size_bytes = sum(change.size_bytes(command) for change, command in prepared)
    result, repeated = await ctx.store.write(write, size_bytes=size_bytes)
    if afters and not repeated:
        await uninterrupted(_follow(ctx, afters))
    return result


def _content(prepared: list[tuple[Change, Command[Any]]], project: str | ProjectRoot | None, reader: Reader) -> bytes:
    """The canonical encoding of a batch, which does not depend on how its commands were encoded."""
    in_project = any(change.info.in_project for change, _command in prepared)
    project_id = scope_of(reader, project).project_id if in_project else None
    return canonical([project_id, [(change.info.code, command) for change, command in prepared]])


async def _follow(ctx: Context, afters: list[tuple[Callable[[Context, Any], None], Any]]) -> None:
    turns = _Turns()
    for after, reply in afters:
        after(ctx, reply)
        await turns.end()


class _Turns:
    """Divides work in the event loop into turns of some 2 ms."""

    def __init__(self) -> None:
        self._ends_at = time.monotonic() + _TURN_S

    async def end(self) -> None:
        """Give the loop to other tasks, if the turn is over."""
        if time.monotonic() >= self._ends_at:
            await asyncio.sleep(0)
            self._ends_at = time.monotonic() + _TURN_S


def _prepare(ctx: Context, given: BatchedCommand) -> tuple[Change, Command[Any]]:
    info = ctx.daemon.command(given.code)
    if info is None:
        raise UnknownCommand(f"cannot carry out command {given.code}: there is no such command here")
    change = ctx.daemon.change(given.code)
    if change is None:
        reason = "a batch cannot be a part of another" if info.request is Batch else f"its effect is {info.effect}"
        raise InvalidArgument(f"cannot carry out {info.name} in a batch: {reason}", details={"path": "code"})
    payload, limit = bytes(given.payload), ctx.daemon.payload_limit(given.code)
    if len(payload) > limit:
        raise InvalidArgument(
            f"cannot accept a payload of {len(payload)} bytes for {info.name}: the limit is {limit}",
            details={"path": "payload", "limit": limit},
        )
    return change, change.decode(payload)


def _of_command(error: NexusError, index: int, count: int) -> NexusError:
    if count > 1:
        error.message = f"{error.message} (command {index + 1} of {count} in the batch)"
    error.details = {**error.details, "index": index}
    return error
