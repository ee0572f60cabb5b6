"""The output of jobs as files beside the database, for backup and restore."""

from __future__ import annotations

from nexus.jobs.driver import JOB_OWNER
from nexus.jobs.logs_store import job_output, job_outputs
from nexus.store.files import FileSet
from nexus.supervision.log_files import LogFiles

__all__ = ["FILES"]

FILES: tuple[FileSet, ...] = (LogFiles("job-logs", "jobs", JOB_OWNER, job_outputs, job_output),)
