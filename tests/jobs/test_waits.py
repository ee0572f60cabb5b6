"""Clients that wait for jobs, and what they are told."""

from __future__ import annotations

import contextlib

from nexus_protocol import DeadlineExceeded, decode_reply
from support.jobs import Jobs
from support.raw import connect, wait_until

from nexus.jobs.commands import CancelJob, CreateJob, StartJob, WaitJobs
from nexus.jobs.errors import JobGroupNotFound, JobNotFound
from nexus.jobs.records import JobsWaited
from nexus.jobs.states import JobStatus
from nexus.system.commands import Ping


def reply(jobs: Jobs, sequence: int) -> JobsWaited:
    return decode_reply(JobsWaited, jobs.client.payload(sequence))


def test_wait_for_named_jobs_tells_how_each_one_ended(jobs: Jobs) -> None:
    jobs.group("wide", 9)
    held, bad = jobs.hold(group="wide"), jobs.submit("echo x; exit 3", group="wide")
    sequence = jobs.begin(WaitJobs(jobs=[str(held.number), bad.id, bad.id]))
    jobs.ended(bad)
    jobs.client.call(Ping())
    assert sequence not in jobs.client.last_sequences()
    jobs.let_go(held)
    waited = reply(jobs, sequence).jobs
    assert [(job.number, job.exit_code, job.stdout) for job in waited] == [
        (held.number, 0, None),
        (bad.number, 3, None),
        (bad.number, 3, None),
    ]
    assert jobs.client.call(WaitJobs(jobs=[held.id])).jobs[0].status is JobStatus.COMPLETED
    assert isinstance(jobs.call_error(WaitJobs(jobs=["9999999"])), JobNotFound)
    assert jobs.client.call(WaitJobs(jobs=[])).jobs == []


def test_wait_for_a_group_or_all_tells_of_those_that_did_not_complete(jobs: Jobs) -> None:
    jobs.group("wide", 9)
    good, bad = jobs.hold(group="wide"), jobs.hold(group="wide")
    other = jobs.hold()
    in_group, in_all = jobs.begin(WaitJobs(group="wide")), jobs.begin(WaitJobs())
    jobs.let_go(good)
    jobs.let_go(bad, 1)
    assert [job.id for job in reply(jobs, in_group).jobs] == [bad.id]
    jobs.client.call(Ping())
    assert in_all not in jobs.client.last_sequences()
    later = jobs.hold(group="wide")  # it came after the wait began
    jobs.let_go(other)
    assert [job.id for job in reply(jobs, in_all).jobs] == [bad.id]
    jobs.let_go(later)
    assert jobs.client.call(WaitJobs(group="default")).jobs == []
    assert isinstance(jobs.call_error(WaitJobs(group="none")), JobGroupNotFound)


def test_wait_ends_at_its_time_limit_and_the_jobs_go_on(jobs: Jobs) -> None:
    job = jobs.hold()
    error = jobs.call_error(WaitJobs(jobs=[job.id], timeout_ms=50))
    assert isinstance(error, DeadlineExceeded)
    assert "50 ms" in error.message
    jobs.let_go(job)
    assert jobs.ended(job).status is JobStatus.COMPLETED


def test_wait_goes_on_over_further_attempts(jobs: Jobs) -> None:
    job = jobs.submit("exit 1", retries=2, retry_backoff_ms=10)
    assert jobs.client.call(WaitJobs(jobs=[job.id])).jobs[0].attempt == 3


def test_jobs_that_are_deleted_meanwhile_are_waited_for_no_longer(jobs: Jobs) -> None:
    gone, held = jobs.submit(stashed=True), jobs.hold()
    both, only = jobs.begin(WaitJobs(jobs=[gone.id, held.id])), jobs.begin(WaitJobs(jobs=[gone.id]))
    jobs.client.call(Ping())
    jobs.delete(gone)
    assert reply(jobs, only).jobs == []
    jobs.let_go(held)
    assert [job.id for job in reply(jobs, both).jobs] == [held.id]


def test_wait_for_what_is_cancelled_or_started_meanwhile(jobs: Jobs) -> None:
    cancelled, started = jobs.submit(stashed=True), jobs.submit(stashed=True)
    sequence = jobs.begin(WaitJobs(jobs=[cancelled.id, started.id]))
    jobs.client.call(StartJob(started.id))
    jobs.client.call(CancelJob(cancelled.id))
    assert [job.status for job in reply(jobs, sequence).jobs] == [JobStatus.CANCELLED, JobStatus.COMPLETED]


def test_64_clients_wait_and_some_of_them_leave(jobs: Jobs) -> None:
    jobs.group("one", 1)
    first = jobs.hold(group="one")
    submitted = [first, *jobs.submit_many([CreateJob(f"exit {n % 2}", group="one") for n in range(20)])]
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(jobs.daemon)) for _ in range(64)]
        ids = [job.id for job in submitted]
        commands = (WaitJobs(jobs=ids), WaitJobs(group="one"), WaitJobs())
        sequences = [client.begin(commands[n % 3]) for n, client in enumerate(clients)]
        for client in clients[::4]:
            client.call(Ping())
            client.close()
        for client, sequence in list(zip(clients, sequences, strict=True))[1::4]:
            client.call(Ping())
            client.cancel(sequence)
        jobs.let_go(first)
        bad = {job.id for job in submitted[2::2]}
        for number, (client, sequence) in enumerate(zip(clients, sequences, strict=True)):
            if number % 4 in (2, 3):
                waited = decode_reply(JobsWaited, client.payload(sequence)).jobs
                assert {job.id for job in waited} == (set(ids) if number % 3 == 0 else bad)
    wait_until(lambda: jobs.get(submitted[-1]).completed_at, "the last one")


def test_wait_ends_as_soon_as_the_daemon_stops_and_can_be_repeated(own: Jobs) -> None:
    job = own.hold()
    own.running(job)
    sequence = own.begin(WaitJobs(jobs=[job.id]))
    own.client.call(Ping())
    assert own.daemon.stop() == 0
    error = own.client.error(sequence)
    assert (error.code, error.message) == ("unavailable", "the daemon is stopping")
    assert "did not finish in time" not in own.daemon.log()
    own.begin_anew()
    sequence = own.begin(WaitJobs(jobs=[job.id]))
    own.let_go(job, 5)
    assert reply(own, sequence).jobs[0].exit_code == 5
