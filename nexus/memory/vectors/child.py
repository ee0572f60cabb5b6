"""The daemon's side of one process that searches: starts it, gives it requests, notices its end, kills it.

It knows the messages, and nothing of vectors.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from nexus.memory.vectors.errors import VectorsTimedOut, VectorsUnavailable, VectorsWorkerEnded
from nexus.memory.vectors.messages import (
    MAX_MESSAGE_BYTES,
    PREFIX_BYTES,
    Reply,
    Request,
    Working,
    decode_reply,
    framed,
)
from nexus.runtime.command import ChildProcess, OutputPipe
from nexus.runtime.inheritance import inherited_environment
from nexus.tasks import cancel_and_wait

__all__ = ["WorkerChild"]

_log = logging.getLogger("nexus.memory.vectors")

_START_S = 30.0
"""How long the process may take to start and to load numpy, on a machine under load."""
_SILENT_S = 5.0
"""A process that owes a reply and sends nothing for so long hangs; one that works tells so twice a second."""
_END_S = 1.0
_OUTPUT_BYTES = 4096
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
"""A search is as fast as the memory is read; more threads would only take the other cores."""
_AGAIN = "Try again: the next search starts another process."


class WorkerChild:
    """One process. It must be closed with ``close``, even when the process has already ended."""

    def __init__(self, database: Path, directory: Path, engine: str) -> None:
        """Start the process.

        Raises:
            OSError: there are no resources for it.
        """
        self._loop = asyncio.get_running_loop()
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._owed: dict[int, float] = {}
        """When each request was sent that has no reply yet; of some of them the caller has given up."""
        self._heard_at: float | None = None
        self._output = bytearray()
        self._pipe = OutputPipe(self._keep)
        self._reader_task: asyncio.Task[None] | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._failure: str | None = None
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._process = ChildProcess(
                [
                    *(sys.executable, "-P", "-B", "-m", "nexus.memory.vectors.worker"),
                    *(str(theirs.fileno()), str(database), str(directory), engine),
                ],
                directory="/",
                environment={**inherited_environment(), **_ONE_THREAD},
                stdout=self._pipe,
                stderr=self._pipe,
                descriptors=(theirs.fileno(),),
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
    def usable(self) -> bool:
        """Whether the process runs, as far as is known."""
        return self._failure is None and not self._process.ended.is_set()

    @property
    def busy(self) -> bool:
        """Whether the process still works on a request, though its caller may have given it up."""
        return bool(self._owed)

    async def start(self) -> None:
        """Wait until the process was executed.

        Raises:
            VectorsUnavailable: it cannot be.
        """
        try:
            async with asyncio.timeout(_START_S):
                await self._process.started()
        except TimeoutError:
            raise VectorsUnavailable(
                f"cannot search vectors: the process was not started within {_START_S:g} s"
            ) from None
        except OSError as error:
            raise VectorsUnavailable(
                f"cannot search vectors: the process cannot be started: {error.strerror or error}"
            ) from None
        reader, self._writer = await asyncio.open_connection(sock=self._socket)
        self._reader_task = asyncio.create_task(self._read(reader))

    async def ask(self, make: Callable[[int], Request], timeout_s: float | None) -> Reply:
        """Send the request that ``make`` gives for a number, and wait for its reply, ``timeout_s`` at most.

        One request is asked at a time. Where the wait is cancelled or too long, the process goes on.

        Raises:
            VectorsTimedOut: the time is over.
            VectorsWorkerEnded: the process has ended, or hangs and was killed.
        """
        assert self._writer is not None
        number = next(self._numbers)
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[number] = future
        sending = asyncio.create_task(self._deliver(number, make))
        ends_at = None if timeout_s is None else self._loop.time() + timeout_s
        try:
            while not future.done():
                self._check(ends_at)
                left = self._silence_left()
                if ends_at is not None:
                    left = min(left, ends_at - self._loop.time())
                await asyncio.wait({future}, timeout=max(left, 0.001))
            return future.result()
        finally:
            del self._waiting[number]
            await cancel_and_wait(sending)

    async def _deliver(self, number: int, make: Callable[[int], Request]) -> None:
        assert self._writer is not None
        try:
            # What the process has not read is waited for first, so that the daemon keeps one request at most.
            await self._writer.drain()
            message = framed(make(number))
            self._owed[number] = self._loop.time()
            self._writer.write(message)
        except OSError:
            pass  # the reader notices the end, and tells it

    def _check(self, ends_at: float | None) -> None:
        if self._failure is not None:
            raise self._ended_error()
        if self._silence_left() <= 0:
            self._failure = "it hung and was killed"
            self._process.kill()
            raise self._ended_error()
        if ends_at is not None and self._loop.time() >= ends_at:
            raise VectorsTimedOut(
                "cannot search vectors: the time of the search is over",
                hint="Try again: a matrix that is being built from the rows is completed meanwhile.",
            )

    def _silence_left(self) -> float:
        """For how many more seconds the process may send nothing; a second while it owes nothing."""
        if not self._owed:
            return 1.0
        if self._heard_at is None:
            return min(self._owed.values()) + _START_S - self._loop.time()
        return max(self._heard_at, min(self._owed.values())) + _SILENT_S - self._loop.time()

    def _ended_error(self) -> VectorsWorkerEnded:
        return VectorsWorkerEnded(f"cannot search vectors: the process ended: {self._failure}", hint=_AGAIN)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(PREFIX_BYTES), "big")
                if size > MAX_MESSAGE_BYTES:
                    raise ValueError("the message is too large")
                reply: Reply = decode_reply(await reader.readexactly(size))
                self._heard_at = self._loop.time()
                if isinstance(reply, Working):
                    continue
                self._owed.pop(reply.number, None)
                future = self._waiting.get(reply.number)
                if future is not None and not future.done():
                    future.set_result(reply)
        except (msgspec.MsgspecError, ValueError):
            self._fail("it wrote invalid data to the daemon's socket")
        except (OSError, EOFError):
            await self._process.wait(_END_S)
            code = self._process.returncode
            if code is not None and code < 0:
                self._fail(f"it was ended by {signal.Signals(-code).name}")
            else:
                self._fail("it closed the daemon's socket" if code is None else f"its exit code is {code}")

    def _fail(self, reason: str) -> None:
        if self._failure is None:
            self._failure = reason
        self._pipe.drain()
        output = "".join(c if c.isprintable() else " " for c in self._output.decode("utf-8", "replace"))
        _log.warning("the process that searches vectors ended: %s%s", self._failure, output and f": {output}")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(self._ended_error())

    def _keep(self, data: bytes) -> None:
        self._output += data
        del self._output[:-_OUTPUT_BYTES]

    async def close(self) -> None:
        """Kill the process, and wait until it has ended, a second at most."""
        await cancel_and_wait(self._reader_task)
        self._process.kill()
        try:
            await self._process.wait_gone(_END_S)
        finally:
            self._process.close()
            self._pipe.close()
            if self._writer is not None:
                self._writer.transport.abort()
            else:
                self._socket.close()
