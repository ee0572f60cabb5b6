"""The transitions of a service's states, in the table and in the documentation."""

from __future__ import annotations

import re
from pathlib import Path

from nexus.services.states import TRANSITIONS, ServiceState

PAGE = (Path(__file__).parents[2] / "docs" / "architecture.md").read_text(encoding="utf-8")
STATES = "|".join(state.value for state in ServiceState)


def transitions() -> list[tuple[str, str]]:
    return [(before.value, after.value) for before, following in TRANSITIONS.items() for after in following]


def test_diagram_shows_every_transition_once() -> None:
    drawn = re.findall(rf"^ +({STATES}) --> ({STATES})$", PAGE, re.MULTILINE)
    assert sorted(drawn) == sorted(transitions())


def test_table_has_cause_and_writes_of_every_transition_once() -> None:
    rows = re.findall(rf"^\| ({STATES}) \| ({STATES}) \| (.+) \| (.+) \|$", PAGE, re.MULTILINE)
    assert sorted((before, after) for before, after, _, _ in rows) == sorted(transitions())
    assert all(cause.strip() and written.strip() for _, _, cause, written in rows)


def test_every_state_can_be_left_and_reached() -> None:
    assert all(TRANSITIONS[state] for state in ServiceState)
    reached = {after for following in TRANSITIONS.values() for after in following}
    assert reached == set(ServiceState)
