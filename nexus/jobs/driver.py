"""What a supervision of a job does beside the shared part: its command, its time limit, and what follows an attempt."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import posixpath
import shlex
import signal
import stat
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from nexus_protocol import NexusError, ResourceExhausted

from nexus.capability import ManagerContext
from nexus.jobs import store
from nexus.jobs.errors import JobChanged, JobNodeUnavailable, JobNotFound
from nexus.jobs.records import Job
from nexus.jobs.states import ENDED, JobReason, JobStatus
from nexus.jobs.store import JOBS, StoredJob
from nexus.journal.operation import Operation, resumed
from nexus.journal.rows import Event
from nexus.remote.errors import HostUnreachable
from nexus.runtime import Exit, Orphans, ProcessSpec, RuntimeFailure, StartFailed, Trouble, Watched
from nexus.runtime.inheritance import inherited_environment
from nexus.runtime.status import now_ms
from nexus.store import StoreError, Transaction
from nexus.supervision.driver import End, Launch, NotStarted, RunEnded, RunStopped, StopLadder
from nexus.supervision.exits import accepts_exit, describe_exit, exit_detail, lost, may_end_with_machine
from nexus.supervision.nodes import Elsewhere
from nexus.supervision.requests import Reason, Request, StopRequest
from nexus.supervision.run import Run
from nexus.supervision.state_writer import StateWriter
from nexus.supervision.supervised import Supervised

__all__ = ["JOB_OWNER", "Begun", "JobDriver", "JobState", "argv_of", "owner_of_job"]

_log = logging.getLogger("nexus.jobs")

JOB_OWNER = "job-"
_SHORT_S = 0.05
"""Of a job that runs longer, the pid and the start are written."""
_MIB = 1024 * 1024
_END_BYTES = 64 * 1024
_CONTINUATIONS = bytes(range(0x80, 0xC0))
"""The bytes of a UTF-8 character after its first one."""
_BASH = "/bin/bash"
_SH = "/bin/sh"
_SHORTAGES = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})
_OWN_STEPS = ("files", "shim", "stdin")
"""The steps of a start in which a shortage is that of the daemon or the machine."""
_AS_BEGUN = ("status", "revision", "state_revision", "not_before")
_OF_TROUBLE = (JobReason.NODE_UNREACHABLE, JobReason.RUNNER_LOST)
_OF_EXIT = {"exit": JobReason.EXITED, "signal": JobReason.KILLED, "lost": JobReason.LOST}


def owner_of_job(job_id: str) -> str:
    """The owner of a job's runs and log in the process runtime."""
    return f"{JOB_OWNER}{job_id}"


def argv_of(job: Job, bash: str | None = None) -> tuple[str, ...]:
    """The words that a job runs: those given, else its line run by bash (``sh`` where there is none), else split.

    ``bash`` is what runs the line of bash on another node.

    Raises:
        ValueError: the line of a tool other than bash has an unfinished quotation.
    """
    if job.argv is not None:
        return tuple(job.argv)
    if job.tool in ("bash", "sh"):
        here = _BASH if os.access(_BASH, os.X_OK) else _SH
        shell = (bash or here) if job.tool == "bash" else _SH
        return (shell, "-c", job.command)
    return tuple(shlex.split(job.command))


class Begun(NamedTuple):
    """The job as it was when an attempt was begun: what was changed since then is not begun as something else."""

    job: Job
    on_demand: bool
    """Whether a client begins it, past the slots and the pause of its group."""

    def check(self, present: Job) -> None:
        """Refuse a job that was changed.

        Raises:
            JobChanged: it was.
        """
        if any(getattr(present, name) != getattr(self.job, name) for name in _AS_BEGUN):
            raise JobChanged(f"cannot begin job {present.number}: it was changed meanwhile")


class JobState(StateWriter[JobStatus, Job]):
    """Writes the record of one job."""

    def __init__(self, manager: ManagerContext, job_id: str) -> None:
        operation = manager.store.read(
            lambda reader: resumed(reader, manager.caller, store.operation_of(reader, job_id), "adopted")
        )
        super().__init__(manager, owner_of_job(job_id), operation)
        self.id = job_id
        self.on_process_ended: Callable[[], None] = lambda: None
        """Called once every process of the attempt has ended, before that is written."""
        self.not_begun: NexusError | None = None
        """Why the attempt was not begun, so that the job waits as before."""
        self._store = manager.store

    @property
    def name(self) -> str:
        """The number of the job; its id once the record is deleted."""
        return self.id if self.record is None else self.record.name

    def read(self) -> StoredJob:
        """The job as it is committed.

        Raises:
            JobNotFound: it was deleted.
        """
        stored = self._store.read(lambda reader: store.stored(reader, self.id))
        if stored is None:
            raise JOBS.not_found(self.id)
        self.record = stored.job
        return stored

    def change(
        self,
        tx: Transaction,
        operation: Operation,
        state: JobStatus | None,
        events: Sequence[Event],
        columns: dict[str, Any],
    ) -> Job:
        """As ``StateWriter``: a run that cannot be looked at makes the job unknown, until it can."""
        present = JOBS.get(tx, self.id)
        columns = dict(columns)
        begun: Begun | None = columns.pop("begun", None)
        if begun is not None:
            begun.check(present)
            if not begun.on_demand and store.is_paused(tx, present.group):
                raise JobChanged(f"cannot begin job {present.number}: its group was paused meanwhile")
        if state is None:
            state = JobStatus.EXECUTING if columns.get("unknown_since") is None else JobStatus.UNKNOWN
            if present.status in ENDED:
                return present
            if present.unknown_since is not None and columns.get("unknown_since") is not None:
                columns = columns | {"unknown_since": present.unknown_since}
            if present.reason_code not in _OF_TROUBLE:
                columns = {"reason": present.reason, "reason_code": present.reason_code} | columns
            elif state is JobStatus.EXECUTING:
                columns = {"reason": None, "reason_code": None} | columns
        return store.change_status(tx, operation, self.id, state, events, **columns)

    def unknown_columns(self, error: Exception) -> dict[str, Any]:
        """As ``StateWriter``."""
        if not isinstance(error, HostUnreachable):
            return {}
        return {"reason": error.message, "reason_code": JobReason.NODE_UNREACHABLE}

    async def cancel_waiting(self, operation: Operation, reason: Reason) -> Job:
        """Cancel the job if it waits; one that has ended, or runs, is not changed.

        Raises:
            StoreError: that cannot be written.
        """

        def change(tx: Transaction) -> Job:
            job = JOBS.get(tx, self.id)
            if job.status not in (JobStatus.QUEUED, JobStatus.STASHED):
                return job
            return store.change_status(
                tx,
                operation,
                self.id,
                JobStatus.CANCELLED,
                [("job.cancelled", {"reason": reason.text})],
                reason=reason.text,
                reason_code=reason.code,
            )

        self.record = await self._store.write(change)
        self.on_change()
        return self.record


class JobDriver:
    """One supervision of a job: one attempt. ``launches`` bounds how many are started at the same time.

    ``begun`` is None for what an earlier daemon began.
    """

    def __init__(
        self,
        manager: ManagerContext,
        subject: Supervised,
        state: JobState,
        operation: Operation,
        launches: asyncio.Semaphore,
        begun: Begun | None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._manager = manager
        self._subject = subject
        self._state = state
        self._operation = operation
        """What led to this attempt."""
        self._launches = launches
        self._begun = begun
        self._started_at: int | None = None
        """When the process of this attempt began, as its shim says; None where none was seen."""
        self._files_deleted = False
        self._elsewhere = elsewhere
        """The node that it runs on; None for this machine."""

    # How it begins

    def resume(self, found: Watched | Exit | Orphans | None) -> RunEnded | NotStarted | None:
        """As ``Driver``: a job whose process was never started is queued again, and no other one."""
        job = self._state.read().job
        self._operation = self._state.operation
        if job.reason_code is JobReason.CANCELLING and self._subject.requests.stop is None:
            reason = Reason(JobReason.CANCELLED, job.reason or "cancelled")
            self._subject.requests.stop = StopRequest(self._operation, reason, on_demand=True)
        self._files_deleted = isinstance(found, Orphans)
        if isinstance(found, (Watched, Orphans)):
            return None
        if isinstance(found, Exit):
            return RunEnded(found, self._state.cause("process.exited"))
        if job.started_at is None and (self._elsewhere is not None or not self._manager.boot.is_new):
            return NotStarted(None)
        is_new = self._manager.boot.is_new and self._elsewhere is None
        what = "the machine was restarted" if is_new else "its process was not found"
        return RunEnded(lost(what), self._state.cause("process.exited"))

    @contextlib.asynccontextmanager
    async def prepare(self, run_id: str) -> AsyncIterator[Launch]:
        """As ``Driver``: the row says executing before the process exists."""
        requests = self._subject.requests
        async with contextlib.AsyncExitStack() as stack:
            stored = self._state.read()
            job = stored.job
            assert self._begun is not None
            self._begun.check(job)
            environment, memory, cpu, umask = stored.environment, job.memory_limit_mib, job.cpu_limit_percent, None
            directory, bash = job.directory, None
            if self._elsewhere is not None:
                # Nothing of the daemon's environment travels.
                there = await requests.interruptible(self._elsewhere.session())
                environment = there.environment | (environment or {})
                directory, bash = _directory_there(there.home, directory), there.shell
            memory_bytes = None if memory is None else memory * _MIB
            if job.service_id is not None:
                lender = self._manager.environments.of("service")
                borrowed = await requests.interruptible(
                    stack.enter_async_context(lender.lend(job.service_id, run_id, self._operation))
                )
                environment = borrowed.environment | (environment or {})
                directory, umask = job.directory or borrowed.directory, borrowed.umask
                memory_bytes = memory_bytes or borrowed.memory_bytes
                cpu = cpu or borrowed.cpu_percent
            variables = dict(inherited_environment() if environment is None else environment)
            variables |= {"NEXUS_PROJECT": job.project, "NEXUS_JOB": job.name, "NEXUS_JOB_ID": job.id}
            variables["NEXUS_RUN_ID"] = run_id
            spec = self._make_spec(job, argv_of(job, bash), directory, variables, memory_bytes, cpu, umask)
            stdin = await self._open_stdin(stored)
            if stdin is not None:
                stack.callback(os.close, stdin)
            # What the start of a one-off waits for holds up no other job; nor does another node.
            if self._elsewhere is None:
                await requests.interruptible(stack.enter_async_context(self._launches))
            self._subject.runs.check(spec)
            requests.check()
            await self._state.write(
                JobStatus.EXECUTING,
                ("job.started", {"attempt": job.attempt, "group": job.group}),
                operation=self._operation,
                insist=False,
                run_id=run_id,
                started_at=None,
                begun=self._begun,
            )
            yield Launch(spec, stdin)

    @staticmethod
    def _make_spec(
        job: Job,
        argv: tuple[str, ...],
        directory: str,
        variables: dict[str, str],
        memory_bytes: int | None,
        cpu_percent: int | None,
        umask: int | None,
    ) -> ProcessSpec:
        try:
            return ProcessSpec(
                argv=argv,
                directory=directory,
                environment=variables,
                stop_signal=signal.Signals[job.stop_signal.value].value,
                stop_grace_ms=job.stop_grace_ms,
                log_bytes=job.log_limit_mib * _MIB,
                memory_bytes=memory_bytes,
                cpu_percent=cpu_percent,
                umask=umask,
                terminal=job.tty,
                stdin="open" if job.stdin_open else "null",
            )
        except ValueError as error:
            raise StartFailed(job.tool, str(error)) from error

    @staticmethod
    async def _open_stdin(stored: StoredJob) -> int | None:
        """The descriptor of its standard input: the file that it names, or what the request carried."""
        path = stored.job.stdin_path
        if path is not None:
            try:
                return await asyncio.to_thread(_open_file, path)
            except OSError as error:
                raise StartFailed(
                    stored.job.tool, f"its standard input {path}: {error.strerror}", error.errno or 0, step="stdin"
                ) from error
        if stored.stdin_data is None:
            return None
        try:
            return _file_of(stored.stdin_data)
        except OSError as error:
            raise StartFailed(
                stored.job.tool, f"its standard input: {error.strerror}", error.errno or 0, step="stdin"
            ) from error

    # Up

    async def watch(self, run: Run) -> NoReturn:
        """As ``Driver``: the job runs until its process ends or its time is over."""
        requests, job = self._subject.requests, self._state.record
        self._started_at = run.process.started_at
        if job is None or job.started_at is None:
            # One that ends at once needs no further write.
            run.check()
            await requests.wait(_SHORT_S)
            job = self._state.read().job
        while True:
            run.check()
            left_s: float | None = None
            if run.process.trouble is not None or job.unknown_since is not None:
                job = await self._note_trouble(run.process.trouble, job)
                # Whether its time is over is told by its node, once that can be asked.
                if run.process.trouble is not None:
                    await requests.wait()
                    continue
            if job.started_at is None:
                pid, started_at = run.process.pid or None, run.process.started_at
                job = await self._state.write(JobStatus.EXECUTING, requests=requests, pid=pid, started_at=started_at)
            if job.timeout_ms is not None:
                left_s = (job.timeout_ms - run.up_ms) / 1000
                if left_s <= 0:
                    reason = Reason(JobReason.TIMEOUT, f"it ran longer than its time limit of {_time(job.timeout_ms)}")
                    requests.stop = requests.stop or StopRequest(
                        self._state.cause("job.timeout"), reason, on_demand=False
                    )
                    continue
            await requests.wait(left_s)

    async def _note_trouble(self, trouble: Trouble | None, job: Job) -> Job:
        """Write that the run cannot be looked at, or can be again."""
        requests = self._subject.requests
        if trouble is None:
            return await self._state.write(None, requests=requests, unknown_since=None)
        if job.unknown_since is not None and job.reason_code == trouble.code:
            return job
        if trouble.code == JobReason.RUNNER_LOST:
            self._state.on_process_ended()  # its slot is free: nothing tells when it ends
        return await self._state.write(
            None,
            ("job.unknown", {"reason": trouble.text}),
            operation=self._state.cause("node.lost"),
            requests=requests,
            unknown_since=trouble.since,
            reason=trouble.text,
            reason_code=trouble.code,
        )

    async def ending(self, cause: Request | RunEnded | Orphans) -> None:
        """As ``Driver``: a cancel is durable before anything is ended, where the store can be written."""
        if not isinstance(cause, StopRequest):
            return  # what is left of a run is ended without a status of its own
        code = JobReason.CANCELLING if cause.on_demand else cause.reason.code
        try:
            await self._state.write(
                JobStatus.EXECUTING,
                ("job.cancelling", {"reason": cause.reason.text}),
                operation=cause.operation,
                insist=False,
                reason=cause.reason.text,
                reason_code=code,
            )
        except NexusError as error:
            # It is ended all the same: the next write corrects the record.
            _log.warning("job %s: %s", self._state.name, error.message)

    # What follows

    async def verdict(self, end: End) -> bool:
        """As ``Driver``: an attempt is one supervision, and a further one is queued."""
        if isinstance(end, NotStarted):
            await self._not_started(end.error)
            return False
        # Its slot is free, also while the store cannot be written.
        self._state.on_process_ended()
        if isinstance(end, RunStopped):
            await self._stopped(end)
        else:
            await self._ended(end)
        return False

    async def _not_started(self, error: NexusError | RuntimeFailure | None) -> None:
        if error is None:
            await self._requeue("the daemon ended before its process was started")
            return
        try:
            job = self._state.read().job
        except JobNotFound:
            return  # it was deleted while it waited
        if isinstance(error, HostUnreachable):
            error = JobNodeUnavailable(
                f"cannot begin job {job.number} at present: {error.message}",
                hint=error.hint,
                details={"id": job.id, "number": job.number, "node": job.node_id},
            )
        if isinstance(error, (StoreError, JobChanged, JobNodeUnavailable)):
            self._state.not_begun = error
            # Unless the store has begun it without telling, it waits as before.
            if job.status is JobStatus.EXECUTING:
                await self._requeue(
                    error.message if isinstance(error, JobNodeUnavailable) else "it could not be written that it began"
                )
            return
        if job.status is not JobStatus.EXECUTING and self._begun is not None:
            try:
                self._begun.check(job)
            except JobChanged as changed:
                self._state.not_begun = changed  # what could not be started is no longer what it is
                return
        if isinstance(error, StartFailed) and error.step in _OWN_STEPS and error.errno in _SHORTAGES:
            # It is not the job that is at fault: it begins once there is room for it.
            if job.status is JobStatus.EXECUTING:
                await self._requeue(error.reason)
            self._state.not_begun = ResourceExhausted(
                f"cannot begin job {job.number} at present: {error.reason}",
                hint="It begins by itself once there is room for it."
                if job.status is not JobStatus.STASHED
                else error.hint,
                details={"id": job.id, "number": job.number},
            )
            return
        sentence = error.reason if isinstance(error, StartFailed) else error.message
        if isinstance(error, StartFailed) and error.step not in ("chdir", "stdin"):
            sentence = f"{error.program}: {error.reason}"
        await self._failed(Reason(JobReason.START_FAILED, sentence), None, None, self._operation)

    async def _requeue(self, reason: str) -> None:
        await self._write_end(JobStatus.QUEUED, [("job.requeued", {"reason": reason})], self._operation, None)

    async def _ended(self, end: RunEnded) -> None:
        exit_ = end.exit
        if accepts_exit(exit_):
            detail = exit_detail(exit_) | {"duration": self._duration(exit_, end.up_ms)}
            await self._write_end(
                JobStatus.COMPLETED, [("job.completed", detail)], end.operation, exit_, up_ms=end.up_ms
            )
            return
        reason = Reason(_OF_EXIT[exit_.kind], describe_exit(exit_))
        if exit_.rebooted and may_end_with_machine(exit_):
            reason = Reason(JobReason.NODE_REBOOTED, f'node "{self._state.read().job.node_id}" was restarted')
        elif self._elsewhere is None and self._manager.boot.is_new and may_end_with_machine(exit_):
            reason = Reason(JobReason.HOST_RESTARTED, "the machine was restarted")
        elif self._files_deleted and exit_.kind == "lost":
            reason = Reason(JobReason.FILES_DELETED, reason.text)
        await self._failed(reason, exit_, end.up_ms, end.operation)

    async def _stopped(self, end: RunStopped) -> None:
        request = end.request
        assert isinstance(request, StopRequest)
        if not request.on_demand:  # its time limit
            await self._failed(request.reason, end.exit, end.up_ms, request.operation)
            return
        detail = {"reason": request.reason.text} | ({} if end.exit is None else exit_detail(end.exit))
        await self._write_end(
            JobStatus.CANCELLED,
            [("job.cancelled", detail)],
            request.operation,
            end.exit,
            reason=request.reason,
            up_ms=end.up_ms,
        )

    async def _failed(self, reason: Reason, exit_: Exit | None, up_ms: int | None, operation: Operation) -> None:
        """The attempt failed: queue a further one, or write that the job failed."""
        job = self._state.read().job
        detail: dict[str, Any] = {"reason": reason.text} | ({} if exit_ is None else exit_detail(exit_))
        if job.attempt <= job.retries:
            again = {"attempt": job.attempt + 1, "not_before": now_ms() + store.backoff_ms(job)}
            text = f"attempt {job.attempt} failed: {reason.text}"
            await self._write_end(
                JobStatus.QUEUED,
                [("job.retrying", detail | again)],
                operation,
                exit_,
                reason=Reason(JobReason.RETRYING, text),
                up_ms=up_ms,
                **again,
            )
            return
        detail["duration"] = 0 if exit_ is None else self._duration(exit_, up_ms)
        await self._write_end(JobStatus.FAILED, [("job.failed", detail)], operation, exit_, reason=reason, up_ms=up_ms)

    def _duration(self, exit_: Exit, up_ms: int | None) -> int:
        """How long the attempt took; of one whose end no daemon observed, only the wall clock tells."""
        if up_ms is not None:
            return up_ms
        job = self._state.record
        return 0 if job is None or job.started_at is None else max(exit_.at - job.started_at, 0)

    async def _write_end(
        self,
        status: JobStatus,
        events: Sequence[Event],
        operation: Operation,
        exit_: Exit | None,
        *,
        reason: Reason | None = None,
        up_ms: int | None = None,
        **columns: Any,
    ) -> None:
        """Write the end of an attempt, with the end of its output."""
        columns["run_id"] = None
        if reason is not None:
            columns |= {"reason": reason.text, "reason_code": reason.code}
        if exit_ is not None:
            columns |= {
                "exit_code": exit_.code if exit_.kind == "exit" else None,
                "exit_signal": exit_.code if exit_.kind == "signal" else None,
                "duration": self._duration(exit_, up_ms),
            }
            if self._state.record is not None and self._state.record.started_at is None:
                began_at = exit_.at - columns["duration"]
                columns["started_at"] = began_at if self._started_at is None else self._started_at
        if status in ENDED:
            columns |= await self._output()
        borrowed = None if self._state.record is None else self._state.record.service_id
        await self._state.write(status, *events, operation=operation, **columns)
        if borrowed is not None:
            try:
                await self._manager.environments.of("service").returned(borrowed, operation)
            except NexusError as error:
                _log.warning("job %s: %s", self._state.name, error.message)

    async def _output(self) -> dict[str, Any]:
        """The columns with the end of the output."""
        log = self._manager.runtime.log(self._subject.owner)

        def read() -> dict[str, Any]:
            ends = [log.end_of(stream, _END_BYTES) for stream in (1, 2)]
            size = sum(path.stat().st_size for path in log.folder.glob("*.log"))
            return {"stdout": _text(ends[0]), "stderr": _text(ends[1]), "output_bytes": size}

        try:
            return await asyncio.to_thread(read)
        except OSError as error:
            _log.warning("job %s: the end of its output cannot be read: %s", self._state.name, error.strerror)
            return {}

    async def stop_at_rest(self, request: StopRequest) -> None:
        """As ``Driver``: a cancel that arrived while the end was written holds for a further attempt."""
        await self._state.cancel_waiting(request.operation, request.reason)

    async def give_up(self, failure: NexusError) -> None:
        """As ``Driver``."""
        if self._state.read().job.status in (*store.ALIVE, JobStatus.QUEUED):
            reason = Reason(JobReason.SUPERVISOR_FAILED, failure.message)
            await self._write_end(
                JobStatus.FAILED, [("job.failed", {"reason": reason.text})], self._operation, None, reason=reason
            )

    def stop_ladder(self) -> StopLadder:
        """As ``Driver``."""
        job = self._state.read().job
        return StopLadder(signal.Signals[job.stop_signal.value], job.stop_grace_ms)


def _directory_there(home: str, directory: str) -> str:
    """The path of a directory on another node: relative ones, and ``~``, begin at the home directory there."""
    is_home = directory == "~" or directory.startswith("~/")
    return posixpath.join(home, directory[2:].lstrip("/") if is_home else directory)


def _open_file(path: str) -> int:
    """Open what a job is to read.

    Raises:
        OSError: it cannot be opened, or is a folder.
    """
    # The open of a FIFO that no process writes to would block: the job sees its end instead.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    os.set_blocking(descriptor, True)
    return descriptor


def _file_of(data: bytes) -> int:
    """A file in memory with this content, to be read from its beginning.

    Raises:
        OSError: there is no room for it.
    """
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _text(data: bytes) -> str | None:
    """The end of an output as text of at most 64 KiB.

    NUL, which no text column is to hold, and what is no UTF-8 are shown as U+FFFD, which is longer than one byte.
    """
    if len(data) == _END_BYTES:  # it may begin within a character
        data = data[:4].lstrip(_CONTINUATIONS) + data[4:]
    text = data.decode(errors="replace").replace("\0", "\ufffd")
    return text.encode()[-_END_BYTES:].decode(errors="ignore") or None


def _time(ms: int) -> str:
    return f"{ms / 1000:g} s"
