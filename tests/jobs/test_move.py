"""The order of what waits, against a list: whatever is moved, the queue begins the rest in the same order."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st
from support.daemon import DaemonProcess
from support.jobs import Jobs

from nexus.jobs.commands import MoveJob
from nexus.jobs.errors import JobInvalid, JobStatusWrong
from nexus.jobs.records import Job

COUNT = 5
MOVES = st.lists(
    st.tuples(st.integers(0, COUNT - 1), st.one_of(st.sampled_from(["first", "last"]), st.integers(0, COUNT - 1))),
    max_size=60,
)


def order(jobs: Jobs) -> list[str]:
    rows = jobs.rows("SELECT id FROM jobs WHERE group_name = 'moved' ORDER BY priority DESC, place")
    return [row[0] for row in rows]


def model(ids: list[str], moved: str, where: str | int, target: str) -> None:
    if where not in ("first", "last") and target == moved:
        return
    ids.remove(moved)
    ids.insert(0 if where == "first" else len(ids) if where == "last" else ids.index(target), moved)


@settings(max_examples=25)
@given(MOVES)
def check_moves(jobs: Jobs, submitted: list[Job], moves: list[tuple[int, str | int]]) -> None:
    expected = order(jobs)
    for index, where in moves:
        moved = submitted[index]
        target = submitted[where].id if isinstance(where, int) else None
        jobs.move(moved, before=target, last=where == "last")
        model(expected, moved.id, where, target or "")
    assert order(jobs) == expected
    assert [job.id for job in sorted(jobs.all(group="moved"), key=lambda job: job.place)] == expected


def test_any_moves_give_the_order_of_a_list(shared: DaemonProcess) -> None:
    jobs = Jobs(shared)
    jobs.group("moved", 1)
    jobs.pause("moved")
    try:
        submitted = [jobs.submit(group="moved", stashed=number % 2 == 0) for number in range(COUNT)]
        check_moves(jobs, submitted)
    finally:
        jobs.clear()
        jobs.close()


def test_same_place_is_taken_a_hundred_times(jobs: Jobs) -> None:
    """The room between two places is halved each time, and made again once it is used up."""
    jobs.group("moved", 1)
    jobs.pause("moved")
    submitted = [jobs.submit(group="moved") for _ in range(6)]
    expected = [job.id for job in submitted]
    for moved in itertools.islice(itertools.cycle(submitted[:5]), 100):
        jobs.move(moved, before=submitted[5].id)
        model(expected, moved.id, 0, submitted[5].id)
        assert order(jobs) == expected
    jobs.resume("moved")
    jobs.wait_all(*submitted)
    started = [event["subject_id"] for event in jobs.events() if event["kind"] == "job.started"]
    assert started[-6:] == expected


def test_what_moves_nothing_is_refused(jobs: Jobs) -> None:
    jobs.group("moved", 1)
    job, other = jobs.submit(stashed=True), jobs.submit(stashed=True)
    urgent, elsewhere = jobs.submit(stashed=True, priority=1), jobs.submit(stashed=True, group="moved")
    ended = jobs.ended(jobs.submit())
    for before in (urgent, elsewhere):
        assert isinstance(jobs.call_error(MoveJob(job.id, before=before.id)), JobInvalid)
    assert isinstance(jobs.call_error(MoveJob(job.id, before=other.id, last=True)), JobInvalid)
    assert isinstance(jobs.call_error(MoveJob(job.id, before=ended.id)), JobStatusWrong)
    assert isinstance(jobs.call_error(MoveJob(ended.id)), JobStatusWrong)
    assert jobs.move(job, before=job.id).place == job.place
