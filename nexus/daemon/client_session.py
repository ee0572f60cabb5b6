"""One client's connection in the daemon: bytes in, requests out to the handlers, replies back, within the limits.

The session owns its socket. It knows no command; it moves requests between the sans-IO engine and the dispatch table,
keeps them within what one client may have, and never lets a client that does not read, or does not stop, hold up
another one.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import socket
from typing import TYPE_CHECKING, Any

from nexus_protocol import (
    HEADER_SIZE,
    Cancelled,
    CancelReceived,
    ConnectionFailed,
    DeadlineExceeded,
    InputReceived,
    Internal,
    NexusError,
    RequestReceived,
    ResourceExhausted,
    ServerConnection,
    Unavailable,
    UnknownCommand,
)

from nexus.capability import Caller, Context, PreCommand
from nexus.daemon.dispatch import Entry
from nexus.daemon.send_buffer import SendBuffer
from nexus.daemon.streams import MAX_QUEUED_INPUTS, SessionStream, decode_input, encode_result
from nexus.system.commands import Hello

if TYPE_CHECKING:
    from nexus_protocol.connection import ServerEvent

    from nexus.daemon.server import Server

__all__ = ["ClientSession"]

_log = logging.getLogger("nexus.session")

_READ_BYTES = 64 * 1024
_NEWCOMER_S = 0.1
"""How long a client that has only just connected may take to make its first request, when the daemon is stopping."""
_TURN = 64
"""Requests carried out in one turn of the event loop; then the other clients have theirs."""
_TURN_S = 0.002
"""And not for longer than this, whatever they cost."""
_WAITING_BYTES = 256
"""What a waiting request takes beside its payload, so that many empty ones count as well."""
_FREE_RECEIVE_BYTES = 64 * 1024
"""What any connection may hold however much the others do, so that small requests always get through."""
_NO_DEADLINE = contextlib.nullcontext()


class ClientSession:
    """A connected client, from accept to close."""

    def __init__(self, server: Server, sock: socket.socket, caller: Caller) -> None:
        self.server = server
        self.engine = ServerConnection(lambda command: server.payload_limit(command), server.dispatch.input_commands)
        self.context = Context(server.store, server, caller)
        self.draining = False
        self._loop = server.loop
        self._socket: socket.socket | None = sock
        self._fd = sock.fileno()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._streams: dict[int, SessionStream] = {}
        self._cancel_reasons: dict[int, NexusError] = {}
        """Why a running request is being stopped, where it was not the client's own Cancel."""
        self._waiting: collections.OrderedDict[int, RequestReceived] = collections.OrderedDict()
        """By sequence, the next one first; tens of thousands may wait, and each of them may be cancelled."""
        self._early_inputs: dict[int, list[InputReceived]] = {}
        """Input for streams that wait their turn to be opened; its bytes count as waiting, too."""
        self._waiting_bytes = 0
        self._received_bytes = 0
        """What of this session counts in the server's receive budget."""
        self._input_bytes = 0
        """Input that waits in open streams. It does not stop the reading: a Cancel has to get through, and the end."""
        self._out = SendBuffer(server, sock, self._on_written, self.abort)
        self._answering: set[int] = set()
        """Requests whose work is done: cancelling them now could only make the answer a lie."""
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

    # What the server asks

    @property
    def open_requests(self) -> int:
        """Requests at work or waiting their turn."""
        return len(self._tasks) + len(self._waiting)

    @property
    def unsent_bytes(self) -> int:
        """Encoded and not yet sent."""
        return self._out.unsent_bytes

    @property
    def stalled_since(self) -> float:
        """When the client last took something (loop time)."""
        return self._out.progress_at

    def tick(self, now: float) -> None:
        """Close the connection if it has overrun one of its times."""
        limits = self.server.limits
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
        """Whether the rest of a frame is all that is missing here.

        That holds as well for one that is not read because the daemon's receive budget is spent: half frames must not
        keep it spent for ever.
        """
        return self._reading or not (self._ended or self._waiting or not self._out.has_room())

    def begin_drain(self) -> None:
        """Refuse what has not begun, tell the streams to end, and close once all is answered.

        What has arrived is still carried out, and so is the first request of a client that has only just connected:
        it could not know, and a moment later it would have waited for the next daemon.
        """
        if self._reading and self._socket is not None:
            self._on_readable()
        said_hello_at_most = self._last_code in (0, Hello.info.code) and not self._tasks
        if said_hello_at_most and self._loop.time() - self._accepted_at < _NEWCOMER_S:
            self._loop.call_later(_NEWCOMER_S, self._drain)
        else:
            self._drain()

    def _drain(self) -> None:
        self.draining = True
        while self._waiting:
            self._answer_error(self._waiting.popitem(last=False)[0], _stopping())
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
        """Close the connection now; what was not sent is lost."""
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
            stream.close()  # here, since a task that is cancelled before its first step never runs at all
        for task in list(self._tasks.values()):
            task.cancel()
        self.server.session_closed(self)

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
                and len(self._tasks) < self.server.limits.requests_per_connection
            ):
                # By far the most frequent case: one whole request, and nothing in its way.
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
        """The client will send no more; what it asked for is still answered, but no stream is left to run on."""
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
        """Read while there is room for what comes, and for what it would be answered."""
        limits = self.server.limits
        self._account_received()
        wanted = (
            not self._ended
            and self._out.has_room()
            and self._waiting_bytes <= limits.max_frame_payload_bytes
            and (self._received_bytes <= _FREE_RECEIVE_BYTES or self.server.may_receive(self))
        )
        if wanted == self._reading or self._socket is None:
            return
        if wanted:
            self._reading = True
            self._began_at = self._loop.time()
            self._loop.add_reader(self._fd, self._on_readable)
        else:
            self._stop_reading()

    def reconsider_reading(self) -> None:
        """The server's budget has room again."""
        if not self._reading and not self._ended:
            self._update_reading()

    def _account_received(self) -> None:
        held = 0 if self._socket is None else self._waiting_bytes + self.engine.buffered
        if held != self._received_bytes:
            self.server.account_received(held - self._received_bytes)
            self._received_bytes = held
            if held <= _FREE_RECEIVE_BYTES:
                self.server.received_all(self)

    def make_room_for_input(self, size: int) -> None:
        """Refuse Input once as much of it waits, in the streams of all connections, as the receive budget allows.

        Raises:
            ResourceExhausted: there is no room for ``size`` bytes more.
        """
        if self._input_bytes + size > _FREE_RECEIVE_BYTES and not self.server.has_room_for_input(size):
            raise ResourceExhausted(
                "cannot take more input: too much of it waits to be read, over all connections",
                hint="Try again once other streams have taken theirs.",
                details={"limit": self.server.limits.receive_budget_bytes},
            )

    def account_input(self, delta: int) -> None:
        """Streams of this connection hold this much more Input."""
        self._input_bytes += delta
        self.server.account_input(delta)

    # Requests

    def _pump(self) -> None:
        """Carry out what waits, as far as the limits of this connection and one turn of the loop allow."""
        limit = self.server.limits.requests_per_connection
        waiting = self._waiting
        turn = _TURN
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
        code, sequence, payload = request
        self._last_code = code
        entry = self.server.dispatch.entries.get(code)
        try:
            if self.draining:
                raise _stopping()
            if entry is None:
                raise UnknownCommand(f"cannot carry out command {code}: there is no such command here")
            command = entry.decode(payload)
            pre_command = self.server.pre_command
            if pre_command is not None and not entry.hookable:
                pre_command = None
            if not entry.waits and pre_command is None:
                result = encode_result(entry.fn(self.context, command))
                self._out.send(self.engine.send_success(sequence, result))
                return
            if entry.streams:
                self._open_stream(sequence)
        except Exception as error:
            self._take_early_inputs(sequence)
            self._answer_error(sequence, self._as_nexus_error(error, entry))
            return
        # A context of its own: who asked must not change when a later Hello names somebody else.
        context = Context(self.context.store, self.context.daemon, self.context.caller)
        self._tasks[sequence] = self._loop.create_task(self._run(entry, sequence, command, context, pre_command))
        for event in self._take_early_inputs(sequence):
            self._input(event)

    def _open_stream(self, sequence: int) -> None:
        if self._ended:
            raise Cancelled("the stream was not opened: the client has shut down its side")
        limit = self.server.limits.streams_per_connection
        if len(self._streams) >= limit:
            raise ResourceExhausted(
                f"cannot open another stream: this connection has {limit} already",
                hint="End one, or open another connection.",
                details={"limit": limit},
            )
        self._streams[sequence] = SessionStream(self, self._out, sequence)

    async def _run(
        self, entry: Entry, sequence: int, command: Any, context: Context, pre_command: PreCommand | None
    ) -> None:
        timeout_ms: int | None = getattr(command, "timeout_ms", None)
        deadline = _NO_DEADLINE if timeout_ms is None else asyncio.timeout(timeout_ms / 1000)
        try:
            async with deadline:
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
            await self._out.send_when_room(lambda: self.engine.send_success(sequence, encode_result(result)))
            if len(self._tasks) == 1:
                # Nothing else is at work whose reply could go out with this one.
                self._out.flush()
        except asyncio.CancelledError:
            self._answer_error(sequence, self._cancel_reasons.get(sequence) or Cancelled("the request was cancelled"))
        except Exception as failure:
            self._answering.add(sequence)
            if isinstance(failure, TimeoutError) and isinstance(deadline, asyncio.Timeout) and deadline.expired():
                error: NexusError = DeadlineExceeded(f"cannot finish {entry.info.name} within {timeout_ms} ms")
            else:
                error = self._as_nexus_error(failure, entry)
            await self._answer_when_room(sequence, error)
        finally:
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

    async def _run_large(self, entry: Entry, sequence: int, command: Any, context: Context) -> None:
        """Produce a large reply only once there is room for it: one at a time here, a few over all connections."""
        async with self._out.room_lock:
            while True:
                await self._out.wait_for_room()
                async with self.server.large_replies:
                    if not self.server.send_budget_spent() or self._socket is None:
                        result = await entry.fn(context, command)
                        self._out.send(self.engine.send_success(sequence, encode_result(result)))
                        return
                await self.server.send_budget_freed()

    def _as_nexus_error(self, error: Exception, entry: Entry | None) -> NexusError:
        if isinstance(error, NexusError):
            return error
        name = entry.info.name if entry is not None else "a request"
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
            if len(early) <= MAX_QUEUED_INPUTS:  # with one more the stream ends as it is opened
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
        """Cancel a request at work; it is answered with ``error``, by default that it was cancelled."""
        if error is not None:
            self._cancel_reasons[sequence] = error
        # Not at once: a task that is cancelled before its first step never runs at all, not even to answer.
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
        """The client has taken something."""
        if self._closing:
            if not self._out.unsent_bytes:
                self._finish()
        elif not self._reading:
            self._pump()

    def fail(self, error: NexusError, sequence: int = 0) -> None:
        """Answer with an error of the connection itself, then close it; what was at work is cancelled."""
        self._ended = True
        self._mid_frame = False
        self._stop_reading()
        self._waiting.clear()
        self._waiting_bytes = 0
        self._early_inputs.clear()
        self._account_received()
        # One last frame for each request: one that is at work gets the error as its own.
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
        """Close after the last byte: first take what is left to read, so that the peer sees an end, not a reset."""
        if self._socket is None:
            return
        try:
            for _ in range(16):
                if not self._socket.recv(_READ_BYTES):
                    break
        except OSError:
            pass
        self.abort()


def _stopping() -> Unavailable:
    return Unavailable("the daemon is stopping", hint="Try again once it runs again: nexusctl daemon start")
