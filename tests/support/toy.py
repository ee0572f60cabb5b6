"""A server in a thread of the test, with commands that misbehave in ways that no real one does: hang, fail, swallow."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from nexus_protocol import Command, Effect, Empty, Record, StreamCommand, command
from nexus_protocol.command import Repeat
from nexus_protocol.context import RequestContext

from nexus.capability import Context, Stream, collect_handlers, handles
from nexus.config import Limits
from nexus.daemon.dispatch import Dispatch
from nexus.daemon.server import Server
from nexus.streams import Following, daemon_stopping, send_progress
from nexus.system.handlers import hello
from support.raw import RawClient

__all__ = [
    "Break",
    "BreakByTimeout",
    "Count",
    "Data",
    "Deaf",
    "Durable",
    "Echo",
    "Echoed",
    "Feed",
    "Hold",
    "Produce",
    "Reluctant",
    "Swallow",
    "Tail",
    "ToyServer",
    "Work",
]

T = TypeVar("T")


class Echoed(Record):
    """One Input, sent back."""

    data: bytes | None = None
    control: dict[str, Any] | None = None


class Size(Record):
    """A number of bytes."""

    size_bytes: int


class Data(Record):
    """Some bytes."""

    data: bytes


@command(0xE001, Effect.ACT, takes_input=True, repeat=Repeat.AGAIN)
class Echo(StreamCommand[Echoed, Size]):
    """Send every Input back, acknowledge it, and end at eof with the size of all."""


@command(0xE002, Effect.ACT, takes_input=True, repeat=Repeat.AGAIN)
class Deaf(StreamCommand[Echoed, Size]):
    """Never read any Input."""


@command(0xE003, Effect.ACT, repeat=Repeat.AGAIN)
class Hold(Command[Empty]):
    """Answer once the test calls ``release``."""

    timeout_ms: int | None = None


@command(0xE004, Effect.ACT, repeat=Repeat.AGAIN)
class Break(Command[Empty]):
    """Fail with an exception that is no NexusError."""


@command(0xE005, Effect.ACT, repeat=Repeat.AGAIN)
class BreakByTimeout(Command[Empty]):
    """Fail with a TimeoutError of its own."""


@command(0xE006, Effect.ACT, repeat=Repeat.AGAIN)
class Produce(Command[Data]):
    """Answer with ``size_bytes`` bytes."""

    size_bytes: int


@command(0xE007, Effect.ACT, max_payload=16 * 1024 * 1024, repeat=Repeat.AGAIN)
class Swallow(Command[Size]):
    """Take up to 16 MiB."""

    data: bytes


@command(0xE008, Effect.ACT, repeat=Repeat.AGAIN)
class Count(Command[Size]):
    """Answer at once, without waiting."""


@command(0xE009, Effect.ACT, repeat=Repeat.AGAIN)
class Reluctant(Command[Empty]):
    """Hold, but end only at the second cancellation."""

    timeout_ms: int | None = None


@command(0xE00A, Effect.ACT, repeat=Repeat.AGAIN)
class Feed(StreamCommand[Data, Size]):
    """Send what the test puts into ``source``, until it puts None."""


@command(0xE00B, Effect.ACT, repeat=Repeat.AGAIN)
class Tail(StreamCommand[Data, Size]):
    """Send what the test appends to ``log``, until it appends nothing (b"")."""


@command(0xE00C, Effect.ACT, repeat=Repeat.AGAIN)
class Work(StreamCommand[Data, Size]):
    """Send what the test reports, until ``release``."""


@command(0xE00D, Effect.ACT, repeat=Repeat.AGAIN)
class Durable(Command[Data]):
    """Hold until cancelled, then outlast that as a durable write does: answer after ``release``."""

    timeout_ms: int | None = None


TOYS = (Echo, Deaf, Hold, Break, BreakByTimeout, Produce, Swallow, Count, Reluctant, Feed, Tail, Work, Durable)

for _toy in TOYS:
    # Other tests look at the registry of commands: those of this file do not belong in it.
    sys.modules["nexus_protocol.command"].__dict__["_COMMANDS"].pop(_toy.info.code)


class _NoStore:
    """Stands for the store of a server whose handlers write nothing: no key of a request is kept."""

    def digest(self, data: bytes) -> bytes:
        return data

    async def fetch(self, fn: Callable[[Any], Any]) -> None:
        return None

    async def write(self, fn: Callable[[Any], Any]) -> None:
        return None


class ToyServer:
    """The server, its loop, and a record of what happened to its handlers.

    Attributes that tests change while handlers run are changed in the loop, with ``call``.
    """

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.holding = 0
        """Requests that wait in Hold, Reluctant and Durable."""
        self.cancelled = 0
        self.timed_out: list[bool] = []
        """``Context.timed_out`` at each cancellation of one of these."""
        self.contexts: list[RequestContext] = []
        """``Context.request`` of each Hold and Count, in the order in which they began."""
        self.source: asyncio.Queue[bytes | BaseException | None] = asyncio.Queue()
        self.log: list[bytes] = []
        self.changed: list[Callable[[], None]] = []
        """The notifications of the open Tails."""
        self.reports: list[Callable[[Data], None]] = []
        """The report functions of the running Works."""
        self.ended: list[str] = []
        """The names of the sources and works that were closed or cancelled."""
        self.clients: list[RawClient] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(str(path))
        self._listener.listen(512)
        self.server: Server = self.run(self._start(limits))

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine in the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(30)

    async def _start(self, limits: Limits) -> Server:
        self.may_answer = asyncio.Event()
        dispatch = Dispatch(collect_handlers(_Handlers(self)))
        server = Server(_NoStore(), dispatch, limits, lambda _reason: None, self.loop)  # type: ignore[arg-type]
        server.listen(self._listener)
        return server

    def call(self, fn: Callable[..., T], *arguments: Any) -> T:
        """Call a function in the server's loop; gives its result."""

        async def work() -> T:
            return fn(*arguments)

        return self.run(work())

    def release(self) -> None:
        """Let every Hold and every Work answer, later ones as well."""
        self.loop.call_soon_threadsafe(self.may_answer.set)

    def connect(self) -> RawClient:
        """Connect a client, which is closed with the server."""
        client = RawClient(self.path)
        self.clients.append(client)
        return client

    def close(self) -> None:
        """Close all clients and end the server and its thread."""
        for client in self.clients:
            client.close()
        self.run(self.server.drain(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()
        self._listener.close()


def _cancel_at_next_wait(task: asyncio.Task[Any]) -> None:
    """What the store does with the cancellation of a task whose write became durable."""
    if not task.done() and task.cancelling():
        task.uncancel()
        task.cancel()


class _Handlers:
    """Stands for the module ``handlers`` of a capability."""

    def __init__(self, toy: ToyServer) -> None:
        @handles(Echo)
        async def echo(_ctx: Context, _command: Echo, stream: Stream[Echoed]) -> Size:
            size = 0
            while True:
                given = await stream.receive()
                if "eof" in given:
                    return Size(size)
                if "data" in given:
                    size += len(given["data"])
                    await stream.send(Echoed(given["data"]))
                    await stream.acknowledge(len(given["data"]))
                else:
                    await stream.send(Echoed(control=given["control"]))

        @handles(Deaf)
        async def deaf(_ctx: Context, _command: Deaf, _stream: Stream[Echoed]) -> Size:
            await toy.may_answer.wait()
            return Size(0)

        @handles(Hold)
        async def hold(ctx: Context, _command: Hold) -> Empty:
            toy.contexts.append(ctx.request)
            toy.holding += 1
            try:
                await toy.may_answer.wait()
            except asyncio.CancelledError:
                toy.cancelled += 1
                toy.timed_out.append(ctx.timed_out)
                raise
            finally:
                toy.holding -= 1
            return Empty()

        @handles(Break)
        async def break_(_ctx: Context, _command: Break) -> Empty:
            raise ValueError("words for the log alone")

        @handles(BreakByTimeout)
        async def break_by_timeout(_ctx: Context, _command: BreakByTimeout) -> Empty:
            raise TimeoutError("words for the log alone")

        @handles(Produce)
        async def produce(_ctx: Context, command: Produce) -> Data:
            return Data(bytes(command.size_bytes))

        @handles(Swallow)
        async def swallow(_ctx: Context, command: Swallow) -> Size:
            return Size(len(command.data))

        @handles(Count)
        def count(ctx: Context, _command: Count) -> Size:
            toy.contexts.append(ctx.request)
            return Size(1)

        @handles(Reluctant)
        async def reluctant(ctx: Context, _command: Reluctant) -> Empty:
            toy.holding += 1
            try:
                await toy.may_answer.wait()
            except asyncio.CancelledError:
                toy.timed_out.append(ctx.timed_out)
                try:
                    await toy.may_answer.wait()
                except asyncio.CancelledError:
                    toy.timed_out.append(ctx.timed_out)
                    raise
            finally:
                toy.holding -= 1
            return Empty()

        @handles(Durable)
        async def durable(ctx: Context, _command: Durable) -> Data:
            toy.holding += 1
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                toy.timed_out.append(ctx.timed_out)
            await toy.may_answer.wait()
            toy.holding -= 1
            toy.loop.call_soon(_cancel_at_next_wait, asyncio.current_task())
            return Data(b"done")

        @handles(Feed)
        async def feed(_ctx: Context, _command: Feed, stream: Stream[Data]) -> Size:
            size = 0

            async def source() -> AsyncIterator[Data]:
                nonlocal size
                try:
                    while (item := await toy.source.get()) is not None:
                        if isinstance(item, BaseException):
                            raise item
                        yield Data(item)
                        size += len(item)
                finally:
                    toy.ended.append("Feed")

            await Following(stream, lambda: daemon_stopping("Go on.", {"sent": size})).send_all(source())
            return Size(size)

        @handles(Tail)
        async def tail(_ctx: Context, _command: Tail, stream: Stream[Data]) -> Size:
            sent = size = 0
            following = Following(stream, lambda: daemon_stopping("Go on.", {"sent": sent}))
            toy.changed.append(following.notify)
            try:
                while True:
                    await following.ready()
                    while sent < len(toy.log):
                        sent, data = sent + 1, toy.log[sent]
                        if not data:
                            return Size(size)
                        await stream.send(Data(data))
                        size += len(data)
                    following.check_draining()
                    await following.wait()
            finally:
                toy.changed.remove(following.notify)
                toy.ended.append("Tail")

        @handles(Work)
        async def work(_ctx: Context, _command: Work, stream: Stream[Data]) -> Size:
            async def do(report: Callable[[Data], None]) -> Size:
                toy.reports.append(report)
                try:
                    await toy.may_answer.wait()
                finally:
                    toy.reports.remove(report)
                    toy.ended.append("Work")
                return Size(7)

            return await send_progress(stream, do)

        self.__dict__.update(
            {
                fn.__name__: fn
                for fn in (
                    *(echo, deaf, hold, break_, break_by_timeout, produce, swallow, count),
                    *(reluctant, durable, feed, tail, work, hello),
                )
            }
        )
