"""A daemon goes on with the jobs that a daemon of an earlier version left: the frozen database of each schema."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.jobs.commands import GetJob, ListJobs, ResumeJobGroup, WaitJobs
from nexus.jobs.states import JobReason, JobStatus
from nexus.runtime.status import now_ms
from nexus.store.migrate import target_version

FROZEN = Path(__file__).parents[1] / "data" / "schemas"
FIRST = 10
"""The first schema with jobs."""


@pytest.mark.parametrize("version", range(FIRST, target_version() + 1))
def test_jobs_of_a_frozen_database_go_on(root: Path, version: int) -> None:
    daemon = DaemonProcess(root)
    daemon.database.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(FROZEN / f"schema-v{version}.db", daemon.database)
    with closing(sqlite3.connect(daemon.database)) as database, database:
        # It ran when its daemon was killed, and no file of its run is left.
        database.execute(
            "UPDATE jobs SET status = 'executing', run_id = 'r3', pid = 4712, started_at = 1767225600005, retries = 0, "
            "attempt = 1, service_id = NULL, tty = 0, memory_limit_mib = NULL WHERE number = 3"
        )
        database.execute("UPDATE jobs SET directory = '/'")
        # Else they are too old to be kept.
        database.execute("UPDATE jobs SET completed_at = ? WHERE completed_at IS NOT NULL", (now_ms(),))
        database.execute("UPDATE service SET status = 'stopped', autostart = 0, run_id = NULL, wanted = 0")
    try:
        daemon.start()
        with BlockingClient(daemon.socket_path, project="shop") as client:
            lost = client.call(GetJob("3"))
            assert (lost.status, lost.reason_code) == (JobStatus.FAILED, JobReason.LOST)
            waiting = client.call(GetJob("4"))
            assert (waiting.status, waiting.group) == (JobStatus.QUEUED, "builds")
            client.call(ResumeJobGroup("builds"))
            client.call(WaitJobs(jobs=["4"]))
            ran = client.call(GetJob("4"))
            assert (ran.status, ran.tags, ran.metadata) == (JobStatus.COMPLETED, ["ci"], {"a": [1, None]})
            statuses = {job.number: job.status for job in client.call(ListJobs()).jobs}
            assert statuses == {
                1: JobStatus.COMPLETED,
                2: JobStatus.FAILED,
                3: JobStatus.FAILED,
                4: JobStatus.COMPLETED,
                5: JobStatus.STASHED,
            }
    finally:
        daemon.close()
