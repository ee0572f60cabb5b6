"""The daemon's clients as a whole: accept them, check their user, limit them, and drain them when the daemon stops.

It owns the listening socket and the sessions, and is the ``DaemonView`` of the handlers.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Any

from nexus_protocol import (
    Command,
    CommandInfo,
    NexusError,
    PermissionDenied,
    ResourceExhausted,
    ServerConnection,
    Unavailable,
)
from nexus_protocol.context import HeldLease

from nexus.caller import Caller
from nexus.capability import Change, Counted, ManagerT, PreCommand
from nexus.config import Limits
from nexus.daemon.budgets import Budgets
from nexus.daemon.client_session import ClientSession, SessionContext
from nexus.daemon.dispatch import Dispatch
from nexus.runtime.procfs import overflow_uid
from nexus.store import StateStore
from nexus.supervision.boot import Boot
from nexus.supervision.leases import Leases

__all__ = ["Server", "peer_of", "refuse"]

_log = logging.getLogger("nexus.server")

_UCRED = struct.Struct("iII")
_ACCEPTS_A_TURN = 64
_PRESSURE_S = 5.0
"""How long a client may take no bytes while the send budget is spent."""


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(uid, pid) of the process that connected, as the kernel recorded it (SO_PEERCRED, unix(7))."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid, pid


def refuse(sock: socket.socket, error: NexusError) -> None:
    """Send a client that was just accepted the reason why it is not served, and close."""
    with contextlib.suppress(OSError):
        sock.setblocking(False)
        sock.send(ServerConnection().send_error(0, error))
        sock.recv(65536)
    sock.close()


class Server:
    """Everything between the listening socket and the handlers."""

    def __init__(
        self,
        store: StateStore,
        dispatch: Dispatch,
        limits: Limits,
        shutdown: Callable[[str], None],
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.dispatch = dispatch
        self.loop = loop
        self.budgets = Budgets(limits, loop, self._recheck_reading)
        self._shared = SessionContext(store, self, dispatch, limits, self.budgets, loop, self._session_closed)
        self.started_at = int(time.time() * 1000)
        self._started_monotonic = time.monotonic()
        self._shutdown = shutdown
        self._listener: socket.socket | None = None
        self._resuming: asyncio.TimerHandle | None = None
        """Set while accepting is paused because descriptors ran out."""
        self._sessions: set[ClientSession] = set()
        self._trusted_uids = {os.geteuid(), 0} - {overflow_uid()}
        self._ticking: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._on_setting: dict[str, Callable[[], None]] = {}
        self.stopping = asyncio.Event()
        """See ``DaemonView``."""
        self.leases: Leases | None = None
        self.managers: dict[type[Any], Any] = {}
        """The managers of the capabilities, by class."""
        self.boot: Boot | None = None
        """This boot of the machine, once it is known."""
        self.last_busy = loop.time()
        """When the last client left (loop time)."""

    @property
    def limits(self) -> Limits:
        """The limits in force."""
        return self._shared.limits

    def set_limits(self, limits: Limits) -> None:
        """Put other limits in force, for the connected clients as well."""
        self._shared.set_limits(limits)

    # Accepting

    def listen(self, listener: socket.socket) -> None:
        """Accept clients from a listening socket."""
        listener.setblocking(False)
        self._listener = listener
        self.loop.add_reader(listener.fileno(), self._accept)

    def pause_listening(self) -> None:
        """Stop accepting; new clients wait in the socket's queue."""
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if self._listener is not None:
            self.loop.remove_reader(self._listener.fileno())

    def resume_listening(self) -> None:
        """Accept again after ``pause_listening``."""
        if self._listener is not None:
            self.loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        assert self._listener is not None
        for _ in range(_ACCEPTS_A_TURN):
            try:
                sock, _address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
                    raise
                _log.error("cannot accept a client: %s", error.strerror)
                self.pause_listening()
                self._resuming = self.loop.call_later(1.0, self.resume_listening)
                return
            self._admit(sock)

    def _admit(self, sock: socket.socket) -> None:
        try:
            uid, pid = peer_of(sock)
        except OSError:
            sock.close()
            return
        if uid not in self._trusted_uids:
            _log.warning("refusing a client of user %d (pid %d)", uid, pid)
            refuse(sock, PermissionDenied(f"cannot serve user {uid}: this daemon belongs to user {os.geteuid()}"))
            return
        if len(self._sessions) >= self.limits.connections:
            refuse(
                sock,
                ResourceExhausted(
                    f"cannot serve more than {self.limits.connections} connections",
                    hint="Close some, or raise limits.connections in config.toml.",
                    details={"limit": self.limits.connections},
                ),
            )
            return
        sock.setblocking(False)
        self._sessions.add(ClientSession(self._shared, sock, Caller(uid, pid, None)))
        if self._ticking is None:
            self._tick_later()

    def _session_closed(self, session: ClientSession) -> None:
        self._sessions.discard(session)
        self.last_busy = self.loop.time()
        if not self._sessions:
            self._idle.set()

    # Time limits and budgets

    def _tick_later(self) -> None:
        shortest = min(self.limits.frame_timeout_s, self.limits.send_timeout_s)
        self._ticking = self.loop.call_later(min(1.0, shortest / 4), self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = self.loop.time()
        for session in list(self._sessions):
            session.tick(now)
        if self.budgets.send_budget_spent():
            # Others wait for the budget: close the client that does not read and holds the most.
            stalled = [s for s in self._sessions if s.unsent_bytes and now - s.stalled_since > _PRESSURE_S]
            if stalled:
                worst = max(stalled, key=lambda s: s.unsent_bytes)
                _log.warning("closing a client that does not read (pid %d)", worst.context.caller.pid)
                worst.abort()
        self.budgets.recheck()
        self._recheck_reading()
        if self._sessions:
            self._tick_later()

    def _recheck_reading(self) -> None:
        for session in list(self._sessions):
            session.recheck_reading()

    # Ending

    async def drain(self, timeout_s: float) -> None:
        """Accept no more clients, tell the streams to end, let requests finish, and close every connection.

        Requests that do not finish within ``timeout_s`` are cancelled and answered with ``unavailable``.
        """
        self.stopping.set()
        self.pause_listening()
        self._listener = None  # so that a later resume_listening has no effect
        self._idle.clear()
        for session in list(self._sessions):
            session.begin_drain()
        if not self._sessions:
            self._idle.set()
        if not await self._idle_within(timeout_s):
            _log.warning("%d requests did not finish in time", self.open_requests())
            for session in list(self._sessions):
                session.cancel_all(Unavailable("the daemon is stopping, and the request did not finish in time"))
            await self._idle_within(1.0)
        for session in list(self._sessions):
            session.abort()
        if self._ticking is not None:
            self._ticking.cancel()
            self._ticking = None

    async def _idle_within(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # nexus.capability.DaemonView

    def trusted_now_ms(self) -> int:
        """See ``DaemonView.trusted_now_ms``."""
        return int(time.time() * 1000) if self.boot is None else self.boot.trusted_now_ms()

    def uptime_ms(self) -> int:
        """Milliseconds since the start, by the monotonic clock."""
        return int((time.monotonic() - self._started_monotonic) * 1000)

    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def open_requests(self) -> int:
        """How many requests are at work or wait their turn."""
        return sum(session.open_requests for session in self._sessions)

    def presented(self, lease: HeldLease) -> None:
        """See ``DaemonView``."""
        if self.leases is not None:
            self.leases.presented(lease)

    def reported_limits(self) -> dict[str, int]:
        """The limits in force, as ``Hello`` reports them."""
        return dict(self.limits._asdict())

    def request_shutdown(self, reason: str) -> None:
        """Begin to drain, after the present request is answered."""
        self.loop.call_soon(self._shutdown, reason)

    def on_setting(self, key: str, fn: Callable[[], None]) -> None:
        """Call ``fn`` after each change or removal of the setting. There is one such function for each key."""
        self._on_setting[key] = fn

    def setting_changed(self, key: str) -> None:
        """Call the function that ``on_setting`` registered for the key, if any."""
        if key in self._on_setting:
            self._on_setting[key]()

    def counted(self) -> dict[str, Counted]:
        """For each capability that keeps records with states, its table."""
        return self.dispatch.counted

    def commands(self) -> list[CommandInfo]:
        """Every command that has a handler, by code."""
        return self.dispatch.commands()

    def command(self, code: int) -> CommandInfo | None:
        """The command with this code; None if there is none."""
        entry = self.dispatch.entries.get(code)
        return None if entry is None else entry.info

    def change(self, code: int) -> Change | None:
        """The command with this code as a part of a larger transaction; None if it cannot be one."""
        return self.dispatch.changes.get(code)

    def payload_limit(self, code: int) -> int:
        """The largest payload of a request with this code, in bytes."""
        return self._shared.payload_limit(code)

    async def ask_hooks(self, info: CommandInfo, command: Command[Any], caller: Caller) -> None:
        """Call the hooks of plugins that precede a command.

        Raises:
            NexusError: a plugin refuses the command, or failed.
        """
        if self._shared.pre_command is not None and self.dispatch.entries[info.code].hookable:
            await self._shared.pre_command(info, command, caller)

    def ask_before_commands(self, pre_command: PreCommand | None) -> None:
        """Call this before every command that may be hooked, from now on; None removes it."""
        self._shared.pre_command = pre_command

    def manager(self, kind: type[ManagerT]) -> ManagerT:
        """The manager of this class."""
        found: ManagerT = self.managers[kind]
        return found

    def children(self) -> int:
        """How many processes the managers supervise."""
        return sum(manager.children() for manager in self.managers.values())
