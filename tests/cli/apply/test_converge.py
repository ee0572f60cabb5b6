"""How steps are carried out: in few transactions, and with the outcomes of one after the other."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from nexus_protocol.codec import encode_command
from nexus_protocol.errors import Conflict, NexusError, ResourceExhausted

from nexus.cli.apply.converge import converge
from nexus.cli.apply.steps import Outcome, Phase, Step
from nexus.cli.result import Result, received
from nexus.services.commands import AddDependency, AddService, RemoveService

ROOM = 16 * 1024 * 1024


class FakeApp:
    """Stands for a daemon that refuses some commands: of what a real one refuses, none fails at random."""

    timeout_s = None

    def __init__(self, refused: set[int], replies_at_once: int = 1000) -> None:
        self.refused = refused
        self.replies_at_once = replies_at_once
        self.sent: list[int] = []
        """How many commands each request had."""
        self.done: list[Any] = []
        self.steps: dict[int, int] = {}

    def frame_bytes(self) -> int:
        return ROOM

    def fetch(self, command: Any) -> Result[Any]:
        self.sent.append(1)
        if self.steps[id(command)] in self.refused:
            raise Conflict(f"cannot: {self.steps[id(command)]}")
        self.done.append(self.steps[id(command)])
        return received(command, {})

    def fetch_batch(self, commands: list[Any]) -> list[Result[Any]]:
        assert 1 < len(commands) <= 1000
        assert sum(16 + len(encode_command(command)) for command in commands) <= ROOM
        self.sent.append(len(commands))
        places = [self.steps[id(command)] for command in commands]
        for index, place in enumerate(places):
            if place in self.refused:
                raise Conflict(f"cannot: {place} (command {index + 1} of …)", details={"index": index})
        if len(commands) > self.replies_at_once:
            raise ResourceExhausted("cannot: its replies are too large", details={"limit": 1})
        self.done += places
        return [received(command, {}) for command in commands]


def run(app: FakeApp, steps: list[Step]) -> list[Outcome]:
    app.steps = {id(step.command): place for place, step in enumerate(steps)}
    reported: list[Outcome] = []
    outcomes = converge(app, steps, {}, reported.append)  # type: ignore[arg-type]
    assert outcomes == reported
    return outcomes


def one_by_one(steps: list[Step], refused: set[int]) -> list[tuple[int, str]]:
    """The outcomes if each step were sent by itself."""
    failed: set[tuple[str, str]] = set()
    found = []
    for place, step in enumerate(steps):
        blocked = any(record in failed for record in step.records)
        result = "skipped" if blocked else "failed" if place in refused else "done"
        if result != "done":
            failed.add(step.record)
        found.append((place, result))
    return found


NAMES = st.sampled_from("abcdefgh")


@st.composite
def plans(draw: st.DrawFn) -> list[Step]:
    made: list[Step] = []
    for _ in range(draw(st.integers(0, 30))):
        name, kind = draw(NAMES), draw(st.sampled_from(["create", "connect", "remove"]))
        if kind == "create":
            made.append(Step("create", "service", name, command=AddService(name)))
        elif kind == "connect":
            other = draw(NAMES)
            step = Step(
                "connect", "service", name, other=other, phase=Phase.CONNECT, command=AddDependency(name, other)
            )
            made.append(step)
        else:
            made.append(Step("remove", "service", name, phase=Phase.REMOVE, command=RemoveService(name)))
    return made


@given(plans(), st.sets(st.integers(0, 29)), st.sampled_from([1, 2, 3, 1000]))
def test_outcomes_are_those_of_one_step_after_the_other(steps: list[Step], refused: set[int], at_once: int) -> None:
    app = FakeApp(refused, at_once)
    outcomes = run(app, steps)
    by_id = {id(step): place for place, step in enumerate(steps)}
    found = sorted((by_id[id(one.step)], one.result) for one in outcomes)
    assert found == one_by_one(steps, refused)
    assert app.done == [place for place, result in found if result == "done"]
    broken = {one.step.name for one in outcomes if one.result == "failed"}
    assert all(one.because in broken for one in outcomes if one.result == "skipped")
    assert all("command" not in one.error.message for one in outcomes if one.error is not None)


def creates(count: int, size: int = 0) -> list[Step]:
    return [
        Step("create", "service", f"s{n}", command=AddService(f"s{n}", environment={"A": "x" * size}))
        for n in range(count)
    ]


def test_changes_are_sent_in_few_transactions_however_many_fail() -> None:
    assert _sent(2500, set()) == [1000, 1000, 500]
    assert _sent(1000, {700})[:3] == [1000, 700, 1]
    for refused in (set(range(1000)), set(range(0, 1000, 2)), set(range(999, 0, -7))):
        sent = _sent(1000, refused)
        assert sum(sent) <= 4 * 1000 + 20
    assert sum(_sent(1000, set(), at_once=10)) < 5000


def _sent(count: int, refused: set[int], at_once: int = 1000) -> list[int]:
    app = FakeApp(refused, at_once)
    outcomes = run(app, creates(count))
    assert [one.result for one in outcomes].count("failed") == len(refused)
    return app.sent


def test_transaction_is_not_larger_than_a_frame() -> None:
    app = FakeApp(set())
    run(app, creates(1100, size=30_000))
    assert len(app.sent) == 2
    small = FakeApp(set())
    small.frame_bytes = lambda: 100_000  # type: ignore[method-assign]
    run(small, creates(10, size=30_000))
    assert small.sent == [3, 3, 3, 1]
    assert sum(app.sent) == 1100


def test_error_without_a_place_is_that_of_all_steps_in_the_transaction() -> None:
    class Stopping(FakeApp):
        def fetch_batch(self, commands: list[Any]) -> list[Result[Any]]:
            raise NexusError("cannot: the disk is full")

    outcomes = run(Stopping(set()), creates(3))
    assert [one.result for one in outcomes] == ["failed"] * 3
    assert len({id(one.error) for one in outcomes}) == 1
