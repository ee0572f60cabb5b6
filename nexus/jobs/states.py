"""The statuses of a job and their transition table, and the other enums of jobs, groups and schedules."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = [
    "ENDED",
    "TRANSITIONS",
    "AfterCondition",
    "JobReason",
    "JobStatus",
    "Missed",
    "Overlap",
]


class JobStatus(WireEnum):
    """The status of a job."""

    QUEUED = "queued"
    """It waits for a slot of its group, for its time, or for other jobs."""
    STASHED = "stashed"
    """It waits until it is enqueued."""
    EXECUTING = "executing"
    """It has a process, or is about to get one."""
    COMPLETED = "completed"
    """Its process exited with 0."""
    FAILED = "failed"
    """Its process ended otherwise, or could not be started."""
    CANCELLED = "cancelled"
    """It was cancelled, or a job that it waited for did not complete."""
    UNKNOWN = "unknown"
    """Its node cannot be reached: its process may run, or may have ended."""


ENDED = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED})
"""The statuses of a job whose work is over."""

_RUN_ENDS = frozenset({JobStatus.COMPLETED, JobStatus.FAILED, JobStatus.CANCELLED, JobStatus.QUEUED})

TRANSITIONS: dict[JobStatus, frozenset[JobStatus]] = {
    # What cannot be started may fail before it is executing: its standard input is missing, say.
    JobStatus.QUEUED: frozenset({JobStatus.EXECUTING, JobStatus.STASHED, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.STASHED: frozenset({JobStatus.QUEUED, JobStatus.EXECUTING, JobStatus.FAILED, JobStatus.CANCELLED}),
    JobStatus.EXECUTING: _RUN_ENDS | {JobStatus.UNKNOWN},
    JobStatus.UNKNOWN: _RUN_ENDS | {JobStatus.EXECUTING},
    JobStatus.COMPLETED: frozenset({JobStatus.QUEUED}),
    JobStatus.FAILED: frozenset({JobStatus.QUEUED}),
    JobStatus.CANCELLED: frozenset({JobStatus.QUEUED}),
}
"""The statuses that may follow each one."""


class JobReason(WireEnum):
    """Why a job is in its status, for programs; ``reason`` is the sentence for people."""

    EXITED = "exited"
    KILLED = "killed"
    """A signal ended it."""
    LOST = "lost"
    """Its end was not observed."""
    HOST_RESTARTED = "host_restarted"
    """It ended with the machine."""
    START_FAILED = "start_failed"
    """Its process could not be started: a missing program, a missing directory."""
    TIMEOUT = "timeout"
    """It ran longer than its time limit."""
    CANCELLING = "cancelling"
    """A client cancelled it, and its processes are being ended."""
    CANCELLED = "cancelled"
    """A client cancelled it."""
    ABANDONED = "abandoned"
    """A client cancelled it without waiting for its node, which could not be reached."""
    AFTER_FAILED = "after_failed"
    """A job that it waited for did not complete."""
    RETRYING = "retrying"
    """Its last attempt failed, and another one follows."""
    FILES_DELETED = "files_deleted"
    """The files of its run were deleted, so the run's remaining processes were ended."""
    NODE_UNREACHABLE = "node_unreachable"
    """Its node cannot be reached."""
    NODE_DRAINED = "node_drained"
    """Its node takes no new jobs."""
    NODE_REBOOTED = "node_rebooted"
    """It ended with the machine of its node."""
    RUNNER_LOST = "runner_lost"
    """What ran it on its node ended without telling how the job did."""
    SUPERVISOR_FAILED = "supervisor_failed"
    """A bug in the daemon ended its supervision."""


class AfterCondition(WireEnum):
    """What a job that another one waits for must have reached."""

    COMPLETED = "completed"
    ANY = "any"
    """It has ended, however that was."""


class Overlap(WireEnum):
    """What a schedule does when its time comes and a job of it has not ended."""

    SKIP = "skip"
    """It submits none."""
    QUEUE = "queue"
    """It submits another job all the same."""
    REPLACE = "replace"
    """It cancels that one, and submits another one, which begins once that has ended."""


class Missed(WireEnum):
    """What a schedule does about times that passed while the daemon was down or the machine asleep."""

    ONCE = "once"
    """However many there were, it submits one job."""
    SKIP = "skip"
    """It submits none."""
