"""The supervision of one object from its first run to its end: one task, the only writer of the object's state.

Requests and events only wake the task; it re-reads state and decides (level-triggered). Every effect on the world is
written before: a daemon that is killed at any point leaves a record that says what to look for. What differs between
services, jobs and machines is their ``Driver``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import uuid
from collections.abc import Callable

from nexus_protocol import Internal, NexusError

from nexus.journal.store import bounds
from nexus.runtime import Exit, Orphans, RuntimeFailure, Watched
from nexus.store import StoreError
from nexus.store.processes_folder import note_event
from nexus.supervision.adoption import Found, find_run
from nexus.supervision.driver import Driver, NotStarted, RunEnded, RunStopped
from nexus.supervision.exits import lost
from nexus.supervision.requests import Request, RequestPending, Requests, StopRequest
from nexus.supervision.run import Run, RunExited
from nexus.supervision.supervised import Supervised
from nexus.tasks import cancel_and_wait

__all__ = ["ORPHANS_ENDED", "Supervisor"]

_log = logging.getLogger("nexus.supervision")

_RETRY_S = 1.0

ORPHANS_ENDED = "its files were deleted: what was left of it was ended"
"""Why the end of such a run was not observed."""


def _is_cancelled(error: BaseException) -> bool:
    """Whether the present task was cancelled, and not only something that a driver waits for: that is a bug."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


class Supervisor:
    """One supervision of an object: one run, or several where its driver says that another one follows.

    Call ``begin`` first, or ``resume`` for what an earlier daemon began. ``ended`` is called once, when the supervision
    is over, however it ends; not where ``close`` comes first.
    """

    def __init__(self, subject: Supervised, driver: Driver, ended: Callable[[], None]) -> None:
        self.run: Run | None = None
        """The run, from the start of its process until its end is handled."""
        self.over = False
        """Whether the supervision has ended."""
        self.unknown: Exception | None = None
        """Why the run cannot be looked at; None while it can."""
        self._subject = subject
        self._driver = driver
        self._ended = ended
        self._state = subject.state
        self._requests = subject.requests = Requests()
        self._task: asyncio.Task[None] | None = None
        self._launching = False
        """Whether a process is about to exist."""
        self._was_unknown = False
        """Whether the record may say that the run cannot be looked at."""
        self._orphans: Orphans | None = None
        """Processes of a run that cannot be adopted, which are to be ended."""
        self._end: RunEnded | NotStarted | None = None
        """How the run ended, while that is not handled yet."""
        self._ending = False
        """Whether what is left of the run is being ended."""
        self._kill: asyncio.Task[None] | None = None
        """Shortens the grace time of a stop that is under way."""
        self._refused: NexusError | None = None
        """Why the last request that was refused could not be carried out."""
        self._concluded: Request | None = None
        """The last request that the driver has given its verdict on."""
        self._bug: BaseException | None = None
        """An unexpected error of the driver's ``resume``, which the task handles."""
        self._disturbed = False
        """Whether an unexpected error has disturbed the watch of the run."""

    @property
    def _name(self) -> str:
        try:
            return self._state.name
        except Exception:  # a bug, of which is told
            return self._subject.owner

    @property
    def _label(self) -> str:
        return f"{self._subject.kind} {self._name}"

    @property
    def has_run(self) -> bool:
        """Whether there is a process, or is about to be."""
        known = self.run is not None or self._launching or self._orphans is not None
        return known or self.unknown is not None

    @property
    def may_live(self) -> bool:
        """Whether a process of its run may be alive."""
        return self.has_run and (self.run is None or not self.run.process.finished)

    # How it begins

    def begin(self) -> None:
        """Begin the first run."""
        self._task = asyncio.create_task(self._supervise())

    def resume(self, found: Found, *, run_id: str | None, was_unknown: bool = False) -> asyncio.Event:
        """Go on with what an earlier daemon began; the event is set once what was found is handled.

        ``found`` is what the process runtime has of the run ``run_id``, which the record knows; ``was_unknown`` says
        whether the record says that the run cannot be looked at. The driver is told before this returns.
        """
        self._state.run_id = run_id
        self._was_unknown = was_unknown
        if isinstance(found, Exception):
            self.unknown = found
        else:
            self._take(found)
        self.begin()
        return self._requests.waited

    def _take(self, found: Watched | Exit | Orphans | None) -> None:
        if isinstance(found, Watched):
            self.run = Run(self._requests, found)
        elif isinstance(found, Orphans):
            self._orphans = found
        try:
            self._end = self._driver.resume(found)
        except (Exception, asyncio.CancelledError) as error:
            self._bug = error

    # Requests

    def request_stop(self, request: StopRequest) -> None:
        """Request a stop, without waiting. One on demand replaces an earlier one, also while that is carried out.

        Another grace time then holds at once, if it is given.
        """
        requests = self._requests
        if requests.stop is None or request.on_demand:
            requests.stop = request
            if self._ending and (request.grace_ms is not None or request.abandon) and self.run is not None:
                if self._kill is not None:
                    self._kill.cancel()
                self._kill = asyncio.create_task(self._shorten_stop(self.run.process, request))
        requests.wake()

    async def _shorten_stop(self, process: Watched, request: StopRequest) -> None:
        try:
            await self._stop_process(process, request)
        except OSError as error:
            _log.warning("%s: cannot shorten its stop: %s", self._label, error)

    @staticmethod
    async def _stop_process(process: Watched, request: StopRequest | None) -> Exit:
        if request is not None and request.abandon:
            await process.abandon(request.reason.text)
        return await process.stop(grace_ms=None if request is None else request.grace_ms)

    async def stop(self, request: StopRequest) -> None:
        """Request a stop, and wait until the supervision is over.

        Raises:
            NexusError: the request was refused, and nothing was ended.
            StoreError: every process has ended, and that cannot be written at present.
        """
        self.request_stop(request)
        while not self.over:
            if self._refused is not None and not self._requests.pending:
                raise self._refused
            if self._state.trouble is not None and not self.may_live:
                raise self._ended_unwritten(self._state.trouble)
            await self._subject.waiters.changed()

    def _ended_unwritten(self, trouble: StoreError) -> StoreError:
        """The error of a stop that was carried out, and whose end cannot be written at present."""
        kind, name = self._subject.kind, self._name
        return type(trouble)(
            f'cannot write that {kind} "{name}" has stopped: {trouble.message}',
            hint=f"The {kind} has ended. Its record is corrected once the database can be written again.",
            details={"name": name, "stopped": True},
        )

    async def close(self) -> None:
        """Release the run as the daemon ends: nothing is written or ended any more."""
        await cancel_and_wait(self._task, self._kill)
        if self.run is not None:
            self.run.release()

    # From one step to the next

    async def _supervise(self) -> None:
        try:
            await self._take_steps()
        except (Exception, asyncio.CancelledError) as error:  # a bug, which must leave no client waiting
            if _is_cancelled(error):
                raise
            _log.exception("%s: supervision task failed", self._label)
        self.over = True
        self._state.trouble = None
        self._requests.waited.set()
        try:
            self._ended()
        except Exception:
            _log.exception("%s: the end of its supervision was not handled", self._label)
        self._subject.waiters.notify()

    async def _take_steps(self) -> None:
        """Carry out steps until the supervision is over. An unexpected error ends no running process."""
        while True:
            try:
                while await self._step():
                    pass
                while (late := self._requests.stop) is not None and late is not self._concluded:
                    # It arrived while the end was written.
                    self._concluded = late
                    await self._driver.stop_at_rest(late)
                return
            except (Exception, asyncio.CancelledError) as error:
                if _is_cancelled(error):
                    raise
                failure = error if isinstance(error, NexusError) else self._bug_in(error)
                self._disturbed = True
                self._subject.waiters.fail(failure)
                if not self.has_run:
                    await self._give_up(failure)
                    return
            await asyncio.sleep(_RETRY_S)

    def _bug_in(self, error: BaseException) -> NexusError:
        _log.error("%s: supervision task failed, retrying", self._label, exc_info=error)
        return Internal(
            f'cannot go on with {self._subject.kind} "{self._name}": {type(error).__name__}',
            hint="This is a bug in nexusd; its log has the details.",
        )

    async def _give_up(self, failure: NexusError) -> None:
        """Write the failure, since no process runs and no task goes on."""
        try:
            await self._driver.give_up(failure)
        except (Exception, asyncio.CancelledError) as error:
            if _is_cancelled(error):
                raise
            _log.exception("%s: its end was not written", self._label)

    async def _step(self) -> bool:
        """Begin and watch one run, then let the driver decide what follows; False when the supervision is over."""
        try:
            if self.unknown is not None:
                found = await find_run(self._subject, self.unknown)
                self.unknown, self._was_unknown = None, True
                self._take(found)
            if self._was_unknown:
                with contextlib.suppress(RequestPending):  # the write that concludes the request unsets it as well
                    await self._state.write(None, requests=self._requests, unknown_since=None)
                self._was_unknown = False
            if self._bug is not None:
                bug, self._bug = self._bug, None
                raise bug
            if self._orphans is not None:
                self._end = await self._end_orphans(self._orphans)
                self._orphans = None
            if self._end is None:
                if self.run is None:
                    try:
                        await self._start()
                    except (NexusError, RuntimeFailure) as error:
                        return await self._driver.verdict(NotStarted(error))
                assert self.run is not None
                if self._disturbed:
                    # The driver may raise again before it looks.
                    self.run.check()
                await self._driver.watch(self.run)
        except RequestPending:
            return await self._carry_out_request()
        except RunExited:
            assert self.run is not None
            assert self.run.process.exit is not None
            self._end = RunEnded(self.run.process.exit, self._state.cause("process.exited"))
        return await self._after_end()

    async def _start(self) -> None:
        """Let the driver prepare the next run, then start its process."""
        self._requests.check()
        subject, manager = self._subject, self._subject.manager
        run_id = uuid.uuid4().hex
        try:
            async with self._driver.prepare(run_id) as (spec, stdin):
                self._requests.check()
                self._launching = True
                note_event(manager.directory, manager.store.read(bounds)[1])
                process = await subject.runs.start(subject.owner, run_id, spec, stdin=stdin)
                self.run = Run(self._requests, process)
        finally:
            self._launching = False

    async def _end_orphans(self, orphans: Orphans) -> RunEnded:
        """End a run whose files were deleted: neither its end nor its output could be recorded."""
        _log.warning("%s: its files were deleted: what is left of it is being ended", self._label)
        await self._note_ending(orphans)
        ladder = self._driver.stop_ladder()
        await self._subject.runs.end_orphans(orphans, ladder.signal, ladder.grace_ms)
        return RunEnded(lost(ORPHANS_ENDED), self._state.cause("process.exited"))

    async def _note_ending(self, cause: RunEnded | Orphans) -> None:
        """Let the driver write that a run is being ended, which goes on whether or not it is written."""
        try:
            await self._driver.ending(cause)
        except NexusError as error:
            _log.warning("%s: %s", self._label, error.message)
        except Exception:
            _log.exception("%s: that it is being ended was not written", self._label)

    # What follows an end

    async def _after_end(self) -> bool:
        """The run has ended by itself: end what it left behind, then the driver decides what follows."""
        end = self._end
        assert end is not None
        if isinstance(end, RunEnded) and self.run is not None:
            end = end._replace(up_ms=self.run.up_ms)
            if not await self.run.is_gone():
                self._ending = True
                await self._note_ending(end)
                await self.run.process.wait()
        request = self._requests.current
        if request is not None:
            exit_, up_ms = (end.exit, end.up_ms) if isinstance(end, RunEnded) else (None, None)
            return await self._conclude(request, exit_, up_ms)
        self._release_run()
        return await self._driver.verdict(end)

    async def _carry_out_request(self) -> bool:
        """Let the driver write the request, then end the process, if there is one. What is refused ends nothing."""
        exit_: Exit | None = None
        up_ms: int | None = None
        request = self._requests.current
        assert request is not None
        if self.run is not None:
            self._refused = await self._admit(request)
            if self._refused is not None:
                self._requests.withdraw(request)
                self._subject.waiters.fail(self._refused)
                self._subject.waiters.notify()
                return True
            up_ms = self.run.up_ms
            self._ending = True
            exit_ = await self._stop_process(self.run.process, self._requests.stop)
            # Another one may have arrived: a stop replaces a restart.
            request = self._requests.current or request
        return await self._conclude(request, exit_, up_ms)

    async def _admit(self, request: Request) -> NexusError | None:
        """Let the driver write the request before anything is ended; gives the error if it is refused."""
        try:
            await self._driver.ending(request)
        except NexusError as error:
            return error
        except Exception as error:
            failure = self._bug_in(error)
            # A bug must not keep a process from being stopped.
            if not isinstance(request, StopRequest) or request.strict:
                return failure
        return None

    async def _conclude(self, request: Request, exit_: Exit | None, up_ms: int | None) -> bool:
        """Every process has ended and a request is pending: the driver decides what follows."""
        self._release_run()
        self._concluded = request
        goes_on = not isinstance(request, StopRequest)
        if goes_on:
            self._requests.withdraw(request)
        return await self._driver.verdict(RunStopped(request, exit_, up_ms)) and goes_on

    def _release_run(self) -> None:
        self._end, self._ending, self._disturbed = None, False, False
        if self._kill is not None:
            self._kill.cancel()
            self._kill = None
        if self.run is not None:
            self.run.release()
            self.run = None
