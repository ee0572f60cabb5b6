"""One client's connection in the daemon: bytes in, requests to the handlers, replies out, all within the limits.

The session owns its socket and moves requests between the sans-IO engine and the dispatch table. It knows no command
but ``Hello``, and it keeps a client that does not read, or never stops sending, from delaying other clients.

It is longer than 500 lines because reading, carrying out and answering share the state of one connection, and every
call between modules on the way of a request can be measured.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import logging
import socket
from collections.abc import Callable
from typing import Any

from nexus_protocol import (
    HEADER_SIZE,
    Cancelled,
    CancelReceived,
    Command,
    ConnectionFailed,
    DeadlineExceeded,
    Effect,
    InputReceived,
    Internal,
    InvalidArgument,
    NexusError,
    RequestReceived,
    ResourceExhausted,
    ServerConnection,
    Unavailable,
    UnknownCommand,
    context_decoder,
)
from nexus_protocol.connection import ServerEvent
from nexus_protocol.context import ALL_PROJECTS, RequestContext

from nexus.caller import Caller
from nexus.capability import Context, DaemonView, PreCommand
from nexus.config import Limits
from nexus.daemon.budgets import Budgets, ReceiveAccount
from nexus.daemon.dispatch import Dispatch, Entry
from nexus.daemon.send_buffer import SendBuffer
from nexus.daemon.streams import MAX_QUEUED_INPUTS, SessionStream, decode_input, encode_result
from nexus.journal.keys import request_key
from nexus.journal.operation import Operation, args_of, require_operation
from nexus.records.scope import speaks_elsewhere
from nexus.runtime.status import is_exhaustion
from nexus.store import StateStore
from nexus.system.commands import Hello

__all__ = ["ClientSession", "SessionContext"]

_log = logging.getLogger("nexus.session")

_READ_BYTES = 64 * 1024
_FIRST_REQUEST_S = 0.1
"""When the daemon stops: how long after its accept a client may still make its first request."""
_REQUESTS_A_TURN = 64
"""Requests carried out for one client in one turn of the event loop; then the other clients have theirs."""
_TURN_S = 0.002
"""The longest that such a turn may take; then it ends early."""
_WAITING_BYTES = 256
"""Counted for each waiting request beside its payload, so that many empty requests are limited as well."""


class SessionContext:
    """What all sessions of one daemon share. The server changes limits and ``pre_command`` while sessions run."""

    __slots__ = (
        "_context_decoders",
        "budgets",
        "daemon",
        "dispatch",
        "limits",
        "loop",
        "on_closed",
        "payload_limit",
        "pre_command",
        "store",
    )

    def __init__(
        self,
        store: StateStore,
        daemon: DaemonView,
        dispatch: Dispatch,
        limits: Limits,
        budgets: Budgets,
        loop: asyncio.AbstractEventLoop,
        on_closed: Callable[[ClientSession], None],
    ) -> None:
        self.store = store
        self.daemon = daemon
        self.dispatch = dispatch
        self.budgets = budgets
        self.loop = loop
        self._context_decoders: dict[int, Callable[[bytes, int], tuple[RequestContext, Command[Any]]]] = {}
        """By the code of the command; each is made for the first request with a context."""
        self.on_closed = on_closed
        """Called once for each session, when its connection is closed."""
        self.pre_command: PreCommand | None = None
        """Called before each command that may be hooked; None while no plugin wants that."""
        self.set_limits(limits)

    def decode_with_context(self, entry: Entry, payload: bytes) -> tuple[RequestContext, Command[Any]]:
        """Decode a payload that begins with a context.

        Raises:
            InvalidArgument: it does not fit the command, or the context has what the command does not take.
        """
        info = entry.info
        decode = self._context_decoders.get(info.code)
        if decode is None:
            decode = self._context_decoders[info.code] = context_decoder(info)
        context, command = decode(payload, self.payload_limit(info.code))
        if context.key is not None and (entry.streams or info.effect is Effect.READ):
            why = "a stream cannot be given a second time" if entry.streams else "it changes nothing"
            raise InvalidArgument(
                f"cannot accept context.key: {info.name} takes no key, because {why}", details={"path": "context.key"}
            )
        if context.cause is not None and info.effect is Effect.READ:
            raise InvalidArgument(
                f"cannot accept context.cause: {info.name} is a part of no operation, because it changes nothing",
                details={"path": "context.cause"},
            )
        if context.project == ALL_PROJECTS and not info.all_projects:
            raise InvalidArgument(
                f"cannot accept context.project: {info.name} is not for all projects at once",
                details={"path": "context.project"},
            )
        return context, command

    def set_limits(self, limits: Limits) -> None:
        """Put other limits in force, for the present sessions as well."""
        self.limits = self.budgets.limits = limits
        self.payload_limit = self.dispatch.payload_limit(limits.max_payload_bytes, limits.max_frame_payload_bytes)


class ClientSession:
    """A connected client, from accept to close."""

    def __init__(self, shared: SessionContext, sock: socket.socket, caller: Caller) -> None:
        self.engine = ServerConnection(lambda command: shared.payload_limit(command), shared.dispatch.input_commands)
        self.context = Context(shared.store, shared.daemon, caller)
        self.draining = False
        self._shared = shared
        self._budgets = shared.budgets
        self._entries = shared.dispatch.entries
        self._loop = shared.loop
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        """The requests that a handler works on, by sequence."""
        self._streams: dict[int, SessionStream] = {}
        self._cancel_reasons: dict[int, NexusError] = {}
        """The error that a cancelled request is answered with, where the cause is not the client's own Cancel."""
        self._waiting: collections.OrderedDict[int, RequestReceived] = collections.OrderedDict()
        """By sequence, the next request first. Tens of thousands may wait, and each of them may be cancelled."""
        self._early_inputs: dict[int, list[InputReceived]] = {}
        """Input for streams that are not opened yet, by sequence. Its bytes count as waiting."""
        self._waiting_bytes = 0
        self._account = ReceiveAccount(shared.budgets)
        self._out = SendBuffer(shared.budgets, shared.loop, sock, self._on_written, self.abort)
        self._answering: set[int] = set()
        """Requests whose work is done: they are no longer cancelled, since "cancelled" would be untrue."""
        self._pump_scheduled = False
        self._reading = True
        self._ended = False
        """Nothing more is read: the client has shut down its side, or broke the protocol."""
        self._closing = False
        """The connection is closed as soon as everything is sent."""
        self._began_at = self._loop.time()
        """When the frame now being read began; for a new connection, when it was accepted."""
        self._mid_frame = True
        self._frames_seen = 0
        self._accepted_at = self._began_at
        self._last_code = 0
        """The code of the last request that was begun; 0 before the first."""
        self._loop.add_reader(self._fd, self._on_readable)

    # For the server

    @property
    def open_requests(self) -> int:
        """How many requests are at work or wait their turn."""
        return len(self._tasks) + len(self._waiting)

    @property
    def unsent_bytes(self) -> int:
        """Encoded and not yet sent."""
        return self._out.unsent_bytes

    @property
    def stalled_since(self) -> float:
        """When the client last took some bytes (loop time)."""
        return self._out.progress_at

    def tick(self, now: float) -> None:
        """Close the connection if it has exceeded one of its time limits. ``now`` is loop time."""
        limits = self._shared.limits
        if self._mid_frame and self._waits_for_frame() and now - self._began_at > limits.frame_timeout_s:
            self.fail(
                DeadlineExceeded(
                    "cannot wait longer for the rest of a frame"
                    if self.engine.buffered
                    else "cannot wait longer for a first frame",
                    details={"frame_timeout_s": limits.frame_timeout_s},
                )
            )
        elif (
            self._out.unsent_bytes
            and (self._closing or not self._out.has_room())
            and now - self._out.progress_at > limits.send_timeout_s
        ):
            _log.warning("closing a client that does not read (pid %d)", self.context.caller.pid)
            self.abort()

    def _waits_for_frame(self) -> bool:
        """Whether the connection waits for nothing but the rest of a frame.

        A connection that is not read because the daemon's receive budget is spent counts as well: otherwise half
        frames could keep the budget spent for ever.
        """
        return self._reading or not (self._ended or self._waiting or not self._out.has_room())

    def begin_drain(self) -> None:
        """Refuse the requests that have not begun, tell the streams to end, and close once all are answered.

        Requests that have already arrived are carried out. So is the first request of a client that has connected
        just now: a moment later it would have waited in the socket's queue for the next daemon.
        """
        if self._reading and self._socket is not None:
            self._on_readable()
        no_request_yet = self._last_code in (0, Hello.info.code) and not self._tasks
        if no_request_yet and self._loop.time() - self._accepted_at < _FIRST_REQUEST_S:
            self._loop.call_later(_FIRST_REQUEST_S, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        self.draining = True
        while self._waiting:
            self._answer_error(self._waiting.popitem(last=False)[0], _daemon_stopping())
        self._waiting_bytes = 0
        self._early_inputs.clear()
        for stream in list(self._streams.values()):
            stream.begin_drain()
        self._close_if_done()

    def cancel_all(self, error: NexusError) -> None:
        """Stop every request at work; each is answered with ``error``."""
        for sequence in list(self._tasks):
            self._stop(sequence, error)

    def abort(self) -> None:
        """Close the connection now. Unsent bytes are lost, and all requests are cancelled."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._fd)
        self._out.close()
        self._socket.close()
        self._socket = None
        self._ended = self._closing = True
        self._waiting.clear()
        self._waiting_bytes = 0
        self._early_inputs.clear()
        self._account_received()
        for stream in self._streams.values():
            stream.close()  # not in the task: one that is cancelled before its first step never runs
        for task in list(self._tasks.values()):
            task.cancel()
        self._shared.on_closed(self)

    # Reading

    def _on_readable(self) -> None:
        assert self._socket is not None
        try:
            data = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self.abort()
            return
        if not data:
            self._on_eof()
            return
        out = self._out
        out.flush_expected = True
        try:
            events = self.engine.receive_data(data)
            if (
                len(events) == 1
                and type(request := events[0]) is RequestReceived
                and len(data) == HEADER_SIZE + len(request.payload)
                and not self._waiting
                and not out.unsent_bytes
                and len(self._tasks) < self._shared.limits.requests_per_connection
            ):
                # By far the most frequent case: one whole request, and nothing before it in any queue.
                self._mid_frame = False
                self._carry_out(request)
            else:
                self._receive(events)
        finally:
            out.flush_expected = False
        if out.queued:
            out.flush()

    def _receive(self, events: list[ServerEvent]) -> None:
        engine = self.engine
        for event in events:
            if type(event) is RequestReceived:
                self._waiting[event.sequence] = event
                self._waiting_bytes += len(event.payload) + _WAITING_BYTES
            elif type(event) is CancelReceived:
                self._cancel(event.sequence)
            elif type(event) is InputReceived:
                self._input(event)
            elif type(event) is ConnectionFailed:
                self._pump()
                _log.warning("pid %d: %s", self.context.caller.pid, event.error.message)
                self.fail(event.error, event.error.sequence)
                return
        if engine.buffered:
            if engine.frames_received != self._frames_seen or not self._mid_frame:
                self._began_at = self._loop.time()
            self._mid_frame = True
        else:
            self._mid_frame = False
        self._frames_seen = engine.frames_received
        self._pump()

    def _on_eof(self) -> None:
        """The client has shut down its side: answer its requests, but cancel its streams."""
        self._stop_reading()
        self._ended = True
        self._mid_frame = False
        for sequence in list(self._streams):
            self._stop(sequence)
        if not self._out.unsent_bytes and not self.open_requests:
            self.abort()
        else:
            self._close_if_done()

    def _stop_reading(self) -> None:
        if self._reading and self._socket is not None:
            self._loop.remove_reader(self._fd)
        self._reading = False

    def _update_reading(self) -> None:
        """Start or stop reading: read while there is room for more requests and for their replies."""
        self._account_received()
        wanted = (
            not self._ended
            and self._out.has_room()
            and self._waiting_bytes <= self._shared.limits.max_frame_payload_bytes
            and self._account.may_receive()
        )
        if wanted == self._reading or self._socket is None:
            return
        if wanted:
            self._reading = True
            self._began_at = self._loop.time()
            self._loop.add_reader(self._fd, self._on_readable)
        else:
            self._stop_reading()

    def recheck_reading(self) -> None:
        """Read again if that is possible now; the server calls this when a budget may have room again."""
        if not self._reading and not self._ended:
            self._update_reading()

    def _account_received(self) -> None:
        held = 0 if self._socket is None else self._waiting_bytes + self.engine.buffered
        if held != self._account.received_bytes:
            self._account.set_received(held)

    # Requests

    def _pump(self) -> None:
        """Carry out waiting requests, as far as the limits of this connection and one turn of the loop allow."""
        limit = self._shared.limits.requests_per_connection
        waiting = self._waiting
        turn = _REQUESTS_A_TURN
        ends_at = self._loop.time() + _TURN_S
        while waiting and len(self._tasks) < limit and not self._closing:
            if turn and self._loop.time() > ends_at:
                turn = 0
            if not turn or not self._out.has_room():
                if not turn and not self._pump_scheduled:
                    self._pump_scheduled = True
                    self._loop.call_soon(self._next_turn)
                break
            turn -= 1
            _, request = waiting.popitem(last=False)
            self._waiting_bytes -= len(request.payload) + _WAITING_BYTES
            self._carry_out(request)
        if self._ended:
            self._close_if_done()
        self._update_reading()

    def _next_turn(self) -> None:
        self._pump_scheduled = False
        if self._socket is not None:
            self._pump()

    def _carry_out(self, request: RequestReceived) -> None:
        code, sequence, payload, flags = request
        self._last_code = code
        asked = self.context.request
        entry = self._entries.get(code)
        try:
            if self.draining:
                raise _daemon_stopping()
            if entry is None:
                raise UnknownCommand(f"cannot carry out command {code}: there is no such command here")
            if flags:  # CONTEXT: the engine accepts no other
                given, command = self._shared.decode_with_context(entry, payload)
                asked = RequestContext(
                    key=given.key,
                    why=asked.why if given.why is None else given.why,
                    project=asked.project if given.project is None else given.project,
                    cause=given.cause,
                    lease=asked.lease if given.lease is None else given.lease,
                )
            else:
                command = entry.decode(payload)
            if asked.lease is not None:
                self._shared.daemon.presented(asked.lease)
            pre_command = self._shared.pre_command
            if pre_command is not None and not entry.hookable:
                pre_command = None
            if not entry.waits and pre_command is None:
                # Hello sets the context of the connection itself.
                of_connection = not flags or entry.info.request is Hello
                context = self.context if of_connection else self._context_for(asked)
                speaks_elsewhere(asked.project)
                try:
                    result = encode_result(entry.fn(context, command))
                finally:
                    speaks_elsewhere(None)
                self._out.send(self.engine.send_success(sequence, result))
                return
            if entry.streams:
                self._open_stream(sequence)
        except Exception as error:
            self._take_early_inputs(sequence)
            self._answer_error(sequence, self._as_nexus_error(error, entry))
            return
        operation = None
        if entry.info.effect is not Effect.READ:
            key = None if asked.key is None else request_key(asked.key, entry.info, command, asked.project)
            operation = Operation(
                self.context.caller,
                entry.info.name,
                functools.partial(args_of, command),
                why=asked.why,
                key=key,
                project=asked.project,
                cause=asked.cause,
                lease=asked.lease,
            )
        # A context of its own: a later Hello that names another actor must not change the caller of this request.
        context = self._context_for(asked, operation)
        self._tasks[sequence] = self._loop.create_task(self._run(entry, sequence, command, context, pre_command))
        for event in self._take_early_inputs(sequence):
            self._input(event)

    def _context_for(self, asked: RequestContext, operation: Operation | None = None) -> Context:
        own = self.context
        return Context(own.store, own.daemon, own.caller, request=asked, operation=operation)

    def _open_stream(self, sequence: int) -> None:
        if self._ended:
            raise Cancelled("the stream was not opened: the client has shut down its side")
        limit = self._shared.limits.streams_per_connection
        if len(self._streams) >= limit:
            raise ResourceExhausted(
                f"cannot open another stream: this connection has {limit} already",
                hint="End one, or open another connection.",
                details={"limit": limit},
            )
        self._streams[sequence] = SessionStream(self.engine, self._out, self._account, sequence)

    async def _run(
        self, entry: Entry, sequence: int, command: Any, context: Context, pre_command: PreCommand | None
    ) -> None:
        speaks_elsewhere(context.request.project)
        timeout_ms: int | None = getattr(command, "timeout_ms", None)
        deadline = (
            None if timeout_ms is None else self._loop.call_later(timeout_ms / 1000, self._time_out, sequence, context)
        )
        try:
            if context.request.cause is not None:
                await context.store.fetch(functools.partial(require_operation, id_=context.request.cause))
            if pre_command is not None:
                await pre_command(entry.info, command, context.caller)
            if entry.info.large_reply:
                await self._run_large(entry, sequence, command, context)
                return
            if entry.streams:
                result = await entry.fn(context, command, self._streams[sequence])
            else:
                result = entry.fn(context, command)
                if entry.waits:
                    result = await result
            self._answering.add(sequence)
            task = self._tasks[sequence]
            while task.cancelling():
                task.uncancel()  # the work outlasted it (a durable write does), so it must not interrupt the answer
            await self._out.send_when_room(lambda: self.engine.send_success(sequence, encode_result(result)))
            if len(self._tasks) == 1:
                # No other request is at work whose reply could leave with this write.
                self._out.flush()
        except (asyncio.CancelledError, Exception) as failure:
            if context.timed_out and isinstance(failure, (asyncio.CancelledError, TimeoutError)):
                error: NexusError = DeadlineExceeded(f"cannot finish {entry.info.name} within {timeout_ms} ms")
            elif isinstance(failure, Exception):
                error = self._as_nexus_error(failure, entry)
            else:
                self._answer_error(
                    sequence, self._cancel_reasons.get(sequence) or Cancelled("the request was cancelled")
                )
                return
            self._answering.add(sequence)
            try:
                await self._answer_when_room(sequence, error)
            finally:
                # Its traceback has this frame: no cycle may keep what the request holds until a collection.
                del error
        finally:
            if deadline is not None:
                deadline.cancel()
            del self._tasks[sequence]
            if sequence in self._streams:
                self._streams.pop(sequence).close()
            self._cancel_reasons.pop(sequence, None)
            self._answering.discard(sequence)
            if self._socket is not None:
                if self._waiting:
                    self._pump()
                elif self._ended or self.draining:
                    self._close_if_done()

    def _time_out(self, sequence: int, context: Context) -> None:
        """The deadline of a request at work has passed: cancel it, unless its work is done.

        A request that was cancelled for another reason before keeps that reason.
        """
        task = self._tasks[sequence]
        if sequence not in self._answering:
            context.timed_out = not task.cancelling()
            task.cancel()

    async def _run_large(self, entry: Entry, sequence: int, command: Any, context: Context) -> None:
        """Produce a large reply once there is room for it: one at a time for this client, a few over all clients."""
        budgets = self._budgets
        async with self._out.room_lock:
            while True:
                await self._out.wait_for_room()
                async with budgets.large_replies:
                    if not budgets.send_budget_spent() or self._socket is None:
                        result = await entry.fn(context, command)
                        self._out.send(self.engine.send_success(sequence, encode_result(result)))
                        return
                await budgets.wait_for_recheck()

    def _as_nexus_error(self, error: Exception, entry: Entry | None) -> NexusError:
        if isinstance(error, NexusError):
            return error
        name = entry.info.name if entry is not None else "a request"
        if isinstance(error, OSError) and is_exhaustion(error):
            _log.error("%s failed: %s", name, error)
            return ResourceExhausted(
                f"cannot carry out {name}: {error.strerror}",
                hint="Stop some services, or close other clients.\n"
                "Or raise the limit of open files in the shell that starts the daemon: ulimit -n NUMBER",
            )
        _log.error("%s failed", name, exc_info=error)
        return Internal(
            f"cannot carry out {name}: {type(error).__name__}", hint="This is a bug in nexusd; its log has the details."
        )

    def _cancel(self, sequence: int) -> None:
        if sequence in self._tasks:
            self._stop(sequence)
            return
        request = self._waiting.pop(sequence, None)
        if request is not None:
            self._waiting_bytes -= len(request.payload) + _WAITING_BYTES
            self._take_early_inputs(sequence)
            self._answer_error(sequence, Cancelled("the request was cancelled before it began"))

    def _input(self, event: InputReceived) -> None:
        stream = self._streams.get(event.sequence)
        if stream is None:
            early = self._early_inputs.setdefault(event.sequence, [])
            if len(early) <= MAX_QUEUED_INPUTS:  # with one more the stream ends when it is opened
                early.append(event)
                self._waiting_bytes += len(event.payload)
            return
        try:
            body = decode_input(event.payload)
            self.engine.take_input(event.sequence, len(body.get("data", b"")))
            stream.feed(body, len(event.payload))
        except NexusError as error:
            self._stop(event.sequence, error)

    def _take_early_inputs(self, sequence: int) -> list[InputReceived]:
        early = self._early_inputs.pop(sequence, [])
        self._waiting_bytes -= sum(len(event.payload) for event in early)
        return early

    def _stop(self, sequence: int, error: NexusError | None = None) -> None:
        """Cancel a request at work. It is answered with ``error``, by default ``Cancelled``."""
        if error is not None:
            self._cancel_reasons[sequence] = error
        # Not at once: a task that is cancelled before its first step never runs, and could not answer.
        self._loop.call_soon(self._cancel_task, sequence, self._tasks[sequence])

    def _cancel_task(self, sequence: int, task: asyncio.Task[None]) -> None:
        if self._tasks.get(sequence) is task and sequence not in self._answering:
            task.cancel()

    # Answering and ending

    async def _answer_when_room(self, sequence: int, error: NexusError) -> None:
        try:
            await self._out.send_when_room(lambda: self.engine.send_error(sequence, error))
        except asyncio.CancelledError:
            self._answer_error(sequence, error)

    def _answer_error(self, sequence: int, error: NexusError) -> None:
        self._out.send(self.engine.send_error(sequence, error))

    def _on_written(self) -> None:
        """The client has taken some bytes."""
        if self._closing:
            if not self._out.unsent_bytes:
                self._finish()
        elif not self._reading:
            self._pump()

    def fail(self, error: NexusError, sequence: int = 0) -> None:
        """Send an error of the connection itself, cancel all requests, and close once everything is sent.

        With the ``sequence`` of a request at work, that request is answered with the error.
        """
        self._ended = True
        self._mid_frame = False
        self._stop_reading()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._early_inputs.clear()
        self._account_received()
        # Each request gets exactly one last frame. One that is at work gets the error as its own, from its task.
        if sequence not in self._tasks or sequence in self._answering:
            self._answer_error(0 if sequence in self._tasks else sequence, error)
        for open_sequence in list(self._tasks):
            self._stop(open_sequence, error if open_sequence == sequence else None)
        self._close_if_done()
        self._out.flush()

    def _close_if_done(self) -> None:
        if (self._ended or self.draining) and not self.open_requests and not self._closing:
            self._closing = True
            if not self._out.unsent_bytes:
                self._loop.call_soon(self._finish)

    def _finish(self) -> None:
        """Close after the last byte is sent. Unread input is read first: else the peer sees a reset, not an end."""
        if self._socket is None:
            return
        try:
            for _ in range(16):
                if not self._socket.recv(_READ_BYTES):
                    break
        except OSError:
            pass
        self.abort()


def _daemon_stopping() -> Unavailable:
    return Unavailable("the daemon is stopping", hint="Try again once it runs again: nexusctl daemon start")
