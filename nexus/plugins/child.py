"""The daemon's side of one plugins' process: starts it, calls it within its time limits, logs what it prints, ends it.

It knows which plugin is being called, and no command.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable

import msgspec

from nexus.plugins.messages import (
    MAX_MESSAGE_BYTES,
    PREFIX_BYTES,
    Entered,
    Failed,
    Load,
    Loaded,
    Reply,
    Result,
    Vetoed,
    decode_reply,
    framed,
)
from nexus.runtime.command import ChildProcess, OutputPipe

__all__ = ["Broken", "Child"]

_log = logging.getLogger("nexus.plugins")

_START_S = 30.0
"""How long the process may take to start, on a machine under load."""
_END_S = 1.0
"""How long the end of the process is awaited once it was killed, or its channel was closed."""
_NOT_INHERITED = ("NOTIFY_", "LISTEN_", "WATCHDOG_", "INVOCATION_ID", "JOURNAL_STREAM", "MAINPID", "MANAGERPID")


class Broken(Exception):
    """The process hangs, has ended, or sent something malformed. ``plugin`` was being called, where that is known."""

    def __init__(self, plugin: str | None, reason: str) -> None:
        super().__init__(reason)
        self.plugin = plugin
        self.reason = reason


class Child:
    """The daemon's side of one plugins' process. It must be ended with ``kill``, whatever happened to it."""

    def __init__(self, memory_mib: int, on_end: Callable[[], None]) -> None:
        """Start the process; ``on_end`` is called when it has ended.

        Raises:
            OSError: it cannot be started.
        """
        self.started_at = time.monotonic()
        self._on_end = on_end
        self._inside: str | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._output = _OutputLog()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = ChildProcess(
                # Neither the working directory (-P) nor bytecode beside a plugin (-B) is a source of programs.
                [sys.executable, "-P", "-B", "-m", "nexus.plugins.process"]
                + [str(number) for number in (theirs.fileno(), os.getpid(), memory_mib)],
                directory="/",
                environment={name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)},
                stdout=self._output.pipe,
                stderr=self._output.pipe,
                descriptors=(theirs.fileno(),),
                on_exit=self._exited,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def ended(self) -> asyncio.Event:
        """Set when the process has ended."""
        return self._process.ended

    async def load(self, load: Load) -> Loaded:
        """Have the process load the plugins.

        Raises:
            Broken: a plugin ends the process, or takes too long.
        """
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        reply = await self._ask(framed(load), _START_S, load.load_timeout_ms)
        if not isinstance(reply, Loaded):
            raise self._malformed()
        return reply

    async def ask(self, ask: bytes, timeout_ms: int) -> Result | Vetoed | Failed:
        """Send a framed ``Call``, and give its result; each plugin that it reaches may take ``timeout_ms``.

        Raises:
            Broken: a plugin ends the process, or takes too long.
        """
        reply = await self._ask(ask, timeout_ms / 1000, timeout_ms)
        if isinstance(reply, Loaded):
            raise self._malformed()
        return reply

    async def _ask(self, message: bytes, first_s: float, timeout_ms: int) -> Loaded | Result | Vetoed | Failed:
        assert self._writer is not None
        self._inside = None
        limit_s = first_s
        try:
            async with asyncio.timeout(limit_s):
                self._writer.write(message)
                await self._writer.drain()
            while True:
                async with asyncio.timeout(limit_s):
                    reply = await self._receive()
                if not isinstance(reply, Entered):
                    self._inside = None
                    return reply
                self._inside = reply.plugin
                limit_s = timeout_ms / 1000
        except TimeoutError:
            raise Broken(self._inside, f"it took longer than {round(limit_s * 1000)} ms") from None
        except (msgspec.MsgspecError, ValueError):
            raise self._malformed() from None
        except (OSError, EOFError):
            raise Broken(self._inside, await self._how_it_ended()) from None

    async def _receive(self) -> Reply:
        assert self._reader is not None
        size = int.from_bytes(await self._reader.readexactly(PREFIX_BYTES), "big")
        if size > MAX_MESSAGE_BYTES:
            raise ValueError("a message that is too large")
        reply: Reply = decode_reply(await self._reader.readexactly(size))
        return reply

    def _malformed(self) -> Broken:
        return Broken(self._inside, "the process wrote into the daemon's own channel")

    async def _how_it_ended(self) -> str:
        await self._process.wait(_END_S)
        code = self._process.returncode
        if code is None:
            return "the process closed the daemon's channel"
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        return f"the process ended (exit code {code})"

    def kill(self) -> None:
        """Kill the process and its group, and close what belongs to it."""
        self._process.signal_group(signal.SIGKILL)
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._socket.close()
        self._output.close()

    async def gone(self) -> None:
        """Wait until a killed process has ended, 1 s at most."""
        await self._process.wait(_END_S)

    def _exited(self) -> None:
        self._process.signal_group(signal.SIGKILL)
        self._process.reap()
        self._on_end()


class _OutputLog:
    """What plugins print: logged line by line, and bounded in each window of time."""

    _WINDOW_S = 10.0
    _LOGGED_BYTES = 16 * 1024
    """In one window; the rest is dropped, and counted."""
    _READ_BYTES = 64 * 1024 * 1024
    """In one window; beyond it the pipe fills up, and the plugins that print block."""
    _LINE_BYTES = 1000

    def __init__(self) -> None:
        self.pipe = OutputPipe(self._receive, self.close)
        self._loop = asyncio.get_running_loop()
        self._line = bytearray()
        self._logged = self._read = self._dropped = 0
        self._next: asyncio.TimerHandle | None = None
        self._closed = False

    def _receive(self, data: bytes) -> None:
        if self._next is None:
            self._next = self._loop.call_later(self._WINDOW_S, self._next_window)
        self._take(data)
        if self._read > self._READ_BYTES:
            self.pipe.pause()

    def _take(self, data: bytes) -> None:
        self._read += len(data)
        room = max(0, self._LOGGED_BYTES - self._logged)
        self._dropped += max(0, len(data) - room)
        self._logged += min(len(data), room)
        *lines, rest = data[:room].split(b"\n")
        for line in lines:
            self._line += line
            self._write()
        self._line += rest
        if len(self._line) > self._LINE_BYTES:
            self._write()

    def _write(self) -> None:
        if self._line:
            text = self._line[: self._LINE_BYTES].decode("utf-8", "replace")
            _log.info("printed: %s", "".join(c if c.isprintable() else "\ufffd" for c in text))
        self._line.clear()

    def _next_window(self) -> None:
        self._next = None
        if self._dropped:
            _log.warning("plugins printed too much: %d bytes are not in the log", self._dropped)
        if self._read > self._READ_BYTES:
            self.pipe.resume()
        self._logged = self._read = self._dropped = 0

    def close(self) -> None:
        """Log the rest of the pipe, and stop reading."""
        if self._closed:
            return
        self._closed = True
        self.pipe.drain()
        self.pipe.close()
        self._write()
        if self._next is not None:
            self._next.cancel()
            self._next_window()
