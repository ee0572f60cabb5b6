"""One ssh session to a host, with the dispatcher at its other end: requests and replies, one at a time.

It knows no run and no node's record. It ends with the daemon: ssh runs under a shim, as every short-lived child.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import shutil
from pathlib import Path
from typing import NamedTuple

from nexus.remote.errors import Destination, HostRefused, HostUnreachable, explain_end, explain_problem
from nexus.remote.state import HostIdentity
from nexus.runtime.command import ChildProcess, OutputPipe
from nexus.runtime.inheritance import inherited_environment

__all__ = ["Gone", "Greeting", "Parser", "Reply", "Session"]

_log = logging.getLogger("nexus.remote")

_PARTS = tuple(Path(__file__).with_name(name) for name in ("processes.sh", "dispatcher.sh"))
_CONNECT_S = 10
_GREETING_S = 20.0
"""From the start of ssh until the dispatcher has answered: a host that accepts connections may hang all the same."""
_ANSWER_S = 60.0
_ENDING_S = 2.0
_MAX_HEAD = 128
"""The first line of a reply, in bytes."""
_MAX_REPLY = 16 * 1024 * 1024
_MAX_ERRORS = 16 * 1024
_MAX_PRINTED = 1024
_WRITE_BYTES = 64 * 1024
_OPTIONS = (
    *("-T", "-a", "-x", "-e", "none"),
    *("-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT_S}", "-o", "ConnectionAttempts=1"),
    # Neither a connection of the user's own is shared, whose sessions may all be taken, nor is one left for others.
    *("-o", "ControlMaster=no", "-o", "ControlPath=none", "-o", "ControlPersist=no"),
    *("-o", "ClearAllForwardings=yes", "-o", "PermitLocalCommand=no", "-o", "RemoteCommand=none"),
    *("-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3", "-o", "LogLevel=ERROR"),
)


class Gone(Exception):
    """The file that was asked for does not exist."""


class Greeting(NamedTuple):
    """What the dispatcher says of its host at the beginning."""

    system: str
    """``uname -sm``."""
    boot: str
    address: str | None
    has_setsid: bool
    environment: dict[str, str]
    """The variables of the session that a job has where it does not set them."""

    @property
    def identity(self) -> HostIdentity:
        """By what the host is known again."""
        return HostIdentity(self.boot, self.address)


class Reply(NamedTuple):
    """What the dispatcher says to a request."""

    status: str
    body: bytes


class Parser:
    """Finds the replies in what a host writes, of which it keeps one reply at most.

    It looks at each byte once, and leaves out what login scripts write before a reply.
    """

    def __init__(self, token: bytes) -> None:
        self._begin = token + b" "
        self._received = bytearray()
        self._head: list[bytes] | None = None
        """The words of the reply whose body is coming."""
        self._missing = 0

    def feed(self, data: bytes) -> list[Reply]:
        """Take what was received; returns the replies that are complete with it.

        Raises:
            ValueError: it is no reply, or a larger one than any request can have.
        """
        replies = []
        self._received += data
        while self._head is not None or self._find_head():
            assert self._head is not None
            if len(self._received) < self._missing:
                break
            with memoryview(self._received) as view:
                body = bytes(view[: self._missing])
            del self._received[: self._missing]
            replies.append(Reply(self._head[1].decode(errors="replace"), body))
            self._head = None
        return replies

    @property
    def held_bytes(self) -> int:
        """How much is kept of what has come."""
        return len(self._received)

    def _find_head(self) -> bool:
        at = self._received.find(self._begin)
        if at < 0:
            del self._received[: 1 - len(self._begin)]
            return False
        del self._received[:at]
        end = self._received.find(b"\n", 0, _MAX_HEAD)
        if end < 0:
            if len(self._received) >= _MAX_HEAD:
                raise ValueError("no reply")
            return False
        words = bytes(self._received[:end]).split()
        if len(words) != 3 or not words[2].isdigit() or int(words[2]) > _MAX_REPLY:
            raise ValueError("no reply")
        del self._received[: end + 1]
        self._head, self._missing = words, int(words[2])
        return True


class Session:
    """One session. ``open`` it first; once it is lost, ``failure`` says why, and a new one is needed.

    ``owner`` names the daemon: two of them may use one account of a host.
    """

    def __init__(self, name: str, destination: Destination, owner: str) -> None:
        self.name = name
        self.greeting: Greeting | None = None
        self.failure: HostUnreachable | None = None
        self.lost = asyncio.Event()
        """Set when the session is over."""
        self._destination = destination
        self._owner = owner
        self._token = f"nexus-{secrets.token_hex(8)}".encode()
        self._turn = asyncio.Lock()
        self._child: ChildProcess | None = None
        self._input = -1
        self._errors = bytearray()
        self._printed = bytearray()
        """The last of what came before the greeting."""
        self._parser = Parser(self._token)
        self._wanted: asyncio.Future[Reply] | None = None
        self._writable = asyncio.Event()

    async def open(self) -> Greeting:
        """Connect, and wait for the dispatcher's greeting.

        Raises:
            HostUnreachable: it cannot be had.
        """
        parts = await asyncio.to_thread(lambda: [path.read_bytes() for path in _PARTS])
        script = b"token=%s\nowner=%s\n" % (self._token, self._owner.encode()) + b"".join(parts)
        ssh = shutil.which("ssh")
        if ssh is None:
            raise self._fail(HostUnreachable(f'cannot reach node "{self.name}": ssh is not installed here', None))
        # Login shells of every kind take this line as it is. The script comes by the standard input.
        line = f"exec sh -c 'eval \"$(head -c {len(script)})\"'"
        reader, self._input = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._input, False)
        output = OutputPipe(self._receive, self._ended)
        errors = OutputPipe(self._note_error)
        try:
            self._child = ChildProcess(
                [ssh, *_OPTIONS, *self._destination.options(), line],
                directory="/",
                environment=inherited_environment() | {"LC_ALL": "C"},
                stdout=output,
                stderr=errors,
                stdin=reader,
                on_exit=self._ended,
            )
        except OSError as error:
            os.close(reader)
            raise self._fail(
                HostUnreachable(
                    f'cannot reach node "{self.name}": the program ssh cannot be started ({error.strerror})', None
                )
            ) from None
        os.close(reader)
        try:
            async with asyncio.timeout(_GREETING_S):
                body = await self._exchange(script)
        except TimeoutError:
            failure = HostUnreachable(
                f'cannot reach node "{self.name}": it did not answer within {_GREETING_S:g} s',
                f"Connect once by hand: {self._destination.by_hand()}",
            )
            self.close(failure)
            raise failure from None
        self.greeting = _greeting(body.decode(errors="replace"))
        return self.greeting

    @property
    def is_busy(self) -> bool:
        """Whether a request waits for its answer."""
        return self._turn.locked()

    async def request(self, *words: object, payload: bytes = b"", timeout_s: float = _ANSWER_S) -> bytes:
        """Send one request, and return the body of its reply.

        Nothing is sent after ``payload`` before the reply: what reads it there may read ahead.

        Raises:
            HostUnreachable: the session is over, or its host has not answered in time, which ends it.
            HostRefused: the host cannot do it.
            Gone: the file does not exist.
        """
        line = " ".join(map(str, words)).encode() + b"\n"
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._exchange(line, payload)
            except TimeoutError:
                failure = HostUnreachable(
                    f'lost the connection to node "{self.name}": it did not answer within {timeout_s:g} s',
                    f"Connect once by hand: {self._destination.by_hand()}",
                )
                self.close(failure)
                raise failure from None
            except asyncio.CancelledError:
                # The reply would be taken for that of the next request.
                self.close(HostUnreachable(f'lost the connection to node "{self.name}": a request was given up', None))
                raise

    async def bye(self) -> None:
        """End the session in good order: the dispatcher removes what it needs no more.

        While a request is open it is ended at once: the line would become a part of that request's payload.
        """
        if self.failure is None and not self._turn.locked():
            with contextlib.suppress(OSError):
                os.write(self._input, b"bye\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_ENDING_S):
                    await self.lost.wait()
        self.close()
        if self._child is not None:
            await self._child.wait_gone(_ENDING_S)

    def close(self, failure: HostUnreachable | None = None) -> None:
        """End the session at once."""
        self._fail(failure or HostUnreachable(f'the connection to node "{self.name}" was closed', None))
        if self._child is not None:
            self._child.kill()
            self._child.close()

    def _fail(self, failure: HostUnreachable) -> HostUnreachable:
        if self.failure is None:
            self.failure = failure
        if self._input >= 0:
            with contextlib.suppress(ValueError, OSError):
                asyncio.get_running_loop().remove_writer(self._input)
            os.close(self._input)
            self._input = -1
        self._writable.set()
        if self._wanted is not None and not self._wanted.done():
            self._wanted.set_exception(self.failure)
        self.lost.set()
        return self.failure

    async def _exchange(self, *pieces: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        wanted: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._wanted = wanted
        try:
            for piece in pieces:
                await self._write(piece)
            reply = await wanted
        finally:
            self._wanted = None
            if wanted.done() and not wanted.cancelled():
                wanted.exception()  # retrieved, so that asyncio does not log it where the write failed first
        if reply.status == "gone":
            raise Gone
        if reply.status != "ok":
            raise HostRefused(explain_problem(reply.body.decode(errors="replace")), None)
        return reply.body

    async def _write(self, data: bytes) -> None:
        loop = asyncio.get_running_loop()
        view = memoryview(data)
        while view:
            if self.failure is not None:
                raise self.failure
            try:
                view = view[os.write(self._input, view[:_WRITE_BYTES]) :]
            except BlockingIOError:
                self._writable.clear()
                loop.add_writer(self._input, self._writable.set)
                try:
                    await self._writable.wait()
                finally:
                    if self._input >= 0:
                        loop.remove_writer(self._input)
            except BrokenPipeError:
                await self.lost.wait()

    def _receive(self, data: bytes) -> None:
        if self.greeting is None:
            self._printed += data
            del self._printed[:-_MAX_PRINTED]
        try:
            replies = self._parser.feed(data)
        except ValueError:
            self.close(HostUnreachable(f'lost the connection to node "{self.name}": its reply is none', None))
            return
        for reply in replies:
            if self._wanted is not None and not self._wanted.done():
                self._wanted.set_result(reply)

    def _note_error(self, data: bytes) -> None:
        self._errors += data
        del self._errors[:-_MAX_ERRORS]

    def _ended(self) -> None:
        """The output is closed, or ssh has ended: what it said is complete a moment later."""
        if self.failure is None:
            asyncio.get_running_loop().call_later(0.05, self._explain)

    def _explain(self) -> None:
        if self.failure is None:
            said, printed = (kept.decode(errors="replace") for kept in (self._errors, self._printed))
            self.close(explain_end(self.name, self._destination, said, printed, greeted=self.greeting is not None))


def _greeting(text: str) -> Greeting:
    system, boot, address, has_setsid = "", "-", None, False
    environment = {}
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "system":
            system = rest
        elif word == "boot":
            boot = rest
        elif word == "address":
            words = rest.split()
            address = words[2] if len(words) > 2 else None
        elif word == "setsid":
            has_setsid = True
        elif word == "env":
            name, _, value = rest.partition("=")
            environment[name] = value
    return Greeting(system, boot, address, has_setsid, environment)
