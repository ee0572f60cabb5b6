"""Health checks: a command, a port or a line of output tells whether a service that runs is well.

Each check is one task of its unit. It reports what is new and decides nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from nexus_protocol import NexusError

from nexus.runtime import ports
from nexus.services.configuration.command import argv_of, directory_of
from nexus.services.health.declared import has_health_check
from nexus.services.records import Service
from nexus.services.states import ServiceHealth
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nexus.runtime import LogPiece, Process, Runtime

__all__ = ["HealthCheck", "run_check"]

_log = logging.getLogger("nexus.services")

_EAGER_S = 0.25
"""Between two checks before the first success."""
_SPREAD_S = 1.0
_SAY_AGAIN_S = 5.0
"""Between two writes of a message alone."""
_DEATH_S = 0.05
"""What was killed is gone within this time, or not soon: the others do not wait for it."""
_MAX_LINE_BYTES = 16 * 1024
_OUTPUT_BYTES = 4096
_MESSAGE_CHARACTERS = 200

Report = Callable[[ServiceHealth, str | None], Awaitable[None]]

_FIELDS = (
    "health_exec",
    "health_tcp",
    "health_log",
    "health_interval_ms",
    "health_timeout_ms",
    "health_retries",
    "health_start_period_ms",
)


class _OutputEnded(Exception):
    """What is kept of a run's output was deleted while it runs."""


class _Result(NamedTuple):
    well: bool
    message: str | None


class HealthCheck:
    """The check of one run."""

    def __init__(self, runtime: Runtime, service: Service, process: Process, report: Report) -> None:
        self._runtime = runtime
        self._service = service
        self._process = process
        self._report = report
        self._task: asyncio.Task[None] | None = None
        self._health = ServiceHealth.UNKNOWN
        self._message: str | None = None
        self._said_at = 0.0
        self._began = time.monotonic() - max(time.time() - process.started_at / 1000, 0)
        """When the run did, by a clock that nobody sets."""

    def start(self) -> None:
        """Begin to check, if the service has a check."""
        if has_health_check(self._service):
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """No more checks, nor what they would report."""
        await cancel_and_wait(self._task)

    def differs(self, service: Service) -> bool:
        """Whether the record asks for another check than this one."""
        return any(getattr(service, name) != getattr(self._service, name) for name in _FIELDS)

    def replace(self, service: Service) -> None:
        """Go on with the record's new check, of which nothing is known yet."""
        self._service = service
        self._task = asyncio.create_task(self._begin_anew(self._task))

    async def _begin_anew(self, old: asyncio.Task[None] | None) -> None:
        await cancel_and_wait(old)
        if self._health is not ServiceHealth.UNKNOWN:
            self._health = ServiceHealth.UNKNOWN
            await self._say(ServiceHealth.UNKNOWN, None)
        if has_health_check(self._service):
            await self._run()

    async def _run(self) -> None:
        try:
            if self._service.health_log is not None:
                await self._watch_log(self._service.health_log)
            else:
                await self._probe_again_and_again()
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("the health check of service %s ended", self._service.name)

    async def _say(self, health: ServiceHealth, message: str | None) -> bool:
        """Report what is new; False when it cannot be written now, and is new the next time as well."""
        try:
            await self._report(health, message)
        except StoreError as error:
            _log.warning("service %s: its health was not written: %s", self._service.name, error.message)
            return False
        self._health, self._message, self._said_at = health, message, time.monotonic()
        return True

    # Probes

    async def _probe_again_and_again(self) -> None:
        """Often until the first success, which only finds it earlier: failures count once in an interval at most."""
        service = self._service
        interval_s = service.health_interval_ms / 1000
        counts_at = self._began + service.health_start_period_ms / 1000 + interval_s
        failures = 0
        succeeded = False
        if time.monotonic() - self._began > _SPREAD_S:
            # Checks that begin together, as when the daemon starts, come apart.
            await asyncio.sleep(random.random() * min(interval_s, _SPREAD_S))
        while True:
            result = await self._probe()
            now = time.monotonic()
            if result.well:
                failures = 0
                succeeded = True
                if self._health is not ServiceHealth.HEALTHY:
                    await self._say(ServiceHealth.HEALTHY, result.message)
            else:
                if succeeded or now >= counts_at:
                    failures += 1
                    counts_at = now + interval_s
                await self._note_failure(failures >= service.health_retries, result.message)
            pause_s = interval_s if succeeded else min(interval_s, _EAGER_S)
            await asyncio.sleep(pause_s * random.uniform(0.95, 1.05))

    async def _note_failure(self, unhealthy: bool, message: str | None) -> None:
        if unhealthy and self._health is not ServiceHealth.UNHEALTHY:
            await self._say(ServiceHealth.UNHEALTHY, message)
        elif (
            self._health is not ServiceHealth.HEALTHY
            and message != self._message
            and time.monotonic() - self._said_at > _SAY_AGAIN_S
        ):
            await self._say(self._health, message)

    async def _probe(self) -> _Result:
        service = self._service
        timeout_s = service.health_timeout_ms / 1000
        try:
            if service.health_tcp is not None:
                port = service.health_tcp or service.active_port or 0
                return await _probe_port(port, timeout_s)
            assert service.health_exec is not None
            environment = await asyncio.to_thread(self._process.environment)
            argv = argv_of(service.health_exec)
            code, line = await run_check(argv, directory_of(service), environment, timeout_s)
            if code is None:
                return _Result(False, f"no answer within {service.health_timeout_ms} ms")
            return _Result(code == 0, line or (None if code == 0 else f"exited with {code}"))
        except OSError as error:
            return _Result(False, f"cannot be run: {error.strerror}")
        except NexusError as error:
            return _Result(False, error.message)

    # Output

    async def _watch_log(self, pattern: str) -> None:
        """Healthy once a line matches, for the rest of the run; unhealthy when none has in its time."""
        service = self._service
        patience_ms = service.health_start_period_ms + service.health_interval_ms * service.health_retries
        left_s = self._began + patience_ms / 1000 - time.monotonic()
        matched = asyncio.create_task(self._match(pattern))
        try:
            done, _ = await asyncio.wait({matched}, timeout=max(left_s, 0))
            if not done:
                await self._say(ServiceHealth.UNHEALTHY, "no line of its output matches yet")
            try:
                message = await matched
            except _OutputEnded:
                _log.warning("service %s: its output was deleted, and is looked at no more", service.name)
                await self._say(ServiceHealth.UNHEALTHY, "its output was deleted before a line matched")
                return
            while not await self._say(ServiceHealth.HEALTHY, message):  # noqa: ASYNC110  a store has no event
                await asyncio.sleep(1.0)
        finally:
            matched.cancel()

    async def _match(self, pattern: str) -> str:
        from nexus.services.health.patterns import compile_pattern

        matches = compile_pattern(pattern)
        kept: dict[int, bytes] = {}
        log = self._runtime.log(self._process.owner)
        pieces = cast("AsyncGenerator[LogPiece]", log.pieces(from_run=self._process.run_id, follow=True))
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                *lines, rest = (kept.get(piece.stream, b"") + piece.data).split(b"\n")
                kept[piece.stream] = rest[:_MAX_LINE_BYTES]
                for count, line in enumerate(lines):
                    if matches(line[:_MAX_LINE_BYTES]):
                        return _as_message(line)
                    if count % 256 == 255:
                        await asyncio.sleep(0)
                if rest and matches(kept[piece.stream]):
                    return _as_message(rest)
        raise _OutputEnded


def _as_message(line: bytes) -> str:
    text = line[: 4 * _MESSAGE_CHARACTERS].decode(errors="replace").strip()
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MESSAGE_CHARACTERS]


async def _probe_port(port: int, timeout_s: float) -> _Result:
    for host in ("127.0.0.1", "::1"):
        if await ports.accepts(host, port, timeout_s):
            return _Result(True, None)
    return _Result(False, f"nobody accepts on port {port}")


async def run_check(
    argv: tuple[str, ...], directory: str, environment: dict[str, str], timeout_s: float
) -> tuple[int | None, str | None]:
    """Run a short program in a session of its own; gives its exit code (None: not in time) and its last line.

    All of its group is killed afterwards, whatever became of it.

    Raises:
        OSError: it cannot be started.
    """
    loop = asyncio.get_running_loop()
    reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    output = bytearray()

    def read() -> None:
        try:
            data = os.read(reader, 65_536)
        except BlockingIOError:
            return
        if not data:
            loop.remove_reader(reader)
        output.extend(data)
        del output[:-_OUTPUT_BYTES]

    try:
        os.set_blocking(writer, True)
        child = subprocess.Popen(  # noqa: ASYNC220  returns as soon as the program is executed
            argv,
            cwd=directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=writer,
            start_new_session=True,
        )
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    try:
        loop.add_reader(reader, read)
        in_time = await _wait_for_end(child.pid, timeout_s)
    finally:
        loop.remove_reader(reader)
        # Not reaped yet, so that the group is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        code = _reap(child)
        read()
        os.close(reader)
    lines = output.strip().rsplit(b"\n", 1)
    message = _as_message(bytes(lines[-1])) if lines[-1] else None
    return (code if in_time else None), message


def _reap(child: subprocess.Popen[bytes]) -> int | None:
    """Take the exit code of a program that has ended or was killed; of one that a disk holds, once it has let go."""
    try:
        return child.wait(_DEATH_S)
    except subprocess.TimeoutExpired:
        loop = asyncio.get_running_loop()
        pidfd = os.pidfd_open(child.pid)

        def ended() -> None:
            loop.remove_reader(pidfd)
            os.close(pidfd)
            child.wait()

        loop.add_reader(pidfd, ended)
        return None


async def _wait_for_end(pid: int, timeout_s: float) -> bool:
    """Wait until the child has ended, without reaping it; False when it has not in time."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()
    pidfd = os.pidfd_open(pid)

    def ended_now() -> None:
        if not ended.done():
            ended.set_result(None)

    try:
        loop.add_reader(pidfd, ended_now)
        done, _ = await asyncio.wait({ended}, timeout=timeout_s)
        return bool(done)
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
