"""The domain errors of jobs, groups and schedules.

::

    NotFound            JobNotFound, JobGroupNotFound, JobNodeNotFound, ScheduleNotFound
    Conflict            JobNeeded, JobAmbiguous, JobChanged, JobIdTaken; and of groups and schedules, with NameTaken
    InvalidArgument     JobInvalid, JobCursorInvalid, JobGroupCursorInvalid, ScheduleCursorInvalid, ScheduleInvalid
    FailedPrecondition  JobStatusWrong, JobNodeUnavailable, JobGroupInUse, JobGroupFixed
"""

from __future__ import annotations

from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound

from nexus.records.errors import (
    RecordAmbiguous,
    RecordChanged,
    RecordCursorInvalid,
    RecordIdTaken,
    RecordNameTaken,
    RecordNotFound,
)

__all__ = [
    "JobAmbiguous",
    "JobChanged",
    "JobCursorInvalid",
    "JobGroupAmbiguous",
    "JobGroupChanged",
    "JobGroupCursorInvalid",
    "JobGroupFixed",
    "JobGroupIdTaken",
    "JobGroupInUse",
    "JobGroupNameTaken",
    "JobGroupNotFound",
    "JobIdTaken",
    "JobInvalid",
    "JobNeeded",
    "JobNodeNotFound",
    "JobNodeUnavailable",
    "JobNotFound",
    "JobStatusWrong",
    "ScheduleAmbiguous",
    "ScheduleChanged",
    "ScheduleCursorInvalid",
    "ScheduleIdTaken",
    "ScheduleInvalid",
    "ScheduleNameTaken",
    "ScheduleNotFound",
]


class JobNotFound(RecordNotFound):
    """No job has this number or id."""

    type = "job.not_found"


class JobAmbiguous(RecordAmbiguous):
    """Several jobs have an id that begins so, or this number in their projects."""

    type = "job.ambiguous"


class JobIdTaken(RecordIdTaken):
    """A job with the id exists and differs from the request."""

    type = "job.id_taken"


class JobChanged(RecordChanged):
    """The job has another revision than the request expects."""

    type = "job.changed"


class JobCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters, or is no place of the job's output."""

    type = "job.cursor_invalid"


class JobInvalid(InvalidArgument):
    """The fields of the job contradict each other."""

    type = "job.invalid"


class JobStatusWrong(FailedPrecondition):
    """The job's status does not allow this; ``details.status`` is the present one."""

    type = "job.status"


class JobNeeded(Conflict):
    """Other jobs wait for the job; ``details.dependents`` has some of their numbers."""

    type = "job.needed"


class JobNodeNotFound(NotFound):
    """No node has this name."""

    type = "job.node_not_found"


class JobNodeUnavailable(FailedPrecondition):
    """The node of the job cannot be reached at present."""

    type = "job.node_unavailable"


class JobGroupNotFound(RecordNotFound):
    """No job group has this id or name."""

    type = "job_group.not_found"


class JobGroupAmbiguous(RecordAmbiguous):
    """Several ids of job groups begin so."""

    type = "job_group.ambiguous"


class JobGroupNameTaken(RecordNameTaken):
    """Another job group has the name."""

    type = "job_group.name_taken"


class JobGroupIdTaken(RecordIdTaken):
    """A job group with the id exists and differs from the request."""

    type = "job_group.id_taken"


class JobGroupChanged(RecordChanged):
    """The job group has another revision than the request expects."""

    type = "job_group.changed"


class JobGroupCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "job_group.cursor_invalid"


class JobGroupInUse(FailedPrecondition):
    """Jobs or schedules use the group; ``details`` counts them."""

    type = "job_group.in_use"


class JobGroupFixed(FailedPrecondition):
    """The group ``default`` always exists under this name."""

    type = "job_group.fixed"


class ScheduleNotFound(RecordNotFound):
    """No schedule has this id or name."""

    type = "schedule.not_found"


class ScheduleAmbiguous(RecordAmbiguous):
    """Several ids of schedules begin so."""

    type = "schedule.ambiguous"


class ScheduleNameTaken(RecordNameTaken):
    """Another schedule of the project has the name."""

    type = "schedule.name_taken"


class ScheduleIdTaken(RecordIdTaken):
    """A schedule with the id exists and differs from the request."""

    type = "schedule.id_taken"


class ScheduleChanged(RecordChanged):
    """The schedule has another revision than the request expects."""

    type = "schedule.changed"


class ScheduleCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "schedule.cursor_invalid"


class ScheduleInvalid(InvalidArgument):
    """The time of the schedule is malformed, never comes, or its fields contradict each other."""

    type = "schedule.invalid"
