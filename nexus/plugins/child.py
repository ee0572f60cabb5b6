"""The daemon's side of one plugins' process: starts it, calls it within its time limits, logs its output, kills it.

It knows which plugin is running; it knows no hook.
"""

from __future__ import annotations

import asyncio
import logging
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
from nexus.runtime.inheritance import inherited_environment

__all__ = ["Child", "ProcessFailed"]

_log = logging.getLogger("nexus.plugins")

_START_S = 30.0
"""How long the process may take to start, on a machine under load."""
_END_S = 1.0
"""How long to wait for the end of the process, and of what it started, after it was killed or closed its socket."""


class ProcessFailed(Exception):
    """The process hangs, has ended or broke the protocol. ``plugin`` is the plugin that was running, if known."""

    def __init__(self, plugin: str | None, reason: str) -> None:
        super().__init__(reason)
        self.plugin = plugin
        self.reason = reason


class Child:
    """One plugins' process. It must be closed with ``kill``, even when the process has already ended."""

    def __init__(self, memory_mib: int, on_end: Callable[[], None]) -> None:
        """Start the process; ``on_end`` is called when it has ended.

        Raises:
            OSError: the process cannot be started.
        """
        self.started_at = time.monotonic()
        self._running: str | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._output = _OutputLog()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = ChildProcess(
                # No modules from the working directory (-P), no bytecode written beside a plugin (-B).
                [sys.executable, "-P", "-B", "-m", "nexus.plugins.process"]
                + [str(number) for number in (theirs.fileno(), memory_mib)],
                directory="/",
                environment=inherited_environment(),
                stdout=self._output.pipe,
                stderr=self._output.pipe,
                descriptors=(theirs.fileno(),),
                on_exit=on_end,
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        """The process id; 0 until the process was executed."""
        return self._process.pid

    @property
    def ended(self) -> asyncio.Event:
        """Set when the process has ended."""
        return self._process.ended

    async def load(self, load: Load) -> Loaded:
        """Load the plugins.

        Raises:
            ProcessFailed: the process cannot be started, a plugin ends it or takes too long.
        """
        try:
            async with asyncio.timeout(_START_S):
                await self._process.started()
        except TimeoutError:
            raise ProcessFailed(None, f"it was not started within {_START_S:g} s") from None
        except OSError as error:
            raise ProcessFailed(None, error.strerror or str(error)) from None
        self._reader, self._writer = await asyncio.open_connection(sock=self._socket)
        reply = await self._exchange(framed(load), _START_S, load.load_timeout_ms)
        if not isinstance(reply, Loaded):
            raise self._protocol_violation()
        return reply

    async def call(self, message: bytes, timeout_ms: int) -> Result | Vetoed | Failed:
        """Send a framed ``Call`` and wait for the reply; each plugin may take ``timeout_ms``.

        Raises:
            ProcessFailed: a plugin ends the process or takes too long.
        """
        reply = await self._exchange(message, timeout_ms / 1000, timeout_ms)
        if isinstance(reply, Loaded):
            raise self._protocol_violation()
        return reply

    async def _exchange(self, message: bytes, first_s: float, timeout_ms: int) -> Loaded | Result | Vetoed | Failed:
        assert self._writer is not None
        self._running = None
        limit_s = first_s
        try:
            async with asyncio.timeout(limit_s):
                self._writer.write(message)
                await self._writer.drain()
            while True:
                async with asyncio.timeout(limit_s):
                    reply = await self._receive()
                if not isinstance(reply, Entered):
                    self._running = None
                    return reply
                self._running = reply.plugin
                limit_s = timeout_ms / 1000
        except TimeoutError:
            raise ProcessFailed(self._running, f"it took longer than {round(limit_s * 1000)} ms") from None
        except (msgspec.MsgspecError, ValueError):
            raise self._protocol_violation() from None
        except (OSError, EOFError):
            raise ProcessFailed(self._running, await self._end_reason()) from None

    async def _receive(self) -> Reply:
        assert self._reader is not None
        size = int.from_bytes(await self._reader.readexactly(PREFIX_BYTES), "big")
        if size > MAX_MESSAGE_BYTES:
            raise ValueError("the message is too large")
        reply: Reply = decode_reply(await self._reader.readexactly(size))
        return reply

    def _protocol_violation(self) -> ProcessFailed:
        return ProcessFailed(self._running, "the process wrote invalid data to the daemon's socket")

    async def _end_reason(self) -> str:
        await self._process.wait(_END_S)
        code = self._process.returncode
        if code is None:
            return "the process closed the daemon's socket"
        if code < 0:
            return f"the process was ended by {signal.Signals(-code).name}"
        return f"the process ended (exit code {code})"

    def kill(self) -> None:
        """Kill the process and all that it started, and close the socket and the output pipe."""
        self._process.kill()
        if self._writer is not None:
            self._writer.transport.abort()
        else:
            self._socket.close()
        self._output.close()

    async def wait_ended(self) -> None:
        """Wait until the killed process and all that it started have ended, at most one second."""
        await self._process.wait_gone(_END_S)


class _OutputLog:
    """Copies what plugins print to the daemon's log, line by line, up to a limit for each window of time."""

    _WINDOW_S = 10.0
    _LOGGED_BYTES = 16 * 1024
    """Logged in one window; more is dropped and counted."""
    _READ_BYTES = 64 * 1024 * 1024
    """Read in one window; then the pipe fills up and the printing plugin blocks until the next window."""
    _LINE_BYTES = 1000

    def __init__(self) -> None:
        self.pipe = OutputPipe(self._receive, self.close)
        self._loop = asyncio.get_running_loop()
        self._line = bytearray()
        self._logged = self._read = self._dropped = 0
        self._window_timer: asyncio.TimerHandle | None = None
        self._closed = False

    def _receive(self, data: bytes) -> None:
        if self._window_timer is None:
            self._window_timer = self._loop.call_later(self._WINDOW_S, self._start_window)
        self._accept(data)
        if self._read > self._READ_BYTES:
            self.pipe.pause()

    def _accept(self, data: bytes) -> None:
        self._read += len(data)
        allowed = max(0, self._LOGGED_BYTES - self._logged)
        self._dropped += max(0, len(data) - allowed)
        self._logged += min(len(data), allowed)
        *lines, rest = data[:allowed].split(b"\n")
        for line in lines:
            self._line += line
            self._log_line()
        self._line += rest
        if len(self._line) > self._LINE_BYTES:
            self._log_line()

    def _log_line(self) -> None:
        if self._line:
            text = self._line[: self._LINE_BYTES].decode("utf-8", "replace")
            _log.info("printed: %s", "".join(c if c.isprintable() else "\ufffd" for c in text))
        self._line.clear()

    def _start_window(self) -> None:
        self._window_timer = None
        if self._dropped:
            _log.warning("plugins printed too much: %d bytes were not logged", self._dropped)
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
        self._log_line()
        if self._window_timer is not None:
            self._window_timer.cancel()
            self._start_window()
