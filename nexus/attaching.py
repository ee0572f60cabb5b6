"""Carries the terminal, or the standard input and output, of a run over a stream of the wire."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple, Protocol

import msgspec
from nexus_protocol import InvalidArgument

from nexus.capability import Stream
from nexus.records.processes import AttachmentLost, InputUnavailable, LogStream, TerminalEnd, TerminalOutput
from nexus.runtime import Runtime
from nexus.runtime.attachment import Attachment
from nexus.runtime.spec import AttachFailed, NotAttachable, RunEnded, TooManyAttached
from nexus.runtime.spec import AttachmentLost as RunAttachmentLost
from nexus.streams import Following, daemon_stopping
from nexus.tasks import cancel_and_wait

__all__ = ["AttachRequest", "Run", "attach", "send_input"]

_STREAMS = {1: LogStream.STDOUT, 2: LogStream.STDERR}
_PIECE_BYTES = 16 * 1024


class Run(NamedTuple):
    """A run of the process runtime."""

    runtime: Runtime
    owner: str
    run_id: str
    hint: str | None = None
    """What to do where it has neither a terminal nor an open standard input."""


class AttachRequest(Protocol):
    """The fields of a command that attaches."""

    @property
    def rows(self) -> int | None:
        """The height of the client's terminal."""

    @property
    def columns(self) -> int | None:
        """Its width."""

    @property
    def replay(self) -> bool:
        """Whether the last output comes first."""


class _Size(msgspec.Struct, forbid_unknown_fields=True):
    rows: int
    columns: int


class _Link:
    """The present attachment of a client, which is replaced when the shim has dropped it."""

    def __init__(self, run: Run, attachment: Attachment, size: tuple[int, int] | None) -> None:
        self.attachment = attachment
        self._run = run
        self._size = size
        self._replaced = asyncio.Event()

    async def output(self) -> AsyncIterator[TerminalOutput]:
        """The output until the run ends. A terminal that did not read in time gets the last screenful again.

        Raises:
            RunAttachmentLost: without a terminal, output was not read in time.
        """
        while True:
            try:
                received = await self.attachment.receive()
            except RunAttachmentLost:
                if not self.attachment.terminal:
                    raise  # a file or a pipe would not have all of it
                if not await self._attach_again():
                    return
                continue
            if received is None:
                return
            number, data = received
            yield TerminalOutput(data, _STREAMS[number])

    async def _attach_again(self) -> bool:
        """Take the place of an attachment that was dropped; False if the run has ended."""
        self.attachment.close()
        try:
            self.attachment = await self._run.runtime.attach(self._run.owner, self._run.run_id, size=self._size)
        except RunEnded:
            return False
        self._replaced.set()
        return True

    async def type(self, data: bytes) -> None:
        """Type input, as fast as the program takes it."""
        for at in range(0, len(data), _PIECE_BYTES):
            while True:
                attachment = self.attachment
                self._replaced.clear()
                try:
                    await attachment.send(data[at : at + _PIECE_BYTES])  # wholly, or not at all
                    break
                except AttachFailed as error:
                    if attachment is not self.attachment:
                        continue
                    if not isinstance(error, RunAttachmentLost):
                        raise
                await self._replaced.wait()

    def resize(self, rows: int, columns: int) -> None:
        """The client's terminal has another size."""
        self._size = (rows, columns)
        self.attachment.resize(rows, columns)


async def attach(run: Run, command: AttachRequest, stream: Stream[TerminalOutput], what: str) -> TerminalEnd:
    """Attach the client of a stream to a run until the run ends; ``what`` is its name in sentences.

    A client that does not read holds nothing up: it misses output, and of a terminal it gets the last screenful when it
    reads again.

    Raises:
        InputUnavailable: it has neither a terminal nor an open standard input, or has ended.
        AttachmentLost: too many are attached, or the client of a program without a terminal did not read.
        Unavailable: the daemon stops.
    """
    size = None if command.rows is None or command.columns is None else (command.rows, command.columns)
    with _as_nexus_errors(f"cannot attach to {what}", run):
        link = _Link(run, await run.runtime.attach(run.owner, run.run_id, size=size, replay=command.replay), size)
        try:
            await stream.send(TerminalOutput(terminal=link.attachment.terminal))
            following = Following(
                stream,
                lambda: daemon_stopping("The program goes on; attach again once the daemon runs."),
            )
            typing = asyncio.create_task(_type(link, stream))
            output = asyncio.create_task(following.send_all(link.output()))
            try:
                await asyncio.wait({typing, output}, return_when=asyncio.FIRST_COMPLETED)
                if typing.done() and (error := typing.exception()) is not None and not isinstance(error, AttachFailed):
                    raise error
                await output  # what cannot be typed any more has an end that the output tells
            finally:
                await cancel_and_wait(typing, output)
        finally:
            link.attachment.close()
    return TerminalEnd()


async def _type(link: _Link, stream: Stream[TerminalOutput]) -> None:
    """Pass the client's input on."""
    while True:
        body = await stream.receive()
        if "data" in body:
            await link.type(body["data"])
            await stream.acknowledge(len(body["data"]))
        elif "eof" in body:
            link.attachment.send_eof()
        else:
            try:
                size = msgspec.convert(body["control"], _Size)
            except msgspec.ValidationError:
                raise InvalidArgument(
                    "cannot take this control: expected rows and columns", details={"path": "control"}
                ) from None
            if not (1 <= size.rows <= 10_000 and 1 <= size.columns <= 10_000):
                raise InvalidArgument("cannot take a terminal of this size", details={"path": "control"})
            link.resize(size.rows, size.columns)


async def send_input(run: Run, data: bytes, eof: bool, what: str) -> None:
    """Type input into a run, and end it with ``eof``; returns once the program, or its terminal, has taken it.

    Raises:
        InputUnavailable: it has neither a terminal nor an open standard input, has closed it, or has ended.
        AttachmentLost: too many are attached, or the shim was killed.
    """
    with _as_nexus_errors(f"cannot send input to {what}", run):
        attachment = await run.runtime.attach(run.owner, run.run_id, output=False, replay=False)
        try:
            for at in range(0, len(data), _PIECE_BYTES):
                await attachment.send(data[at : at + _PIECE_BYTES])
            if eof:
                attachment.send_eof()
            await attachment.drain()
        finally:
            attachment.close()


@contextlib.contextmanager
def _as_nexus_errors(cannot: str, run: Run) -> Iterator[None]:
    try:
        yield
    except AttachFailed as error:
        # The sentence of the runtime names the run, which people do not know.
        message = f"{cannot}: {error.message.partition(': ')[2] or error.message}"
        kind = AttachmentLost if isinstance(error, (RunAttachmentLost, TooManyAttached)) else InputUnavailable
        hint = run.hint if isinstance(error, NotAttachable) and run.hint is not None else error.hint
        raise kind(message, hint=hint) from error
