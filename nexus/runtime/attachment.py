"""Attaches clients to the terminal or the open standard input of a run, by the socket on which its shim listens.

The messages are described at the top of ``native/nexus-shim.c``. It knows no log: what was written before is the
shim's replay.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import select
import signal
import socket
import struct
import termios
from collections import deque
from pathlib import Path

from nexus.runtime.replay import to_replay
from nexus.runtime.spec import (
    AttachFailed,
    AttachmentLost,
    InputClosed,
    NotAttachable,
    RunEnded,
    TooManyAttached,
)
from nexus.runtime.status import Reachable, is_exhaustion, is_locked, open_process, read_status

__all__ = ["Attachment", "attach"]

_HELLO = struct.Struct(">2sBHH")
_SIZE = struct.Struct(">cHH")
_OUTPUT, _REPLAY = 1, 2
_INPUT_BYTES = 16 * 1024
_MESSAGE_BYTES = 64 * 1024
_MESSAGES_PER_TURN = 8
_MAX_ROWS = 2**16 - 1
_POLL_S = 0.01
_FIRST_PAUSE_S = 0.001
_LAST_PAUSE_S = 0.05
_MAX_POLLS = 300


class Attachment:
    """A client of a run, which sees its output and types its input; it must be closed.

    One task at a time may receive. A client that receives so slowly that the shim would have to keep more than 1 MiB
    for it is closed; the program never waits for one.
    """

    def __init__(self, run_id: str, connection: socket.socket) -> None:
        self.terminal = False
        """Whether the program has a terminal; otherwise its input and output are pipes."""
        self._run_id = run_id
        self._socket = connection
        self._loop = asyncio.get_running_loop()
        self._received: deque[bytes] = deque()
        self._replay: list[tuple[int, bytes]] = []
        self._replay_cut = False
        self._output: deque[tuple[int, bytes]] = deque()
        self._ended = self._closed = self._eof_sent = False
        self._turns = 0
        self._size = b""
        self._queue: deque[tuple[bytes, asyncio.Future[None]]] = deque()
        self._reading: asyncio.Event | None = None

    async def receive(self) -> tuple[int, bytes] | None:
        """The next output: the stream (1 or 2; on a terminal always 1) and at most 64 KiB; None at the run's end.

        None, too, after ``close``. A cancelled call loses nothing.

        Raises:
            AttachmentLost: the output was not read in time, or the shim was killed.
        """
        self._turns += 1
        if self._turns % _MESSAGES_PER_TURN == 0:
            await asyncio.sleep(0)  # a program that floods must not hold up the loop
        while not self._output and not self._ended and not self._closed:
            message = await self._next_message()
            kind = message[:1]
            if kind == b"O":
                self._output.append((message[1], message[2:]))
            elif kind == b"R":
                self._replay.append((message[1], message[3:]))
                self._replay_cut = bool(message[2])
            elif kind == b"L":
                self._output.extend(to_replay(self._replay, is_cut=self._replay_cut, terminal=self.terminal))
                self._replay.clear()
            elif kind == b"E":
                self._ended = True
            elif not message and not self._closed:
                raise self._lost()
        return self._output.popleft() if self._output else None

    async def send(self, data: bytes) -> None:
        """Type input, of any length; waits while the program takes none, and it is not lost when this returns.

        A cancelled call has sent an unknown part, in whole pieces of 16 KiB.

        Raises:
            InputClosed: the program has closed its standard input, or ``send_eof`` was called for it.
            RunEnded: the run has ended.
            AttachmentLost: the output was not read in time, or the shim was killed.
        """
        for at in range(0, len(data), _INPUT_BYTES):
            if at:
                await asyncio.sleep(0)
            if self._eof_sent or self._closed:
                raise self._input_closed()
            sent: asyncio.Future[None] = self._loop.create_future()
            entry = (b"I" + data[at : at + _INPUT_BYTES], sent)
            self._queue.append(entry)
            self._flush()
            try:
                await sent
            finally:
                if entry in self._queue:
                    self._queue.remove(entry)

    def send_eof(self) -> None:
        """End the input behind all that was sent before: close the pipe, or type the terminal's end-of-file character.

        On a terminal that means the end where the program reads lines, and the line is empty.
        """
        if not self._closed and not self._eof_sent and (not self._queue or self._queue[-1][0] != b"E"):
            self._eof_sent = not self.terminal
            self._queue.append((b"E", self._loop.create_future()))
            self._flush()

    async def drain(self) -> None:
        """Wait until the shim has taken all input that was sent: what another client sends then comes behind it."""
        pause_s = _FIRST_PAUSE_S
        while not self._closed and (self._queue or self._unread_bytes()):
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LAST_PAUSE_S)

    def _unread_bytes(self) -> int:
        """How much of what was sent the shim has not received, as Linux counts it."""
        (size,) = struct.unpack("i", fcntl.ioctl(self._socket, termios.TIOCOUTQ, bytes(4)))
        return int(size)

    def resize(self, rows: int, columns: int) -> None:
        """Give the size of the client's terminal; the program's gets the smallest rows and columns of all clients."""
        if not self._closed:
            self._size = _SIZE.pack(b"S", *_fitting((rows, columns)))
            self._flush()

    def close(self) -> None:
        """Detach. The program goes on, and still gets what was sent."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        self._socket.close()
        self._output.clear()
        if self._reading is not None:
            self._reading.set()
        self._fail_queue(self._input_closed())

    async def greet(self, size: tuple[int, int] | None, flags: int) -> None:
        """Introduce the client to the shim.

        Raises:
            TooManyAttached: there is no place for it.
            RunEnded: the run has ended.
        """
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the shim's answer says why
            self._socket.send(_HELLO.pack(b"H1", flags, *_fitting(size)))
        message = await self._next_message()
        if message[:1] == b"X":
            raise TooManyAttached(
                f"cannot attach to run {self._run_id}: too many clients are attached to it", "Detach one of them first."
            )
        if message[:2] != b"W1":
            raise _ended(self._run_id)
        self.terminal = message[2] != 0

    async def _next_message(self) -> bytes:
        """The next message of the shim; empty when it has closed the connection, or this was closed."""
        while not self._received:
            if self._closed:
                return b""
            try:
                return self._socket.recv(_MESSAGE_BYTES)
            except ConnectionResetError:
                continue  # told once, where the shim has closed before it read all; then come its messages
            except BlockingIOError:
                await self._wait_readable()
        return self._received.popleft()

    async def _wait_readable(self) -> None:
        reading = self._reading = asyncio.Event()
        self._loop.add_reader(self._socket, reading.set)
        try:
            await reading.wait()
        finally:
            self._reading = None
            if not self._closed:
                self._loop.remove_reader(self._socket)

    def _flush(self) -> None:
        """Send what waits, as far as the socket has space for it, the size first."""
        try:
            while self._size or self._queue:
                try:
                    self._socket.send(self._size or self._queue[0][0])
                except ConnectionResetError:
                    continue  # told once
                if self._size:
                    self._size = b""
                    continue
                sent = self._queue.popleft()[1]
                if not sent.done():
                    sent.set_result(None)
        except BlockingIOError:
            self._loop.add_writer(self._socket, self._flush)
            return
        except OSError:
            self._size = b""
            self._fail_queue(self._why_broken())
        self._loop.remove_writer(self._socket)

    def _fail_queue(self, error: AttachFailed) -> None:
        while self._queue:
            message, sent = self._queue.popleft()
            if not sent.done() and message != b"E":
                sent.set_exception(error)

    def _why_broken(self) -> AttachFailed:
        """Why nothing can be sent any more."""
        poll = select.poll()
        poll.register(self._socket, 0)
        if not any(events & select.POLLHUP for _fd, events in poll.poll(0)):
            return self._input_closed()
        # The connection is closed, so what is left to be received is bounded by the socket's buffer.
        with contextlib.suppress(BlockingIOError):
            while message := self._socket.recv(_MESSAGE_BYTES):
                self._received.append(message)
        return _ended(self._run_id) if self._ended or b"E" in self._received else self._lost()

    def _input_closed(self) -> InputClosed:
        return InputClosed(f"cannot send input to run {self._run_id}: its standard input is closed")

    def _lost(self) -> AttachmentLost:
        return AttachmentLost(
            f"cannot stay attached to run {self._run_id}: its output was not read in time, or its shim was killed",
            "Attach again.",
        )


async def attach(folder: Path, run_id: str, *, size: tuple[int, int] | None, output: bool, replay: bool) -> Attachment:
    """Attach a client to the run with this folder; the arguments and errors are those of ``Runtime.attach``."""
    attachment = Attachment(run_id, await _connect(folder, run_id))
    try:
        _continue_shim(folder)
        await attachment.greet(size, (_OUTPUT if output else 0) | (_REPLAY if replay else 0))
    except BaseException:
        attachment.close()
        raise
    return attachment


async def _connect(folder: Path, run_id: str) -> socket.socket:
    try:
        place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if is_exhaustion(error):
            raise
        raise _ended(run_id) from None
    connection = None
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.setblocking(False)
        for _ in range(_MAX_POLLS):
            try:
                connection.connect(f"/proc/self/fd/{place}/attach")  # the path may be too long for an address
            except BlockingIOError:
                await asyncio.sleep(_POLL_S)  # as many wait as may
            else:
                made, connection = connection, None
                return made
        raise TooManyAttached(
            f"cannot attach to run {run_id}: too many clients wait to be attached to it", "Try again in a moment."
        )
    except OSError as error:
        if is_exhaustion(error):
            raise
        raise _explain(folder, run_id) from None
    finally:
        os.close(place)
        if connection is not None:
            connection.close()


def _explain(folder: Path, run_id: str) -> AttachFailed:
    """Why there is no socket to which one can connect."""
    status = read_status(folder / "status")
    if status is None or status.failed or status.exit is not None or not is_locked(folder / "lock"):
        return _ended(run_id)
    if status.run is not None and status.run.attachable:
        return NotAttachable(f"cannot attach to run {run_id}: its socket is missing in {folder}", "Start it again.")
    return NotAttachable(
        f"cannot attach to run {run_id}: it was started without a terminal and without an open standard input",
        "Read its log instead, or start it with a terminal.",
    )


def _ended(run_id: str) -> RunEnded:
    return RunEnded(f"cannot attach to run {run_id}: it has ended", "Read its log instead.")


def _continue_shim(folder: Path) -> None:
    """A suspended shim would answer nothing."""
    with Reachable():
        status = read_status(folder / "status")
        run = None if status is None else status.run
        shim = None if run is None else open_process(run.shim_pid, run.shim_start)
        if shim is not None:
            try:
                signal.pidfd_send_signal(shim, signal.SIGCONT)
            finally:
                os.close(shim)


def _fitting(size: tuple[int, int] | None) -> tuple[int, int]:
    """A size as it is sent: 0 is none."""
    rows, columns = size or (0, 0)
    return min(max(rows, 0), _MAX_ROWS), min(max(columns, 0), _MAX_ROWS)
