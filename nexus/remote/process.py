"""A run on another host, as a supervision sees it. ``Connection`` says what is known of it, and stops it."""

from __future__ import annotations

import asyncio
import os
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nexus.remote.output import OutputCopy
from nexus.remote.state import HostIdentity
from nexus.runtime import Exit, StartFailed, Trouble, Watched
from nexus.runtime.status import boot_clock_ms, now_ms

__all__ = ["Input", "Order", "RemoteProcess", "StopWish"]


_MAX_STDIN = 16 * 1024 * 1024


class Input:
    """The standard input of a run: a file of this machine, read in pieces each time that it is sent.

    It is closed once nothing refers to it: while a thread reads it, its descriptor is that of no other file.
    """

    def __init__(self, program: str, descriptor: int, folder: Path) -> None:
        """Open it again as ``descriptor``. Blocks.

        What cannot be read twice, such as a FIFO, is copied into a file without a name in ``folder``.

        Raises:
            StartFailed: it is too large, or cannot be read.
        """
        self._program = program
        self._descriptor = -1
        try:
            self._descriptor = os.dup(descriptor)
            information = os.fstat(descriptor)
            if not stat.S_ISREG(information.st_mode):
                self._copy(folder)
            elif information.st_size > _MAX_STDIN:
                raise self._too_large()
        except OSError as error:
            raise self._unreadable(error) from error

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

    def read(self, offset: int, length: int) -> bytes:
        """A piece; empty at the end. Blocks.

        Raises:
            StartFailed: it has become too large, or cannot be read.
        """
        try:
            data = os.pread(self._descriptor, length, offset)
        except OSError as error:
            raise self._unreadable(error) from error
        if offset + len(data) > _MAX_STDIN:
            raise self._too_large()
        return data

    def _copy(self, folder: Path) -> None:
        with tempfile.TemporaryFile(dir=folder) as file:
            size = 0
            while data := os.read(self._descriptor, 64 * 1024):
                size += file.write(data)
                if size > _MAX_STDIN:
                    raise self._too_large()
            file.flush()
            os.dup2(file.fileno(), self._descriptor, inheritable=False)

    def _too_large(self) -> StartFailed:
        return StartFailed(self._program, "its standard input is larger than 16 MiB, for another node", step="stdin")

    def _unreadable(self, error: OSError) -> StartFailed:
        return StartFailed(self._program, f"its standard input: {error.strerror}", error.errno or 0, step="stdin")


@dataclass(frozen=True, repr=False)
class Order:
    """What was sent to start a run, kept until it is certain that it was started, so that it can be sent again."""

    runner: str
    spec: bytes
    stdin: Input | None


class StopWish(NamedTuple):
    """A stop: the signal, and how long until SIGKILL."""

    signal: int
    grace_ms: int


class RemoteProcess(Watched):
    """A run whose folder is on another host. Only a ``Connection`` changes it."""

    def __init__(
        self,
        owner: str,
        run_id: str,
        output: OutputCopy,
        ladder: StopWish,
        *,
        started_at: int | None,
        wake: Callable[[], None],
    ) -> None:
        """``ladder`` is how it is stopped where a request does not say; ``wake`` is called when it has a wish."""
        self.owner = owner
        self.run_id = run_id
        self.pid = 0
        self.started_at = now_ms() if started_at is None else started_at
        self.exit: Exit | None = None
        self.output = output
        self.order: Order | None = None
        """What is to be sent again should the run not be there; None once it was seen."""
        self.wish: StopWish | None = None
        self.told: StopWish | None = None
        """The wish that its host was told of in the present session."""
        self.kill_at_ms: int | None = None
        """When what a wish has not ended is killed (ms of the boot clock), where no shim sees to that."""
        self.missing_since_ms: int | None = None
        """Since when it was not found there (ms of the boot clock), while it may still be begun."""
        self.host: HostIdentity | None = None
        """The host on which it was begun; None where that is not known."""
        self.is_closed = False
        self._started_clock_ms = boot_clock_ms() - max(now_ms() - self.started_at, 0)
        self.started_there = 0
        """When it began by the clock there, in ms."""
        self._ladder = ladder
        self._wake = wake
        self._finished = asyncio.Event()
        self._on_exit: Callable[[], None] | None = None
        self._on_trouble: Callable[[], None] | None = None

    def __repr__(self) -> str:
        return f"<RemoteProcess {self.owner} {self.run_id} {self.exit or 'runs'}>"

    @property
    def started_clock_ms(self) -> int | None:
        """As ``Watched``."""
        return self._started_clock_ms

    @property
    def finished(self) -> bool:
        """As ``Watched``: the output is here."""
        return self._finished.is_set()

    def on_exit(self, call: Callable[[], None]) -> None:
        """As ``Watched``."""
        if self.exit is None:
            self._on_exit = call
        else:
            call()

    def on_trouble(self, call: Callable[[], None]) -> None:
        """As ``Watched``."""
        self._on_trouble = call

    async def wait(self) -> Exit:
        """As ``Watched``."""
        await self._finished.wait()
        assert self.exit is not None
        return self.exit

    async def stop(self, number: int | None = None, grace_ms: int | None = None) -> Exit:
        """As ``Watched``. While the host cannot be reached the wish stays, and is carried out once it can."""
        ladder = self._ladder
        self.wish = StopWish(
            ladder.signal if number is None else int(number), ladder.grace_ms if grace_ms is None else grace_ms
        )
        self._wake()
        return await self.wait()

    async def abandon(self, why: str) -> None:
        """As ``Watched``: the connection ends what is left there as a run that no record knows."""
        if self.trouble is not None and self.exit is None:
            await self.output.finish()
            self.finish(Exit("lost", 0, False, now_ms(), why))

    def close(self) -> None:
        """As ``Watched``."""
        self.is_closed = True
        self.order = None
        self._on_exit = self._on_trouble = None
        self.output.close()
        self._wake()

    # What the connection says

    def set_trouble(self, trouble: Trouble | None) -> None:
        """It can be looked at no more (the first such time stays), or again."""
        if (trouble is None) == (self.trouble is None) and (
            trouble is None or self.trouble is None or trouble.code == self.trouble.code
        ):
            return
        if trouble is not None and self.trouble is not None:
            trouble = trouble._replace(since=self.trouble.since)
        self.trouble = trouble
        if self._on_trouble is not None:
            self._on_trouble()

    def set_exit(self, end: Exit) -> None:
        """Its main process has ended."""
        if self.exit is not None:
            return
        self.exit = end
        if end.kind != "lost":
            self.took_ms = max(end.at - self.started_there, 0) if self.started_there else None
        if self._on_exit is not None:
            self._on_exit()

    def finish(self, end: Exit) -> None:
        """All of its processes have ended, and the output is here."""
        self.order = None
        self.set_exit(end)
        self._finished.set()
