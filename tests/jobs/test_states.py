"""The transitions of a job's statuses, in the table and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from nexus.jobs.states import ENDED, TRANSITIONS, JobStatus

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
STATUSES = "|".join(status.value for status in JobStatus)


def test_diagram_shows_every_transition_once() -> None:
    drawn = re.findall(rf"^ +({STATUSES}) --> ({STATUSES})$", PAGE, re.MULTILINE)
    assert sorted(drawn) == sorted(
        (before.value, after.value) for before, following in TRANSITIONS.items() for after in following
    )


def test_what_has_ended_is_left_by_a_retry_alone() -> None:
    assert set(TRANSITIONS) == set(JobStatus)
    assert {after for status in ENDED for after in TRANSITIONS[status]} == {JobStatus.QUEUED}


def test_every_status_can_be_reached() -> None:
    reached = {after for following in TRANSITIONS.values() for after in following}
    assert reached == set(JobStatus)
