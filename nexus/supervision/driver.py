"""What differs between the kinds of objects that are supervised: a driver of few methods, and what it is told.

A driver writes the record through the object's ``StateWriter`` and decides; the supervisor owns tasks and processes.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, NoReturn, Protocol

from nexus_protocol import NexusError

from nexus.journal.operation import Operation
from nexus.runtime import Exit, Orphans, ProcessSpec, RuntimeFailure, Watched
from nexus.supervision.requests import Request, StopRequest
from nexus.supervision.run import Run

__all__ = ["Driver", "End", "Launch", "NotStarted", "RunEnded", "RunStopped", "StopLadder"]


class RunEnded(NamedTuple):
    """The main process has ended by itself."""

    exit: Exit
    operation: Operation
    """What its end belongs to."""
    up_ms: int | None = None
    """How long it ran; None where no daemon observed its end, so that only the wall clock tells."""


class RunStopped(NamedTuple):
    """A request is to be concluded: every process has ended, or there was none."""

    request: Request
    exit: Exit | None
    """How the main process ended; None where there was no process."""
    up_ms: int | None
    """How long it ran, until the request was carried out; None as for ``RunEnded``."""


class NotStarted(NamedTuple):
    """The process was not started, and nothing of the run is left."""

    error: NexusError | RuntimeFailure | None
    """Why; None where an earlier daemon ended before the start."""


End = RunEnded | RunStopped | NotStarted


class StopLadder(NamedTuple):
    """How processes are ended whose shim cannot tell."""

    signal: int
    grace_ms: int
    """From the signal to SIGKILL."""


class Launch(NamedTuple):
    """What is to be started."""

    spec: ProcessSpec
    stdin: int | None = None
    """The descriptor that becomes its standard input; the driver closes its own afterwards."""


class Driver(Protocol):
    """One supervision of one object, as its capability sees it. No method is called while another one is at work."""

    def resume(self, found: Watched | Exit | Orphans | None) -> RunEnded | NotStarted | None:
        """Go on where an earlier daemon was; ``found`` is what the process runtime has of the run in the record.

        Returns the end of the run, or None: a process is watched, orphans are ended, and without either a run is
        prepared. A request that the earlier daemon was carrying out is put into ``requests``, unless there is one.
        Called in one turn of the event loop for all objects.
        """

    def prepare(self, run_id: str) -> AbstractAsyncContextManager[Launch]:
        """Wait until the next run may begin, make what is to be started, and write its durable row.

        The start is made within the context, which may bound how many are made at the same time and translate errors.
        Where a request has arrived when the row is written, none is made.

        Raises:
            RequestPending: a request arrived before the row was written.
            NexusError: the run cannot be started; the verdict on ``NotStarted`` follows.
            RuntimeFailure: the same.
        """

    async def watch(self, run: Run) -> NoReturn:
        """Write that the run has a process, and watch it; called again after a refused request or an error.

        It waits with ``requests.wait`` and looks with ``run.check``: requests and the end of the process wake it. What
        ends the run for another reason, as a time limit, puts a StopRequest into ``requests``.

        Raises:
            RequestPending: there is a request.
            RunExited: the main process has ended.
        """

    async def ending(self, cause: Request | RunEnded | Orphans) -> None:
        """Write that the run is being ended: for a request, because of what it left behind, or without its files.

        Raises:
            NexusError: the request is refused, and nothing is ended. For another cause it is logged.
        """

    async def verdict(self, end: End) -> bool:
        """Write what follows an end; whether another run does. Else the supervision is over."""

    async def stop_at_rest(self, request: StopRequest) -> None:
        """Write a stop that arrived while the end of the supervision was written."""

    async def give_up(self, failure: NexusError) -> None:
        """Write that the object has failed, because of a bug; there is no process."""

    def stop_ladder(self) -> StopLadder:
        """How what is left of a run is ended whose files were deleted."""
