"""A server in a thread of the test, with commands that do what no real one does: hang, break, echo, swallow."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, TypeVar

from nexus_protocol import Command, Empty, Record, StreamCommand, command

from nexus.capability import Context, Stream, collect_handlers, handles
from nexus.config import Limits
from nexus.daemon.dispatch import Dispatch
from nexus.daemon.server import Server
from nexus.system.commands import Hello, Welcome
from support.raw import RawClient

__all__ = [
    "Break",
    "BreakByTimeout",
    "Count",
    "Data",
    "Deaf",
    "Echo",
    "Echoed",
    "Hold",
    "Produce",
    "Swallow",
    "ToyServer",
]

T = TypeVar("T")


class Echoed(Record):
    """What came back from the echo."""

    data: bytes | None = None
    control: dict[str, Any] | None = None


class Size(Record):
    """How many bytes there were."""

    size_bytes: int


class Data(Record):
    """Some bytes."""

    data: bytes


@command(0xE001, takes_input=True)
class Echo(StreamCommand[Echoed, Size]):
    """Send every input back, acknowledge it, and end with what it was at eof."""


@command(0xE002, takes_input=True)
class Deaf(StreamCommand[Echoed, Size]):
    """Never take any input."""


@command(0xE003)
class Hold(Command[Empty]):
    """Answer when the test says so."""

    timeout_ms: int | None = None


@command(0xE004)
class Break(Command[Empty]):
    """Fail in a way nobody foresaw."""


@command(0xE005)
class BreakByTimeout(Command[Empty]):
    """Fail with a TimeoutError of its own."""


@command(0xE006)
class Produce(Command[Data]):
    """Answer with so many bytes."""

    size_bytes: int


@command(0xE007, max_payload=16 * 1024 * 1024)
class Swallow(Command[Size]):
    """Take many bytes."""

    data: bytes


@command(0xE008)
class Count(Command[Size]):
    """Answer at once, without waiting."""


TOYS = (Echo, Deaf, Hold, Break, BreakByTimeout, Produce, Swallow, Count)

for _toy in TOYS:
    # Other tests look at the registry: what is declared here does not belong to it.
    sys.modules["nexus_protocol.command"].__dict__["_COMMANDS"].pop(_toy.info.code)


class ToyServer:
    """The server, its loop, and what its handlers saw."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.holding = 0
        self.cancelled = 0
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
        server = Server(None, dispatch, limits, lambda _reason: None, self.loop)  # type: ignore[arg-type]
        server.listen(self._listener)
        return server

    def release(self) -> None:
        """Let every Hold answer, those to come as well."""
        self.loop.call_soon_threadsafe(self.may_answer.set)

    def connect(self) -> RawClient:
        """A client, closed with the server."""
        client = RawClient(self.path)
        self.clients.append(client)
        return client

    def close(self) -> None:
        """End everything."""
        for client in self.clients:
            client.close()
        self.run(self.server.drain(0))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(30)
        self.loop.close()
        self._listener.close()


class _Handlers:
    """What a capability's module of handlers would hold."""

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
        async def hold(_ctx: Context, _command: Hold) -> Empty:
            toy.holding += 1
            try:
                await toy.may_answer.wait()
            except asyncio.CancelledError:
                toy.cancelled += 1
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
        def count(_ctx: Context, _command: Count) -> Size:
            return Size(1)

        @handles(Hello)
        def hello(_ctx: Context, _command: Hello) -> Welcome:
            return Welcome("toy", [1], {})

        self.__dict__.update(
            {fn.__name__: fn for fn in (echo, deaf, hold, break_, break_by_timeout, produce, swallow, count, hello)}
        )
