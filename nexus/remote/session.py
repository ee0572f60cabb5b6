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

__all__ = ["Greeting", "Gone", "Session"]

_log = logging.getLogger("nexus.remote")

_DISPATCHER = Path(__file__).with_name("dispatcher.sh")
_CONNECT_S = 10
_GREETING_S = 20.0
"""From the start of ssh until the dispatcher has answered: a host that accepts connections may hang all the same."""
_ANSWER_S = 60.0
_ENDING_S = 2.0
_MAX_NOISE = 1024 * 1024
"""What login scripts may write before the greeting."""
_MAX_REPLY = 16 * 1024 * 1024
_MAX_ERRORS = 16 * 1024
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


class _Reply(NamedTuple):
    status: str
    body: bytes


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
        self._received = bytearray()
        self._wanted: asyncio.Future[_Reply] | None = None
        self._writable = asyncio.Event()

    async def open(self) -> Greeting:
        """Connect, and wait for the dispatcher's greeting.

        Raises:
            HostUnreachable: it cannot be had.
        """
        script = (
            f"token={self._token.decode()}\nowner={self._owner}\n{await asyncio.to_thread(_DISPATCHER.read_text)}"
        ).encode()
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

    async def request(self, *words: object, payload: bytes = b"", timeout_s: float = _ANSWER_S) -> bytes:
        """Send one request, and return the body of its reply.

        Raises:
            HostUnreachable: the session is over, or its host has not answered in time, which ends it.
            HostRefused: the host cannot do it.
            Gone: the file does not exist.
        """
        line = " ".join(map(str, words)).encode() + b"\n"
        async with self._turn:
            try:
                async with asyncio.timeout(timeout_s):
                    return await self._exchange(line + payload)
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
        """End the session in good order: the dispatcher removes what it needs no more."""
        if self.failure is None:
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

    async def _exchange(self, data: bytes) -> bytes:
        if self.failure is not None:
            raise self.failure
        wanted: asyncio.Future[_Reply] = asyncio.get_running_loop().create_future()
        self._wanted = wanted
        try:
            await self._write(data)
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
        self._received += data
        while True:
            at = self._received.find(self._token + b" ")
            if at < 0:
                if len(self._received) > _MAX_NOISE:
                    del self._received[: -len(self._token)]
                return
            end = self._received.find(b"\n", at)
            if end < 0:
                return
            words = bytes(self._received[at:end]).split()
            length = int(words[2]) if len(words) == 3 and words[2].isdigit() else _MAX_REPLY + 1
            if length > _MAX_REPLY:
                self.close(HostUnreachable(f'lost the connection to node "{self.name}": its reply is none', None))
                return
            if len(self._received) < end + 1 + length:
                return
            reply = _Reply(words[1].decode(errors="replace"), bytes(self._received[end + 1 : end + 1 + length]))
            del self._received[: end + 1 + length]
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
            said = self._errors.decode(errors="replace")
            self.close(explain_end(self.name, self._destination, said, greeted=self.greeting is not None))


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
