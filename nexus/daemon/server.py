"""The daemon's clients as a whole: accept, check who they are, count, and see them out.

It owns the listening socket and the sessions, and holds what a handler may know of the daemon.
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
    CommandInfo,
    NexusError,
    PermissionDenied,
    ResourceExhausted,
    ServerConnection,
    Unavailable,
)

from nexus.capability import Caller, ManagerT, PreCommand
from nexus.config import Limits
from nexus.daemon.client_session import ClientSession
from nexus.daemon.dispatch import Dispatch
from nexus.runtime.procfs import overflow_uid
from nexus.store import Reader, StateStore

__all__ = ["Server", "overflow_uid", "peer_of", "refuse"]

_log = logging.getLogger("nexus.server")

_UCRED = struct.Struct("iII")
_ACCEPTS_A_TURN = 64
_LARGE_REPLIES = 4
"""Large replies in the making at the same time."""
_PRESSURE_S = 5.0
"""How long a client may make no progress while the send budget is spent and others wait for it."""


def peer_of(sock: socket.socket) -> tuple[int, int]:
    """(uid, pid) of whoever connected, as the kernel has it (SO_PEERCRED, unix(7))."""
    pid, uid, _gid = _UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    return uid, pid


def refuse(sock: socket.socket, error: NexusError) -> None:
    """Tell a client that was just accepted why it is not served, and close."""
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
        self.store = store
        self.dispatch = dispatch
        self.loop = loop
        self.started_at = int(time.time() * 1000)
        self._started_monotonic = time.monotonic()
        self._shutdown = shutdown
        self._listener: socket.socket | None = None
        self._resuming: asyncio.TimerHandle | None = None
        """Set while no client is accepted for want of descriptors."""
        self._sessions: set[ClientSession] = set()
        self._trusted_uids = {os.geteuid(), 0} - {overflow_uid()}
        self._ticking: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self.unsent_bytes = 0
        self._received_bytes = 0
        self._input_bytes = 0
        """What of it is Input that waits in open streams."""
        self._budget_exempt: ClientSession | None = None
        """The one session that is read although the receive budget is spent, so that a large frame gets through."""
        self._freed = asyncio.Event()
        self._on_setting: dict[str, Callable[[], None]] = {}
        self.managers: dict[type[Any], Any] = {}
        """By class: what keeps the capabilities' records and the world the same."""
        self.pre_command: PreCommand | None = None
        """Asked before a command is carried out, where a plugin wants that."""
        self.large_replies = asyncio.Semaphore(_LARGE_REPLIES)
        """Held while a large reply is produced, never while a client is waited for."""
        self.last_busy = loop.time()
        """When the last client left (loop time)."""
        self.set_limits(limits)

    def set_limits(self, limits: Limits) -> None:
        """Use other limits from now on, for the clients that are here as well."""
        self.limits = limits
        self.payload_limit = self.dispatch.payload_limit(limits.max_payload_bytes, limits.max_frame_payload_bytes)

    # Accepting

    def listen(self, listener: socket.socket) -> None:
        """Accept clients from a listening socket."""
        listener.setblocking(False)
        self._listener = listener
        self.loop.add_reader(listener.fileno(), self._accept)

    def pause_listening(self) -> None:
        """Leave new clients in the socket's queue."""
        if self._resuming is not None:
            self._resuming.cancel()
            self._resuming = None
        if self._listener is not None:
            self.loop.remove_reader(self._listener.fileno())

    def resume_listening(self) -> None:
        """Take them again."""
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
        self._sessions.add(ClientSession(self, sock, Caller(uid, pid, None)))
        if self._ticking is None:
            self._tick_later()

    def session_closed(self, session: ClientSession) -> None:
        """A client is gone."""
        self._sessions.discard(session)
        self.last_busy = self.loop.time()
        if not self._sessions:
            self._idle.set()

    # Time and budgets

    def _tick_later(self) -> None:
        shortest = min(self.limits.frame_timeout_s, self.limits.send_timeout_s)
        self._ticking = self.loop.call_later(min(1.0, shortest / 4), self._tick)

    def _tick(self) -> None:
        self._ticking = None
        now = self.loop.time()
        for session in list(self._sessions):
            session.tick(now)
        if self.send_budget_spent():
            # Somebody waits for room that a client which does not read takes up: it goes first.
            stalled = [s for s in self._sessions if s.unsent_bytes and now - s.stalled_since > _PRESSURE_S]
            if stalled:
                worst = max(stalled, key=lambda s: s.unsent_bytes)
                _log.warning("closing a client that does not read (pid %d)", worst.context.caller.pid)
                worst.abort()
        self._freed.set()
        self._reconsider_reading()
        if self._sessions:
            self._tick_later()

    def send_budget_spent(self) -> bool:
        """Whether all connections together hold as much unsent as they may."""
        return self.unsent_bytes > self.limits.send_budget_bytes

    async def send_budget_freed(self) -> None:
        """Wait until it may be worth asking again."""
        self._freed.clear()
        await self._freed.wait()

    def receive_budget_spent(self) -> bool:
        """Whether all connections together hold as much received as they may."""
        return self._received_bytes > self.limits.receive_budget_bytes

    def may_receive(self, session: ClientSession) -> bool:
        """Whether a session that holds much already may read on.

        When the budget is spent one may all the same: of many large frames, each half here, none would end otherwise.
        """
        if not self.receive_budget_spent():
            return True
        if self._budget_exempt is None:
            self._budget_exempt = session
        return self._budget_exempt is session

    def received_all(self, session: ClientSession) -> None:
        """A session holds little again."""
        if self._budget_exempt is session:
            self._budget_exempt = None
            self.loop.call_soon(self._reconsider_reading)

    def _reconsider_reading(self) -> None:
        for session in list(self._sessions):
            session.reconsider_reading()

    def account_received(self, delta: int) -> None:
        """Some session holds this much more."""
        self._received_bytes += delta

    def has_room_for_input(self, size: int) -> bool:
        """Whether all streams together may hold so much more Input."""
        return self._input_bytes + size <= self.limits.receive_budget_bytes

    def account_input(self, delta: int) -> None:
        """Some stream holds this much more Input."""
        self._input_bytes += delta
        self._received_bytes += delta

    # Ending

    async def drain(self, timeout_s: float) -> None:
        """Take no more clients, let requests finish for so long, end the streams, and close every connection."""
        self.pause_listening()
        self._listener = None  # for good, whoever wanted to listen again
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

    # What a handler may know (nexus.capability.DaemonView)

    def uptime_ms(self) -> int:
        """Milliseconds since the start, whatever the clock did."""
        return int((time.monotonic() - self._started_monotonic) * 1000)

    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._sessions)

    def open_requests(self) -> int:
        """How many requests are at work or wait."""
        return sum(session.open_requests for session in self._sessions)

    def reported_limits(self) -> dict[str, int]:
        """The limits in force, as ``Hello`` reports them."""
        return dict(self.limits._asdict())

    def request_shutdown(self, reason: str) -> None:
        """Begin to drain, once the request that asks for it is answered."""
        self.loop.call_soon(self._shutdown, reason)

    def on_setting(self, key: str, fn: Callable[[], None]) -> None:
        """Call ``fn`` whenever the setting was changed or removed."""
        self._on_setting[key] = fn

    def setting_changed(self, key: str) -> None:
        """Tell whoever follows the setting."""
        if key in self._on_setting:
            self._on_setting[key]()

    def counters(self) -> dict[str, Callable[[Reader], dict[str, int]]]:
        """How to count the things of each capability by state."""
        return self.dispatch.counters

    def commands(self) -> list[CommandInfo]:
        """Every command that is handled, by code."""
        return self.dispatch.commands()

    def ask_before_commands(self, pre_command: PreCommand | None) -> None:
        """Have this asked before every command that may be hooked, from now on; None for nothing."""
        self.pre_command = pre_command

    def manager(self, kind: type[ManagerT]) -> ManagerT:
        """The manager of this class."""
        found: ManagerT = self.managers[kind]
        return found

    def children(self) -> int:
        """How many processes the managers hold."""
        return sum(manager.children() for manager in self.managers.values())
