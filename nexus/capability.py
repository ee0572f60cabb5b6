"""What handlers and managers are given, and how handlers are registered: the interface of daemon and capabilities.

What a handler is depends on the declared effect of its command:

- ``read`` and ``act``: a function ``(ctx, command)`` that returns the reply, or ``(ctx, command, stream)`` for a
  stream. A plain function runs in the event loop and must not block; a coroutine function may wait.
- ``change``: a function ``(tx, ctx, command)`` that returns the reply. Dispatch calls it in the transaction of one
  write, in the writer's thread, perhaps several times: it reads and writes through ``tx`` alone. What is to follow
  once the change is durable is its ``after``, which is called in the event loop. The one exception is ``Batch``, a
  coroutine function that opens its own write.

A ``NexusError`` that it raises is sent to the client; any other exception is a bug, and is sent as ``internal``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from nexus_protocol import Command, CommandInfo, Record, encode_record
from nexus_protocol.context import NO_CONTEXT, HeldLease, RequestContext
from nexus_protocol.events import declared_cause

from nexus.caller import Caller
from nexus.journal.operation import Operation
from nexus.records.scope import Scope, scope_of
from nexus.runtime import Runtime
from nexus.store import Reader, StateStore, Transaction
from nexus.supervision.boot import Boot
from nexus.supervision.environments import Environments
from nexus.supervision.leases import Leases
from nexus.supervision.nodes import Nodes
from nexus.supervision.port_leases import PortLeases
from nexus.supervision.sweeper import Sweeper

__all__ = [
    "PAGE_BYTES",
    "Change",
    "Context",
    "Counted",
    "DaemonView",
    "Handler",
    "Hooks",
    "Manager",
    "PreCommand",
    "Stream",
    "ManagerContext",
    "collect_handlers",
    "encode_each",
    "encoded_list",
    "handles",
]

ItemT = TypeVar("ItemT", contravariant=True)
ManagerT = TypeVar("ManagerT", bound="Manager")
F = TypeVar("F", bound=Callable[..., Any])


PreCommand = Callable[[CommandInfo, Command[Any], Caller], Coroutine[Any, Any, None]]
"""Called before a command is carried out; raises a NexusError to refuse it."""


class Stream(Protocol[ItemT]):
    """The daemon's end of an open stream."""

    async def send(self, item: ItemT) -> None:
        """Send one item. Waits while the client does not read."""

    async def ready(self) -> None:
        """Wait until the client has room, before something is produced for it."""

    async def receive(self) -> dict[str, Any]:
        """Wait for the next Input of the client: a map with exactly one of ``data``, ``eof`` and ``control``."""

    def receive_now(self) -> dict[str, Any] | None:
        """The next Input that has come already, for a handler that ends; None without one."""

    async def acknowledge(self, size: int) -> None:
        """Give the client ``size`` bytes of Input credit back, once they have been processed."""

    @property
    def draining(self) -> bool:
        """Whether the daemon is stopping, so that the stream should end soon."""

    def on_draining(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when the daemon begins to stop, not if it already does. A later call replaces ``wake``."""


class Hooks(Protocol):
    """The hooks of plugins before the daemon starts a process."""

    async def pre_start(self, service: str, fields: dict[str, Any], environment: dict[str, str]) -> dict[str, str]:
        """Return the environment that the service is to be started with.

        Raises:
            NexusError: a plugin refuses the start, or failed.
        """


class ManagerContext(NamedTuple):
    """What every manager of a daemon shares."""

    store: StateStore
    hooks: Hooks | None
    """The hooks of plugins; None without plugins."""
    directory: Path
    """The folder for the files of processes: their logs, and how they ended."""
    runtime: Runtime
    boot: Boot
    sweeper: Sweeper
    ports: PortLeases
    environments: Environments
    nodes: Nodes
    leases: Leases
    setting: Callable[[str], Any]
    """Gives the effective value of a known setting."""
    caller: Caller
    """The daemon itself, which the journal names as the actor of changes that no client requested."""

    def cause(self, name: str, of: Operation | None = None) -> Operation:
        """Begin an operation of the daemon's own, which ``of`` led to.

        Raises:
            ValueError: no such cause is declared.
        """
        return Operation(self.caller, declared_cause(name), cause=of)


class Manager(Protocol):
    """Keeps the records of a capability and its processes in agreement. ``make_manager`` in ``manager.py`` makes it."""

    async def start(self) -> None:
        """Adopt the processes that an earlier daemon started. Called before the first client is served."""

    async def close(self) -> None:
        """Stop watching, because the daemon ends; processes keep running."""

    def children(self) -> int:
        """How many processes it supervises, or will start by itself; while there are any the daemon is not idle."""


class Counted(Protocol):
    """A table of records with states, which the status of the daemon counts: ``COUNTED`` of a ``handlers.py``."""

    kind: str

    def count_by_state(self, reader: Reader) -> dict[str, int]:
        """The number of records in each state; states without records are left out."""


class DaemonView(Protocol):
    """The daemon as handlers see it: its figures, its limits, its managers, and the request to stop it."""

    started_at: int
    """When it started (ms)."""
    stopping: asyncio.Event
    """Set once it begins to stop: a request that waits for something else than its own work ends then."""

    def uptime_ms(self) -> int:
        """Milliseconds since the start, by the monotonic clock."""

    def trusted_now_ms(self) -> int:
        """The wall clock in ms, or less if it was set forward in this boot; see ``Boot.trusted_now_ms``."""

    def presented(self, lease: HeldLease) -> None:
        """A request came that is made under a lease: that renews it."""

    def reported_limits(self) -> dict[str, int]:
        """The limits in force, as ``Hello`` reports them."""

    def connections(self) -> int:
        """How many clients are connected."""

    def open_requests(self) -> int:
        """How many requests are at work or wait their turn, over all clients."""

    def request_shutdown(self, reason: str) -> None:
        """Begin to drain, after the present request is answered; then the daemon exits with 0."""

    def setting_changed(self, key: str) -> None:
        """Apply a setting whose new value, or removal, has been committed."""

    def counted(self) -> dict[str, Counted]:
        """For each capability that keeps records with states, its table."""

    def commands(self) -> list[CommandInfo]:
        """Every command that has a handler, by code."""

    def command(self, code: int) -> CommandInfo | None:
        """The command with this code; None if there is none."""

    def change(self, code: int) -> Change | None:
        """The command with this code as a part of a larger transaction; None if it cannot be one."""

    def payload_limit(self, code: int) -> int:
        """The largest payload of a request with this code, in bytes."""

    async def ask_hooks(self, info: CommandInfo, command: Command[Any], caller: Caller) -> None:
        """Call the hooks of plugins that precede a command.

        Raises:
            NexusError: a plugin refuses the command, or failed.
        """

    def manager(self, kind: type[ManagerT]) -> ManagerT:
        """The manager of this class."""


class Context:
    """What a handler is given beside its command. A handler that waits has one for its request alone."""

    __slots__ = ("_operation", "caller", "daemon", "request", "store", "timed_out")

    def __init__(
        self,
        store: StateStore,
        daemon: DaemonView,
        caller: Caller,
        *,
        request: RequestContext = NO_CONTEXT,
        operation: Operation | None = None,
    ) -> None:
        self.store = store
        self.daemon = daemon
        self.caller = caller
        self.request = request
        """The context of the request. ``why``, ``project`` and ``lease`` are the request's own, else of ``Hello``."""
        self._operation = operation
        self.timed_out = False
        """Whether the request was cancelled because its ``timeout_ms`` passed.

        A handler reads it in ``except asyncio.CancelledError``, where False means any other cause: the client's
        Cancel, the end of its connection, or the daemon's stop. The first cause counts, also when a second follows.
        """

    @property
    def operation(self) -> Operation:
        """What the changes of this request belong to. A handler that neither writes nor waits has none.

        Raises:
            RuntimeError: it has none.
        """
        if self._operation is None:
            raise RuntimeError("a request that neither writes nor waits has no operation")
        return self._operation

    def scope(self, reader: Reader) -> Scope:
        """Where the request looks up names. A change asks in its transaction: a project may be renamed before it.

        Raises:
            ProjectNotFound: no project has the id or name that the request gives.
        """
        return scope_of(reader, self.request.project, changes=self._operation is not None)


PAGE_BYTES = 1024 * 1024
"""A list ends its page at this size, even if its limit of records allows more."""
_ENCODED_AT_ONCE = 200


def encoded_list(elements: list[bytes]) -> Any:
    """Make a field of a record from elements that are already encoded as MessagePack (an array 32)."""
    return msgspec.Raw(b"\xdd" + len(elements).to_bytes(4, "big") + b"".join(elements))


async def encode_each(records: Iterable[Record]) -> Any:
    """Make and encode the elements of a long field; other requests are answered meanwhile."""
    elements = []
    for number, record in enumerate(records, 1):
        elements.append(encode_record(record))
        if number % _ENCODED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return encoded_list(elements)


class Handler(NamedTuple):
    """A handler as dispatch calls it."""

    info: CommandInfo
    fn: Callable[..., Any]
    after: Callable[[Context, Any], None] | None
    size_bytes: Callable[[Any], int]


class Change(NamedTuple):
    """A change as a part of a larger transaction."""

    info: CommandInfo
    decode: Callable[[bytes], Command[Any]]
    fn: Callable[[Transaction, Context, Any], Any]
    after: Callable[[Context, Any], None] | None
    size_bytes: Callable[[Any], int]


def handles(
    command: type[Command[Any]],
    *,
    after: Callable[[Context, Any], None] | None = None,
    size_bytes: Callable[[Any], int] = lambda _command: 256,
) -> Callable[[F], F]:
    """Mark a function as the handler of a command.

    For a change, ``after(ctx, reply)`` is called once it is durable, and ``size_bytes(command)`` estimates what it
    writes.
    """

    def mark(fn: F) -> F:
        fn.__nexus_handler__ = Handler(command.info, fn, after, size_bytes)  # type: ignore[attr-defined]
        return fn

    return mark


def collect_handlers(module: Any) -> list[Handler]:
    """Return the handlers that a module holds."""
    return [fn.__nexus_handler__ for fn in vars(module).values() if hasattr(fn, "__nexus_handler__")]
