"""Attaches this terminal, or the standard input and output, to what runs: ``attach``, and ``-it`` of what begins it.

It knows the items and the input of the stream, and no record type to which it attaches.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
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

__all__ = ["DETACH_HINT", "DETACHED", "Attach", "attach_terminal"]

Attach = Callable[[int | None, int | None, bool], StreamCommand[TerminalOutput, TerminalEnd]]
"""Makes the command for the rows and columns of a terminal, and for a replay or none."""

DETACH_HINT = "Ctrl-] detaches"
DETACHED = -1
"""What ``attach_terminal`` returns when the user has detached; the program goes on."""
_DETACH = b"\x1d"
_READ_BYTES = 64 * 1024
_RETRIES_S = 30.0
_PAUSE_S = 0.2


_AS_BEFORE = b"\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?2004l\x1b[?25h\x1b[0m"
"""Ends reports of the mouse and of pasting, and colours, and shows the cursor: a program that goes on does not."""
_ALTERNATE = re.compile(rb"\x1b\[\?(?:1049|1047|47)([hl])")
"""Switches to the alternate screen, and back."""
_LONGEST_SWITCH = 8


def _write(fd: int, data: bytes) -> None:
    """Write bytes as they are: the program has this terminal."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


class _Detached(Exception):
    """The user has typed the character that detaches."""


class _Session:
    """One attachment, over the connections to the daemons that there are meanwhile."""

    def __init__(self, app: App, make: Attach, *, read_input: bool) -> None:
        self._app = app
        self._make = make
        self._read_input = read_input
        self._typed: asyncio.Queue[bytes | None] = asyncio.Queue()
        """Input; None is its end."""
        self._resized = asyncio.Event()
        self._eof_sent = False
        self._unsent: bytes | None = None
        self._raw: list[Any] | None = None
        """The settings of this terminal before it was made raw."""
        self._has_begun = False
        """Whether the present connection is attached."""
        self._was_attached = False
        self._is_alternate = False
        """Whether the program has switched to the alternate screen."""
        self._shown = b""
        """The last bytes that were shown, which may begin such a switch."""
        self.is_terminal = sys.stdin.isatty() and sys.stdout.isatty()

    def _size(self) -> tuple[int | None, int | None]:
        if not self.is_terminal:
            return None, None
        size = shutil.get_terminal_size()
        return size.lines, size.columns

    async def run(self) -> None:
        """Attach until the program ends; over a restart of the daemon, too.

        Raises:
            _Detached: the user has detached.
            NexusError: it cannot be attached to.
        """
        loop = asyncio.get_running_loop()
        if self.is_terminal:
            loop.add_signal_handler(signal.SIGWINCH, self._resized.set)
        if self._read_input:
            self._begin_reading(loop)
        until = loop.time()
        try:
            while True:
                self._has_begun = False
                try:
                    client = Client(str(self._app.socket_path()), actor=self._app.actor, project=self._app.project())
                    async with client:
                        await self._attach(client, replay=not self._was_attached or self.is_terminal)
                        return
                except (Unavailable, ConnectionFailure, DeadlineExceeded, ResourceExhausted) as error:
                    if self._has_begun:
                        until = loop.time() + _RETRIES_S
                    self._was_attached = self._was_attached or self._has_begun
                    # The next daemon has the program too.
                    if not self._was_attached or isinstance(error, AttachmentLost) or loop.time() > until:
                        raise
                await asyncio.sleep(_PAUSE_S)
        finally:
            if self._read_input:
                with contextlib.suppress(Exception):
                    loop.remove_reader(sys.stdin.fileno())
            if self.is_terminal:
                loop.remove_signal_handler(signal.SIGWINCH)

    async def _attach(self, client: Client, *, replay: bool) -> None:
        rows, columns = self._size()
        stream = client.stream(self._make(rows, columns, replay))
        async with contextlib.aclosing(stream):
            tasks = [asyncio.create_task(self._show(stream)), asyncio.create_task(self._type(stream))]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                shown, typed = tasks
                if typed.done() and not shown.done():
                    typed.result()  # the user has detached, or the connection is lost
                await shown
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _show(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        async for item in stream:
            if item.terminal is not None:
                self._has_begun = True
                if item.terminal and self.is_terminal:
                    self.make_raw()
                continue
            _write(2 if item.stream is LogStream.STDERR else 1, item.data)
            if self._raw is not None:
                switches = _ALTERNATE.findall(self._shown + item.data)
                self._is_alternate = switches[-1] == b"h" if switches else self._is_alternate
                self._shown = (self._shown + item.data)[1 - _LONGEST_SWITCH :]

    async def _type(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        resizing = asyncio.create_task(self._resize(stream))
        try:
            while True:
                data = self._unsent if self._unsent is not None else await self._typed.get()
                self._unsent = data
                if data is None or self._eof_sent:
                    if not self._eof_sent:
                        await stream.send(eof=True)
                    self._eof_sent, self._unsent = True, None
                    await asyncio.Event().wait()
                    continue
                before, detach, _after = data.partition(_DETACH) if self._raw is not None else (data, b"", b"")
                if before:
                    await stream.send(before)
                self._unsent = None
                if detach:
                    raise _Detached
        finally:
            resizing.cancel()
            await asyncio.gather(resizing, return_exceptions=True)

    async def _resize(self, stream: Stream[TerminalOutput, TerminalEnd]) -> None:
        while True:
            await self._resized.wait()
            self._resized.clear()
            rows, columns = self._size()
            await stream.send(control={"rows": rows, "columns": columns})

    # This terminal

    def _begin_reading(self, loop: asyncio.AbstractEventLoop) -> None:
        fd = sys.stdin.fileno()

        def read() -> None:
            try:
                data = os.read(fd, _READ_BYTES)
            except OSError:
                data = b""
            self._typed.put_nowait(data or None)
            if not data:
                loop.remove_reader(fd)

        try:
            loop.add_reader(fd, read)
        except PermissionError:  # epoll takes no regular file
            self._typed.put_nowait(sys.stdin.buffer.read() or None)
            self._typed.put_nowait(None)

    def make_raw(self) -> None:
        """Pass every key to the program, Ctrl-C too."""
        if self._raw is None:
            self._raw = termios.tcgetattr(sys.stdin)
            tty.setraw(sys.stdin, termios.TCSADRAIN)

    def restore(self) -> None:
        """Give the terminal back as it was."""
        if self._raw is not None:
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._raw)
            _write(1, _AS_BEFORE + (b"\x1b[?1049l" if self._is_alternate else b""))
            self._raw = None


@contextlib.contextmanager
def _given_back(session: _Session) -> Iterator[None]:
    try:
        yield
    finally:
        session.restore()


def attach_terminal(app: App, make: Attach, what: str, *, read_input: bool = True) -> int:
    """Attach until the program ends (0), or the user detaches (``DETACHED``); ``what`` is its name in sentences.

    Raises:
        NexusError: it cannot be attached to.
        ConnectionFailure: the daemon is gone, and no other one has come.
    """
    app.connect()  # a daemon that does not run is started, or explained, as for every other verb
    app.close()
    session = _Session(app, make, read_input=read_input)
    sys.stdout.flush()
    with _given_back(session):
        try:
            asyncio.run(session.run())
        except _Detached:
            session.restore()
            click.echo(f"\nDetached from {what}, which goes on.", err=True)
            return DETACHED
    return 0
