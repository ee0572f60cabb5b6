"""How jobs are shown to a person."""

from __future__ import annotations

import time

from nexus.cli.output import Column, format_duration, format_time, shortened
from nexus.cli.records import Noun
from nexus.cli.verbs import Values
from nexus.jobs.records import Job, JobPage
from nexus.jobs.states import JobStatus

__all__ = ["COLUMNS", "JOB", "LOCAL", "is_elsewhere", "outcome", "lines"]

JOB = Noun("job", "jobs", "job", JobPage.jobs)

_COLOURS = {
    JobStatus.EXECUTING: "green",
    JobStatus.FAILED: "red",
    JobStatus.UNKNOWN: "red",
    JobStatus.CANCELLED: "yellow",
}
LOCAL = "local"
"""The node that is the daemon's own machine."""
_COMMAND_WIDTH = 50


def _status(job: Job) -> str:
    if job.status is JobStatus.QUEUED and job.waits_for:
        return "waiting"
    if job.status is JobStatus.QUEUED and job.not_before is not None:
        return "delayed"
    return job.status.value


def _took(job: Job) -> str | None:
    if job.status is JobStatus.EXECUTING and job.started_at is not None:
        return format_duration(max(int(time.time() * 1000) - job.started_at, 0))
    if job.duration is None:
        return None
    return f"{job.duration} ms" if job.duration < 1000 else format_duration(job.duration)


def _code(job: Job) -> str | None:
    if job.exit_code is not None:
        return str(job.exit_code)
    return None if job.exit_signal is None else f"SIG {job.exit_signal}"


def _command(job: Job) -> str:
    return shortened(job.label or " ".join(job.command.split()), _COMMAND_WIDTH)


COLUMNS: tuple[Column[Job], ...] = (
    Column("JOB", lambda job: job.number, 5),
    Column("STATUS", _status, 10, colour=lambda job: _COLOURS.get(job.status)),
    Column("GROUP", lambda job: job.group, 8),
    Column("EXIT", _code, 5),
    Column("TIME", _took, 10),
    Column("COMMAND", _command),
    Column("NODE", lambda job: job.node_id, wide=True),
    Column("PRIORITY", lambda job: job.priority, wide=True),
    Column("ATTEMPT", lambda job: f"{job.attempt} of {job.retries + 1}" if job.retries else job.attempt, wide=True),
    Column("CREATED", lambda job: format_time(job.created_at), wide=True),
    Column("REASON", lambda job: job.reason, wide=True),
    Column("ID", lambda job: job.id, wide=True),
)


def is_elsewhere(values: Values) -> bool:
    """Whether a job is to run on another node."""
    return values.text("node") not in (None, LOCAL)


def outcome(job: Job) -> str:
    """What became of a job, in words: ``failed: exited with 3``."""
    return f"{job.status}: {job.reason}" if job.reason else job.status.value


def lines(job: Job) -> list[tuple[str, object]]:
    """The labels and values of one job."""
    after = ", ".join(f"{one.number} ({one.condition})" for one in job.after)
    return [
        ("Job", job.number),
        ("ID", job.id),
        ("Project", None if job.project == "default" else job.project),
        ("Status", outcome(job)),
        ("Command", job.command),
        ("Tool", job.tool),
        ("Label", job.label),
        ("Tags", " ".join(job.tags) or None),
        ("Directory", job.directory or None),
        ("Group", job.group),
        ("Priority", job.priority or None),
        ("Node", None if job.node_id == LOCAL else job.node_id),
        ("After", after or None),
        ("Not before", format_time(job.not_before)),
        ("Time limit", None if job.timeout_ms is None else format_duration(job.timeout_ms)),
        ("Attempt", f"{job.attempt} of {job.retries + 1}" if job.retries else None),
        ("Retry of", job.retry_of),
        ("Terminal", "yes" if job.tty else None),
        ("Service", job.service_id),
        ("Schedule", job.schedule_id),
        ("PID", job.pid),
        ("Exit code", job.exit_code),
        ("Signal", job.exit_signal),
        ("Created", format_time(job.created_at)),
        ("Started", format_time(job.started_at)),
        ("Ended", format_time(job.completed_at)),
        ("Took", _took(job)),
        ("Output", None if job.output_bytes is None else f"{job.output_bytes} bytes"),
    ]
