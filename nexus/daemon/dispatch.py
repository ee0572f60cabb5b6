"""The dispatch table: from the code of a command to its decoder and its handler.

It knows the registry of commands and the handlers of all capabilities, and no sockets.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, NamedTuple

from nexus_protocol import DEFAULT_MAX_PAYLOAD, Command, CommandInfo, Effect, command_decoder
from nexus_protocol.command import declared_commands

from nexus.capabilities import CAPABILITIES
from nexus.capability import Change, Context, Counted, Handler, Manager, ManagerContext, Stream, collect_handlers
from nexus.journal.keys import OpenRequests, under_key
from nexus.records.leases import check_lease
from nexus.store import Transaction

__all__ = ["Dispatch", "Entry", "load_capabilities", "make_managers"]


class Entry(NamedTuple):
    """How the daemon carries out one command."""

    info: CommandInfo
    decode: Callable[[bytes], Command[Any]]
    fn: Callable[..., Any]
    """Called with the context, the command, and for a stream the stream."""
    waits: bool
    """Whether ``fn`` is a coroutine function."""
    streams: bool
    hookable: bool
    """Whether the hooks of plugins run before it."""


_NEVER_HOOKED = frozenset({"Hello", "Ping", "Health", "Describe", "Shutdown", "ListPlugins", "ReloadPlugins", "Batch"})
"""Commands that no plugin can block, so that a client can always examine and stop the daemon and its plugins.

Of a batch each command is asked for.
"""


class Dispatch:
    """The entries by code, and the payload limit of each."""

    def __init__(
        self,
        handlers: Iterable[Handler],
        counted: dict[str, Counted] | None = None,
    ) -> None:
        self.counted = counted or {}
        self.entries: dict[int, Entry] = {}
        self._open_requests = OpenRequests()
        self.changes: dict[int, Change] = {}
        """The commands that can be a part of a larger transaction."""
        for handler in handlers:
            info = handler.info
            if info.code in self.entries:
                raise ValueError(f"{info.name} has two handlers")
            streams, hookable = info.item is not None, info.name not in _NEVER_HOOKED
            fn, decode = handler.fn, command_decoder(info)
            if info.effect is Effect.CHANGE and not inspect.iscoroutinefunction(fn):
                self.changes[info.code] = Change(info, decode, fn, handler.after, handler.size_bytes)
                fn = _writing(handler, self._open_requests)
            elif info.effect is Effect.CHANGE:
                fn = _changing(fn, self._open_requests)
            elif info.effect is Effect.ACT:
                fn = _streaming(fn) if streams else _acting(handler, self._open_requests)
            waits = inspect.iscoroutinefunction(fn)
            self.entries[info.code] = Entry(info, decode, fn, waits, streams, hookable)
        self.input_commands = frozenset(code for code, entry in self.entries.items() if entry.info.takes_input)
        self._declared_limits = {
            code: entry.info.max_payload
            for code, entry in self.entries.items()
            if entry.info.max_payload != DEFAULT_MAX_PAYLOAD
        }

    def commands(self) -> list[CommandInfo]:
        """Every command that has a handler, by code."""
        return [self.entries[code].info for code in sorted(self.entries)]

    def payload_limit(self, default: int, highest: int) -> Callable[[int], int]:
        """Make a function from a code to its payload limit: the declared one, else ``default``, at most ``highest``."""
        limits = {code: min(limit, highest) for code, limit in self._declared_limits.items()}
        default = min(default, highest)
        return lambda command: limits.get(command, default)


def _writing(
    handler: Handler, open_requests: OpenRequests
) -> Callable[[Context, Command[Any]], Coroutine[Any, Any, Any]]:
    """Make the handler of a change open the one write."""
    change, after, size_bytes = handler.fn, handler.after, handler.size_bytes

    def carry_out_now(tx: Transaction, ctx: Context, command: Command[Any]) -> Any:
        # Before anything that the command asks for: a stale holder is told that, whatever else is wrong.
        if ctx.request.lease is not None:
            check_lease(tx, ctx.request.lease)
        return change(tx, ctx, command)

    async def carry_out(ctx: Context, command: Command[Any]) -> Any:
        operation = ctx.operation

        def write(tx: Transaction) -> tuple[Any, bool]:
            return under_key(tx, operation, lambda: carry_out_now(tx, ctx, command))

        with open_requests.change(operation.key):
            reply, repeated = await ctx.store.write(write, size_bytes=size_bytes(command))
        if after is not None and not repeated:
            after(ctx, reply)
        return reply

    return carry_out


def _changing(fn: Callable[..., Any], open_requests: OpenRequests) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Make the handler of a change that opens its write itself hold the key of its request."""

    async def carry_out(ctx: Context, command: Command[Any]) -> Any:
        with open_requests.change(ctx.operation.key):
            return await fn(ctx, command)

    return carry_out


def _acting(handler: Handler, open_requests: OpenRequests) -> Callable[..., Any]:
    """Make the handler of an act honour the key of its request."""
    fn, repeat = handler.fn, handler.info.repeat
    assert repeat is not None
    waits = inspect.iscoroutinefunction(fn)

    async def act(ctx: Context, command: Command[Any]) -> Any:
        await _check_lease(ctx)
        return await fn(ctx, command) if waits else fn(ctx, command)

    async def carry_out(ctx: Context, command: Command[Any]) -> Any:
        if ctx.operation.key is None:
            return await act(ctx, command)
        return await open_requests.act(ctx.store, ctx.operation, repeat, lambda: act(ctx, command))

    return carry_out


def _streaming(fn: Callable[..., Any]) -> Callable[..., Any]:
    """Make a stream that acts refuse a request whose lease is not live."""

    async def carry_out(ctx: Context, command: Command[Any], stream: Stream[Any]) -> Any:
        await _check_lease(ctx)
        return await fn(ctx, command, stream)

    return carry_out


async def _check_lease(ctx: Context) -> None:
    lease = ctx.request.lease
    if lease is not None:
        await ctx.store.fetch(lambda reader: check_lease(reader, lease))


def load_capabilities() -> Dispatch:
    """Import the handlers of all capabilities.

    Raises:
        RuntimeError: a declared command has no handler.
    """
    handlers: list[Handler] = []
    counted: dict[str, Counted] = {}
    for capability in CAPABILITIES:
        module = importlib.import_module(f"nexus.{capability.name}.handlers")
        handlers += collect_handlers(module)
        if hasattr(module, "COUNTED"):
            counted[capability.name] = module.COUNTED
    dispatch = Dispatch(handlers, counted)
    missing = [info.name for info in declared_commands() if info.code not in dispatch.entries]
    if missing:
        raise RuntimeError(f"no handler for {', '.join(missing)}")
    return dispatch


def make_managers(context: ManagerContext) -> list[Manager]:
    """Make the managers of all capabilities that have one, in the order of the capabilities."""
    return [
        importlib.import_module(f"nexus.{capability.name}.manager").make_manager(context)
        for capability in CAPABILITIES
        if capability.manager
    ]
