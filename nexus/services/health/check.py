"""Health checks: a command, a port or a line of output tells whether a running service is healthy.

Each check is one task of one run. It reports changes of health, and does not decide what follows from them.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, NamedTuple, cast

from nexus_protocol import NexusError

from nexus.runtime import loopback, ports
from nexus.runtime.command import run_command
from nexus.runtime.status import boot_clock_ms
from nexus.services.configuration.command import argv_of, directory_of, umask_of
from nexus.services.health.declared import has_health_check
from nexus.services.records import Service
from nexus.services.states import ServiceHealth
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from nexus.runtime import LogPiece, Process, Runtime
    from nexus.services.health.terminal import TerminalLines

__all__ = ["HealthCheck", "run_check"]

_log = logging.getLogger("nexus.services")

_EAGER_S = 0.25
"""Between two checks before the first success."""
_AGAIN_S = 1.0
"""Before the next attempt, where the output cannot be read."""
_SPREAD_S = 1.0
"""The longest random delay of the first check of a run that was adopted."""
_MESSAGE_INTERVAL_S = 5.0
"""Between two reports that change only the message."""
_STEP_BYTES = 1024
"""How much output is matched before the event loop goes on: of control sequences that shift a long row, 2 ms."""
_STEP_LINES = 128
"""How many lines, which may be empty, are matched before it goes on."""
_MATCHED_BYTES = 64 * 1024
"""How much of a line is matched: one of combining characters may be twelve times as long."""
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


class _LogDeleted(Exception):
    """The log of the run was deleted during the run."""


class _Result(NamedTuple):
    healthy: bool
    message: str | None


class HealthCheck:
    """The health check of one run."""

    def __init__(self, runtime: Runtime, service: Service, process: Process, report: Report) -> None:
        self._runtime = runtime
        self._service = service
        self._process = process
        self._report = report
        self._task: asyncio.Task[None] | None = None
        self._health = ServiceHealth.UNKNOWN
        self._message: str | None = None
        self._reported_at = 0.0
        now_ms = boot_clock_ms()
        self._run_started_at = time.monotonic() - (now_ms - (process.started_clock_ms or now_ms)) / 1000
        """On the monotonic clock, which a change of the system time does not move."""

    def start(self) -> None:
        """Start to check, if the service has a check."""
        if has_health_check(self._service):
            self._task = asyncio.create_task(self._run())

    async def end(self) -> None:
        """Stop checking; nothing is reported afterwards."""
        await cancel_and_wait(self._task)

    def differs(self, service: Service) -> bool:
        """Whether the record asks for another check than this one."""
        return any(getattr(service, name) != getattr(self._service, name) for name in _FIELDS)

    def replace(self, service: Service) -> None:
        """Replace the check with that of the changed record; health is unknown until it has a result."""
        self._service = service
        self._task = asyncio.create_task(self._restart(self._task))

    async def _restart(self, old: asyncio.Task[None] | None) -> None:
        await cancel_and_wait(old)
        if self._health is not ServiceHealth.UNKNOWN:
            self._health = ServiceHealth.UNKNOWN
            await self._set_health(ServiceHealth.UNKNOWN, None)
        if has_health_check(self._service):
            await self._run()

    async def _run(self) -> None:
        try:
            while True:
                try:
                    if self._service.health_log is not None:
                        await self._watch_log(self._service.health_log)
                    else:
                        await self._probe_periodically()
                    return
                except OSError as error:
                    _log.error("service %s: cannot check its health, trying again: %s", self._service.name, error)
                await asyncio.sleep(_AGAIN_S)
        except asyncio.CancelledError:
            raise
        except Exception:
            _log.exception("service %s: the health check crashed, and is not tried again", self._service.name)

    async def _set_health(self, health: ServiceHealth, message: str | None) -> bool:
        """Report a change; False when it cannot be stored now, so that the next result is reported again."""
        try:
            await self._report(health, message)
        except StoreError as error:
            _log.warning("service %s: cannot store its health: %s", self._service.name, error.message)
            return False
        self._health, self._message, self._reported_at = health, message, time.monotonic()
        return True

    # Probes

    async def _probe_periodically(self) -> None:
        """Probe once in an interval, and more often until the first success.

        The extra probes only find that success earlier: at most one failure in an interval counts.
        """
        service = self._service
        interval_s = service.health_interval_ms / 1000
        counts_at = self._run_started_at + service.health_start_period_ms / 1000 + interval_s
        failures = 0
        succeeded = False
        if time.monotonic() - self._run_started_at > _SPREAD_S:
            # Spread the checks of runs that are adopted together when the daemon starts.
            await asyncio.sleep(random.random() * min(interval_s, _SPREAD_S))
        while True:
            result = await self._probe()
            now = time.monotonic()
            if result.healthy:
                failures = 0
                succeeded = True
                if self._health is not ServiceHealth.HEALTHY:
                    await self._set_health(ServiceHealth.HEALTHY, result.message)
            else:
                if succeeded or now >= counts_at:
                    failures += 1
                    counts_at = now + interval_s
                await self._note_failure(failures >= service.health_retries, result.message)
            pause_s = interval_s if succeeded else min(interval_s, _EAGER_S)
            await asyncio.sleep(pause_s * random.uniform(0.95, 1.05))

    async def _note_failure(self, unhealthy: bool, message: str | None) -> None:
        if unhealthy and self._health is not ServiceHealth.UNHEALTHY:
            await self._set_health(ServiceHealth.UNHEALTHY, message)
        elif (
            self._health is not ServiceHealth.HEALTHY
            and message != self._message
            and time.monotonic() - self._reported_at > _MESSAGE_INTERVAL_S
        ):
            await self._set_health(self._health, message)

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
            code, line = await run_check(argv, directory_of(service), environment, timeout_s, umask_of(service))
            if code is None:
                return _Result(False, f"no answer within {service.health_timeout_ms} ms")
            return _Result(code == 0, line or (None if code == 0 else f"exited with {code}"))
        except OSError as error:
            return _Result(False, f"cannot be run: {error.strerror}")
        except NexusError as error:
            return _Result(False, error.message)

    # Output

    async def _watch_log(self, pattern: str) -> None:
        """Report healthy once a line matches, for the rest of the run; unhealthy when none has matched in time."""
        service = self._service
        allowed_ms = service.health_start_period_ms + service.health_interval_ms * service.health_retries
        left_s = self._run_started_at + allowed_ms / 1000 - time.monotonic()
        matched = asyncio.create_task(self._match(pattern))
        try:
            done, _ = await asyncio.wait({matched}, timeout=max(left_s, 0))
            if not done:
                await self._set_health(ServiceHealth.UNHEALTHY, "no line of its output matches yet")
            try:
                message = await matched
            except _LogDeleted:
                _log.warning("service %s: its log was deleted, so its log check has ended", service.name)
                await self._set_health(ServiceHealth.UNHEALTHY, "its output was deleted before a line matched")
                return
            while not await self._set_health(ServiceHealth.HEALTHY, message):  # noqa: ASYNC110  a store has no event
                await asyncio.sleep(1.0)
        finally:
            matched.cancel()

    async def _match(self, pattern: str) -> str:
        from nexus.services.health.patterns import compile_pattern
        from nexus.services.health.terminal import TerminalLines

        matches = compile_pattern(pattern)
        streams: dict[int, TerminalLines] = {}
        begun: set[int] = set()  # the streams whose last piece ended within a line
        log = self._runtime.log(self._process.owner)
        pieces = cast("AsyncGenerator[LogPiece]", log.pieces(from_run=self._process.run_id, follow=True))
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                terminal = streams.setdefault(piece.stream, TerminalLines())
                is_lost = bool(piece.lost) or (piece.stream in begun and not piece.continues)
                async for line in _shown_lines(terminal, piece.data, is_lost=is_lost):
                    if matches(line):
                        return _as_message(line)
                (begun.discard if piece.data.endswith(b"\n") else begun.add)(piece.stream)
        raise _LogDeleted


async def _shown_lines(terminal: TerminalLines, data: bytes, *, is_lost: bool) -> AsyncIterator[bytes]:
    """The lines, as a terminal shows them, that end in a piece of output; at last the one that has only begun.

    ``is_lost``: bytes of the stream before this piece are lost.
    """
    ended = list(terminal.lose()) if is_lost else []
    for start in range(0, len(data), _STEP_BYTES):
        lines = itertools.chain(ended, terminal.feed(data[start : start + _STEP_BYTES]))
        for number, line in enumerate(lines, start=1):
            if number % _STEP_LINES == 0:
                await asyncio.sleep(0)
            for shown in line:
                yield shown[:_MATCHED_BYTES].encode()[:_MATCHED_BYTES]
        ended = []
        await asyncio.sleep(0)
    for line in (*ended, terminal.present()):
        for shown in line:
            yield shown[:_MATCHED_BYTES].encode()[:_MATCHED_BYTES]


def _as_message(line: bytes) -> str:
    text = line[: 4 * _MESSAGE_CHARACTERS].decode(errors="replace").strip()
    return "".join(letter if letter.isprintable() else " " for letter in text)[:_MESSAGE_CHARACTERS]


async def _probe_port(port: int, timeout_s: float) -> _Result:
    for host in loopback.HOSTS:
        if await ports.accepts(host, port, timeout_s):
            return _Result(True, None)
    return _Result(False, f"cannot connect to port {port}")


async def run_check(
    argv: tuple[str, ...],
    directory: str,
    environment: dict[str, str],
    timeout_s: float,
    umask: int | None = None,
) -> tuple[int | None, str | None]:
    """Run a check command; gives its exit code (None: not in time) and the last line of its output.

    Everything that it left behind is killed afterwards, whether or not it has ended.

    Raises:
        OSError: it cannot be started.
    """
    result = await run_command(
        argv,
        directory=directory,
        environment=environment,
        timeout_s=timeout_s,
        output_bytes=_OUTPUT_BYTES,
        umask=umask,
    )
    last = result.output.strip().rsplit(b"\n", 1)[-1]
    return result.code, _as_message(last) if last else None
