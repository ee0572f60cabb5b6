"""Carries out the commands of a ``Batch`` in one transaction."""

from __future__ import annotations

import asyncio
from typing import Any

from msgspec import Raw
from nexus_protocol import Command, InvalidArgument, NexusError, UnknownCommand, encode_record

from nexus.capability import Change, Context
from nexus.store import Transaction
from nexus.system.commands import Batch, BatchedCommand, BatchResult

__all__ = ["carry_out"]

_DECODED_AT_ONCE = 50


async def carry_out(ctx: Context, batch: Batch) -> BatchResult:
    """Decode every command and ask the plugins, then carry out all in one write.

    Raises:
        NexusError: the first error of a command, with ``details.index``. Nothing is changed.
    """
    prepared: list[tuple[Change, Command[Any]]] = []
    for index, given in enumerate(batch.commands):
        try:
            prepared.append(_prepare(ctx, given))
        except NexusError as error:
            raise _of_command(error, index, len(batch.commands)) from None
        if index % _DECODED_AT_ONCE == 0:
            await asyncio.sleep(0)
    for index, (change, command) in enumerate(prepared):
        try:
            await ctx.daemon.ask_hooks(change.info, command, ctx.caller)
        except NexusError as error:
            raise _of_command(error, index, len(prepared)) from None

    def write(tx: Transaction) -> list[Any]:
        replies = []
        for index, (change, command) in enumerate(prepared):
            try:
                replies.append(change.fn(tx, ctx, command))
            except NexusError as error:
                raise _of_command(error, index, len(prepared)) from None
        return replies

    size_bytes = sum(change.size_bytes(command) for change, command in prepared)
    replies = await ctx.store.write(write, size_bytes=size_bytes)
    for (change, _), reply in zip(prepared, replies, strict=True):
        if change.after is not None:
            change.after(ctx, reply)
    return BatchResult([Raw(encode_record(reply)) for reply in replies])


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
