"""What a handler is given and how it is entered: the one interface between the daemon and the capabilities.

A handler is a function ``(ctx, command)`` that gives the command's reply, or ``(ctx, command, stream)`` for a stream.
A plain function answers at once, in the event loop, and must not block; a coroutine function may wait. Whatever it
raises that is a ``NexusError`` goes to the client; anything else is a bug.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec
from nexus_protocol import Command, CommandInfo

from nexus.runtime import Runtime
from nexus.store import Reader, StateStore
from nexus.supervision.boot import Boot
from nexus.supervision.port_leases import PortLeases
from nexus.supervision.sweeper import Sweeper

__all__ = [
    "PAGE_BYTES",
    "Context",
    "DaemonView",
    "Handler",
    "Hooks",
    "Manager",
    "Caller",
    "PreCommand",
    "Stream",
    "ManagerContext",
    "collect_handlers",
    "encoded_list",
    "handles",
]

ItemT = TypeVar("ItemT", contravariant=True)
ManagerT = TypeVar("ManagerT", bound="Manager")
F = TypeVar("F", bound=Callable[..., Any])


class Caller(NamedTuple):
    """Who asks: the peer's credentials as the kernel gives them, and the name it gave itself."""

    uid: int
    pid: int
    actor: str | None


PreCommand = Callable[[CommandInfo, Command[Any], Caller], Coroutine[Any, Any, None]]
"""Asked before a command is carried out; raises what it is refused with."""


class Stream(Protocol[ItemT]):
    """The daemon's end of an open stream."""

    async def send(self, item: ItemT) -> None:
        """Send one item. Waits while the client does not read."""

    async def ready(self) -> None:
        """Wait until the client has room, before something is produced for it."""

    async def receive(self) -> dict[str, Any]:
        """The next Input of the client: a map with ``data``, ``eof`` or ``control``."""

    async def acknowledge(self, size: int) -> None:
        """Give ``size`` bytes of Input credit back, once they have been passed on."""

    @property
    def draining(self) -> bool:
        """Whether the daemon is about to stop, so that the stream should end."""

    def on_draining(self, wake: Callable[[], None]) -> None:
        """Call ``wake`` when the daemon begins to stop."""


class Hooks(Protocol):
    """What plugins may say before a process of ours is started."""

    async def pre_start(self, service: str, fields: dict[str, Any], environment: dict[str, str]) -> dict[str, str]:
        """The environment that the service is to be started with.

        Raises:
            NexusError: a plugin refuses the start, or failed.
        """


class ManagerContext(NamedTuple):
    """What every manager of a daemon shares."""

    store: StateStore
    hooks: Hooks | None
    """None: there is no plugin."""
    directory: Path
    """Where the files of processes are: their logs, how they ended."""
    runtime: Runtime
    boot: Boot
    sweeper: Sweeper
    ports: PortLeases
    caller: Caller
    """The daemon itself, as the journal names it for what no client asked for."""


class Manager(Protocol):
    """Keeps a capability's records and the world the same. ``make_manager(context)`` of its ``manager.py`` makes it."""

    async def start(self) -> None:
        """Take back what is there; called before the first client is served."""

    async def close(self) -> None:
        """Let go, as the daemon ends; what runs goes on."""

    def children(self) -> int:
        """How many processes it holds; with any the daemon is not idle."""


class DaemonView(Protocol):
    """What a handler may know of the daemon itself."""

    started_at: int

    def uptime_ms(self) -> int:
        """Milliseconds since the start, whatever the clock did."""

    def reported_limits(self) -> dict[str, int]:
        """The limits in force, as ``Hello`` reports them."""

    def connections(self) -> int:
        """How many clients are connected."""

    def open_requests(self) -> int:
        """How many requests are at work."""

    def request_shutdown(self, reason: str) -> None:
        """Begin to drain; the daemon exits 0 when that is done."""

    def setting_changed(self, key: str) -> None:
        """Say that a setting has another value now, and that it is durable."""

    def counters(self) -> dict[str, Callable[[Reader], dict[str, int]]]:
        """For each capability that keeps things with states, how to count them."""

    def commands(self) -> list[CommandInfo]:
        """Every command that has a handler here, by code."""

    def manager(self, kind: type[ManagerT]) -> ManagerT:
        """The manager of this class."""


class Context:
    """What one connection's handlers work with."""

    __slots__ = ("caller", "daemon", "store", "timed_out")

    def __init__(self, store: StateStore, daemon: DaemonView, caller: Caller) -> None:
        self.store = store
        self.daemon = daemon
        self.caller = caller
        self.timed_out = False


PAGE_BYTES = 1024 * 1024
"""Where a list ends its page, whatever its limit."""


def encoded_list(elements: list[bytes]) -> Any:
    """A list of records that are encoded already, as a field of a record that is about to be."""
    return msgspec.Raw(b"\xdd" + len(elements).to_bytes(4, "big") + b"".join(elements))


class Handler(NamedTuple):
    """A handler as the dispatch calls it."""

    info: CommandInfo
    fn: Callable[..., Any]
    waits: bool
    """Whether ``fn`` is a coroutine function."""


def handles(command: type[Command[Any]]) -> Callable[[F], F]:
    """Mark a function as the handler of a command."""

    def mark(fn: F) -> F:
        fn.__nexus_command__ = command  # type: ignore[attr-defined]
        return fn

    return mark


def collect_handlers(module: Any) -> list[Handler]:
    """The handlers that a module defines."""
    found = []
    for fn in vars(module).values():
        command = getattr(fn, "__nexus_command__", None)
        if command is not None:
            found.append(Handler(command.info, fn, inspect.iscoroutinefunction(fn)))
    return found
