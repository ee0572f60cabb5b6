"""Attaches this terminal, or the standard input and output, to what runs: ``attach``, and ``-it`` of what begins it.

It knows the items and the input of the stream, and no record type to which it attaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.command import StreamCommand
from nexus_protocol.errors import DeadlineExceeded, ResourceExhausted, Unavailable

from nexus.client.aio import Client, Stream
from nexus.client.errors import ConnectionFailure
from nexus.records.processes import AttachmentLost, LogStream, TerminalEnd, TerminalOutput

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["DETACHED", "Attach", "attach_terminal"]

Attach = Callable[[int | None, int | None, bool], StreamCommand[TerminalOutput, TerminalEnd]]
"""Makes the command for the rows and columns of a terminal, and for a replay or none."""

DETACHED = -1
"""What ``attach_terminal`` returns when the user has detached; the program goes on."""
_DETACH = b"\x1d"
_READ_BYTES = 64 * 1024
_READ_AHEAD_BYTES = 1024 * 1024
_RETRIES_S = 30.0
_PAUSE_S = 0.2
_NOTE_AFTER_S = 1.0
_LARGEST_SIZE = 10_000
_LAST_INPUT_S = 1.0
"""How long input that was typed before the user detaches may wait for the program to take it."""

_SWITCH = re.compile(rb"\x1b\[(\?[0-9;]+[hl]|>[0-9;]*[mu])")
"""Sets or resets private modes (DECSET, DECRST), or the way in which keys are encoded (of xterm and of kitty)."""
_LONGEST_SWITCH = 32
_ALTERNATE = (b"47", b"1047", b"1049")
_OTHER_SCREEN = b"\x1b[?1049l"
_CLEAR = b"\x1b[0m\x1b[H\x1b[2J"
_AS_BEFORE = (
    b"\x1b[?1l\x1b>"  # the cursor keys and the keypad send what they usually do
    b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1004l\x1b[?1006l\x1b[?2004l"  # no reports of mouse, focus and pasting
    b"\x1b7\x1b[r\x1b8"  # the whole screen scrolls
    b"\x1b[4l\x1b[?7h\x1b(B\x0f\x1b[0m\x1b[?25h"  # insert mode, wrapping, characters, colours, cursor
)
"""Undoes what a full-screen program sets, which it cannot do itself because it goes on."""


class _Modes:
    """What the program has set of this terminal, as far as it has to be undone."""

    def __init__(self) -> None:
        self._set: set[bytes] = set()
        self._keys: dict[bytes, bool] = {}
        self._rest = b""
        """The last bytes, which may begin a switch."""

    def feed(self, data: bytes) -> None:
        """Note the switches in output of the program."""
        data = self._rest + data
        for switch in _SWITCH.findall(data):
            if switch.startswith(b">"):
                self._keys[switch[-1:]] = True
            elif switch.endswith(b"h"):
                self._set |= set(switch[1:-1].split(b";"))
            else:
                self._set -= set(switch[1:-1].split(b";"))
        self._rest = data[-_LONGEST_SWITCH:].rpartition(b"\x1b")[2]
        self._rest = b"\x1b" + self._rest if b"\x1b" in data[-_LONGEST_SWITCH:] else b""

    def undone(self) -> bytes:
        """The bytes that give the terminal back as it was."""
        others = sorted(self._set - {b"7", b"25", *_ALTERNATE})
        data = _OTHER_SCREEN if self._set & set(_ALTERNATE) else b""
        data += b"\x1b[>4;0m" if b"m" in self._keys else b""
        data += b"\x1b[<u" if b"u" in self._keys else b""
        return data + (b"\x1b[?" + b";".join(others) + b"l" if others else b"") + _AS_BEFORE


def _write(fd: int, data: bytes) -> None:
    """Write bytes as they are: the program has this terminal."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _Detached(Exception):
    """The user has typed the character that detaches, or the terminal is gone."""


class _Session:
    """One attachment, over the connections to the daemons that there are meanwhile."""

    def __init__(self, app: App, make: Attach, what: str) -> None:
        self._app = app
        self._make = make
        self._what = what
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()
        """Input; None is its end."""
        self._typed_bytes = 0
        """How much input was read and not sent."""
        self._in_flight = bytearray()
        """Input that was sent, and that no daemon has acknowledged: the next one gets it."""
        self._forgotten_bytes = 0
        """How much of the input of the present connection is not in flight any more."""
        self._is_read = self._is_ended = self._is_end_sent = False
        """Of the input: all of it was read, all was sent, and so was its end."""
        self._resized = asyncio.Event()
        self._leaving = asyncio.Event()
        self._all_sent = asyncio.Event()
        self._all_sent.set()
        self.ended_by: signal.Signals | None = None
        """The signal that ended this process."""
        self._raw: list[Any] | None = None
        """The settings of this terminal before it was made raw."""
        self._has_begun = False
        """Whether the present connection is attached."""
        self._was_attached = False
        self._modes = _Modes()
        self._has_input = sys.stdin is not None
        self._types = self._has_input and sys.stdin.isatty()
        """Whether a person types the input."""
        self._is_terminal = self._types and sys.stdout.isatty()

    def _size(self) -> tuple[int | None, int | None]:
        if not self._is_terminal:
            return None, None
        # Not that of the variables LINES and COLUMNS, which do not change with the window.
        columns, rows = (min(length, _LARGEST_SIZE) or None for length in os.get_terminal_size(sys.stdout.fileno()))
        return (None, None) if rows is None or columns is None else (rows, columns)

    async def run(self) -> None:
        """Attach until the program ends; over a restart of the daemon, too.

        Raises:
            _Detached: the user has detached.
            NexusError: it cannot be attached to.
        """
        loop = asyncio.get_running_loop()
        until = loop.time()
        while True:
            self._has_begun = False
            try:
                client = Client(self._app.address(), actor=self._app.actor, project=self._app.project())
                # Before the first connection ssh may ask on the terminal; afterwards the program has it.
                client.may_ask = not self._was_attached
                async with client:
                    self._handle_signals()
                    self._read_on()
                    await self._attach(client, replay=not self._was_attached or self._is_terminal)
                    return
            except (Unavailable, ConnectionFailure, DeadlineExceeded, ResourceExhausted) as error:
                if self._has_begun:
                    until = loop.time() + _RETRIES_S
                # The next daemon has the program too.
                if not self._was_attached or isinstance(error, AttachmentLost) or loop.time() > until:
                    raise
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._leaving.wait(), _PAUSE_S)
                raise _Detached

    def _handle_signals(self) -> None:
        """From the first connection on there is something to end: on a terminal, detach where a signal ends this."""
        if not self._is_terminal:
            return
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGWINCH, self._resized.set)
        for number in (signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, self._end, number)

    def _end(self, number: signal.Signals) -> None:
        self.ended_by = number
        self._leaving.set()

    async def _attach(self, client: Client, *, replay: bool) -> None:
        rows, columns = self._size()
        stream = client.stream(self._make(rows, columns, replay))
        note = asyncio.get_running_loop().call_later(_NOTE_AFTER_S, self._note_waiting)
        async with contextlib.aclosing(stream):
            parts = (self._show(stream), self._type(stream), self._leave(stream))
            tasks = [asyncio.create_task(part) for part in parts]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                shown, *others = tasks
                for task in others:
                    if task.done() and not shown.done():
                        task.result()  # the user has detached, or the connection is lost
                await shown
            finally:
                note.cancel()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _note_waiting(self) -> None:
        if self._types and not self._was_attached and not self._has_begun:
            click.echo(f"Waiting until {self._what} begins; Ctrl-C ends this.", err=True)

    async def _show(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        async for item in stream:
            if item.terminal is not None:
                self._begin(terminal=item.terminal and self._is_terminal)
                continue
            _write(2 if item.stream is LogStream.STDERR else 1, item.data)
            if self._raw is not None:
                self._modes.feed(item.data)
            await asyncio.sleep(0)  # what is typed does not wait behind a flood of output

    async def _type(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        resizing = asyncio.create_task(self._resize(stream))
        self._forgotten_bytes = 0
        try:
            await stream.send(bytes(self._in_flight))
            while not self._is_ended:
                data = await self._typed.get()
                self._is_ended = data is None
                self._in_flight += data or b""
                await stream.send(data)
                self._forget_acknowledged(stream)
                self._typed_bytes -= len(data or b"")
                if not self._typed_bytes:
                    self._all_sent.set()
                self._read_on()
            if not self._is_end_sent:
                await stream.send(eof=True)
                self._is_end_sent = True
            await asyncio.Event().wait()
        except RuntimeError:
            pass  # the program has ended, which its output tells
        finally:
            self._forget_acknowledged(stream)
            resizing.cancel()
            await asyncio.gather(resizing, return_exceptions=True)

    def _forget_acknowledged(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        del self._in_flight[: stream.acknowledged_bytes - self._forgotten_bytes]
        self._forgotten_bytes = stream.acknowledged_bytes

    async def _leave(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        """Detach once the user wants to, also from a program that takes no input."""
        await self._leaving.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_INPUT_S):
                await self._all_sent.wait()
                await stream.drain()
        raise _Detached

    async def _resize(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        while True:
            await self._resized.wait()
            self._resized.clear()
            rows, columns = self._size()
            if rows is not None:
                await stream.send(control={"rows": rows, "columns": columns})

    # This terminal

    def _read_on(self) -> None:
        """Read input, unless enough of it waits to be sent."""
        if self._is_read or not self._has_input or self._typed_bytes >= _READ_AHEAD_BYTES:
            return
        loop = asyncio.get_running_loop()
        try:
            loop.add_reader(sys.stdin.fileno(), self._read)
        except PermissionError:  # epoll takes no regular file
            self._read()

    def _read(self) -> None:
        fd = sys.stdin.fileno()
        try:
            data = os.read(fd, _READ_BYTES)
            is_gone = not data and self._raw is not None  # in raw mode no key ends the input
        except OSError:
            data, is_gone = b"", True
        data, detach, _rest = data.partition(_DETACH) if self._raw is not None else (data, b"", b"")
        if data:
            self._typed.put_nowait(data)
            self._typed_bytes += len(data)
            self._all_sent.clear()
        if detach or is_gone:
            self._leaving.set()
        elif not data:
            self._typed.put_nowait(None)
        self._is_read = self._leaving.is_set() or not data
        if self._is_read or (self._typed_bytes >= _READ_AHEAD_BYTES and self._raw is None):
            asyncio.get_running_loop().remove_reader(fd)

    def _begin(self, *, terminal: bool) -> None:
        """The client is attached: on a terminal, pass every key to the program from now on, Ctrl-C too."""
        if self._types and not self._was_attached:
            what = self._what[:1].upper() + self._what[1:]
            click.echo(
                f"{what}. {'Ctrl-] detaches' if terminal else 'Ctrl-D ends its input, Ctrl-C detaches'}.", err=True
            )
        if terminal and self._raw is None:
            self._raw = termios.tcgetattr(sys.stdin)
            tty.setraw(sys.stdin, termios.TCSADRAIN)
        elif self._raw is not None:
            _write(1, _CLEAR)  # what was shown comes again
        self._has_begun = self._was_attached = True

    def restore(self) -> None:
        """Give the terminal back as it was."""
        if self._raw is not None:
            with contextlib.suppress(OSError):  # it is gone
                _write(1, self._modes.undone())
            with contextlib.suppress(termios.error):
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._raw)
            self._raw = None


@contextlib.contextmanager
def _given_back(session: _Session) -> Iterator[None]:
    try:
        yield
    finally:
        session.restore()


def attach_terminal(app: App, make: Attach, what: str) -> int:
    """Attach until the program ends (0), or the user detaches (``DETACHED``); ``what`` is its name in sentences.

    Raises:
        NexusError: it cannot be attached to.
        ConnectionFailure: the daemon is gone, and no other one has come.
    """
    if app.host is None:
        app.connect()  # a daemon that does not run is started, or explained, as for every other verb
    app.close()  # each connection to a host is a run of ssh
    session = _Session(app, make, what)
    sys.stdout.flush()
    with _given_back(session):
        try:
            asyncio.run(session.run())
        except _Detached:
            session.restore()
            if session.ended_by is not None:
                signal.signal(session.ended_by, signal.SIG_DFL)
                signal.raise_signal(session.ended_by)
            click.echo(f"\nDetached from {what}, which goes on.", err=True)
            return DETACHED
    return 0
