"""Many claims at once, and people who edit what agents hold."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import pytest
from nexus_protocol import Command, NexusError, decode_reply
from nexus_protocol.context import HeldLease, encode_context
from support.agents import check_history
from support.daemon import DaemonProcess
from support.raw import RawClient, wait_until
from support.soak import SOAK
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.leases.commands import GetLease, ListLeases
from nexus.ledger.states import AgentType, LeaseState, TaskStatus
from nexus.ledger.tasks.commands import (
    AddTaskComment,
    AddTaskNote,
    ClaimTask,
    CompleteTask,
    CreateTask,
    CreateTaskGraph,
    GetTask,
    GraphTask,
    QueueTask,
    UpdateTask,
)
from nexus.ledger.tasks.records import ClaimedTask, Task
from nexus.projects.commands import CreateProject

CLIENTS = 64
ROUNDS = 8 if SOAK == 1 else 50 * SOAK
DRAINED = 150 if SOAK == 1 else 50 * SOAK
EDITS = 150 if SOAK == 1 else 100 * SOAK


@pytest.fixture(scope="module")
def world(shared: DaemonProcess) -> DaemonProcess:
    """A daemon with 64 agents."""
    with BlockingClient(shared.socket_path) as nexus:
        nexus.batch([CreateAgent(f"agent-{number}", AgentType.CODER) for number in range(CLIENTS)])
    return shared


@contextlib.contextmanager
def in_project(daemon: DaemonProcess, name: str) -> Iterator[BlockingClient]:
    """A client in a new project."""
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateProject(name, settings={"max_parallel_agents": 1000}))
    with BlockingClient(daemon.socket_path, project=name) as nexus:
        yield nexus


def held(claimed: ClaimedTask) -> HeldLease:
    return HeldLease(claimed.lease.id, claimed.lease.epoch)


class Many:
    """Connections that each send a request before any reply is read."""

    def __init__(self, daemon: DaemonProcess, project: str) -> None:
        self.project = project
        self.clients = [RawClient(daemon.socket_path) for _ in range(CLIENTS)]

    def close(self) -> None:
        """Close them."""
        for client in self.clients:
            client.close()

    def call(self, requests: Sequence[tuple[Command[Any], HeldLease | None] | None]) -> list[Any]:
        """For each client the reply to its request, or the error; None where it sends none."""
        sent = [
            None
            if request is None
            else client.begin(request[0], encode_context(project=self.project, lease=request[1]))
            for client, request in zip(self.clients, requests, strict=True)
        ]
        found: list[Any] = []
        for client, request, sequence in zip(self.clients, requests, sent, strict=True):
            if request is None or sequence is None:
                found.append(None)
                continue
            try:
                found.append(decode_reply(request[0].info.reply, client.payload(sequence)))
            except NexusError as error:
                found.append(error)
        return found


@pytest.mark.slow
@pytest.mark.soak
def test_one_of_64_clients_wins_and_the_others_are_told_who(world: DaemonProcess) -> None:
    with in_project(world, "race") as nexus, contextlib.closing(Many(world, "race")) as many:
        names = [f"agent-{number}" for number in range(CLIENTS)]
        for number in range(1, ROUNDS + 1):
            nexus.call(CreateTask("a"))
            random.Random(number).shuffle(names)
            outcomes = many.call([(ClaimTask(name, task=str(number)), None) for name in names])
            won = [(name, each) for name, each in zip(names, outcomes, strict=True) if isinstance(each, ClaimedTask)]
            ((winner, claimed),) = won
            lost = [each for each in outcomes if each is not claimed]
            told = {(each.type, each.details["agent"], each.details["holder"], each.details["epoch"]) for each in lost}
            assert told == {("task.claimed", winner, claimed.lease.holder, 1)}
            nexus.call(CompleteTask(str(number)), lease=held(claimed))


@pytest.mark.slow
@pytest.mark.soak
def test_64_agents_drain_a_project_and_get_each_task_once(world: DaemonProcess) -> None:
    chance = random.Random(1)
    with in_project(world, "drain") as nexus, contextlib.closing(Many(world, "drain")) as many:
        for first in range(1, DRAINED + 1, 1000):
            numbers = range(first, min(first + 1000, DRAINED + 1))
            nexus.call(
                CreateTaskGraph(
                    [
                        GraphTask(
                            ref=f"t{each}",
                            name=f"Task {each}",
                            priority=chance.randint(1, 9),
                            depends_on=[f"t{chance.randrange(first, each)}"] if each % 3 == 0 and each > first else [],
                        )
                        for each in numbers
                    ]
                )
            )
        done: list[int] = []
        while len(done) < DRAINED:
            claims = many.call([(ClaimTask(f"agent-{each}"), None) for each in range(CLIENTS)])
            refused = {each.type for each in claims if isinstance(each, NexusError)}
            assert refused <= {"task.none_ready"}
            got = [each if isinstance(each, ClaimedTask) else None for each in claims]
            assert any(got), "nothing is ready, and not all is done"
            ends = many.call([None if each is None else (CompleteTask(each.task.id), held(each)) for each in got])
            assert all(each is None or isinstance(each, Task) for each in ends), ends
            done += [each.task.number for each in got if each is not None]
        assert sorted(done) == list(range(1, DRAINED + 1))
    with look_at(world.database) as database:
        check_history(database, "drain")


def test_edits_by_hand_neither_take_nor_arm_a_lease_and_are_told(world: DaemonProcess) -> None:
    with in_project(world, "edits") as nexus:
        for name in "abc":
            nexus.call(CreateTask(name))
        claimed = nexus.call(ClaimTask("agent-0", task="1"))
        before = nexus.call(GetLease(claimed.lease.id))
        with nexus.stream(WatchEvents(kinds=["lease.*", "task.*"], follow=False)) as past:
            start = [event.seq for event in past][-1]
        edits: list[Command[Any]] = [
            UpdateTask("1", name="b", description="c", priority=1, tags=["x"], estimated_minutes=5),
            UpdateTask("1", add_depends_on=["2"], metadata={"a": 1}),
            AddTaskComment("1", "look here"),
            AddTaskNote("1", "seen"),
            UpdateTask("2", name="not held"),
            QueueTask("3"),
        ]
        for edit in edits:
            nexus.call(edit)
        after = nexus.call(GetLease(claimed.lease.id))
        assert msgspec.structs.replace(after, names=before.names) == before, "but for the name of its task"
        assert len(nexus.call(ListLeases(state=LeaseState.LIVE)).leases) == 1
        task = nexus.call(GetTask("1"))
        assert (task.status, task.assigned_agent) == (TaskStatus.IN_PROGRESS, claimed.lease.holder)
        with nexus.stream(WatchEvents(after=start, kinds=["lease.*", "task.*"], follow=False)) as told:
            kinds = [event.kind for event in told if event.subject_id in (task.id, claimed.lease.id) and event.kind]
        told_to_holder = [kind for kind in kinds if kind == "task.edited"]
        assert len(told_to_holder) == 4
        assert [kind for kind in kinds if kind != "task.edited"] == [
            *("task.updated", "task.updated", "task.commented", "task.noted")
        ]
        nexus.call(CompleteTask("1"), lease=held(claimed))
        done = nexus.call(GetTask("1"))
        assert (done.name, done.priority, done.tags, done.metadata) == ("b", 1, ["x"], {"a": 1})
        assert nexus.call(UpdateTask("1", name="again")).status is TaskStatus.COMPLETED
        assert nexus.call(ListLeases(state=LeaseState.LIVE)).leases == []


def test_edits_do_not_keep_the_lease_of_an_agent_that_is_gone(world: DaemonProcess) -> None:
    with in_project(world, "gone") as nexus:
        nexus.call(CreateTask("a"))
        claimed = nexus.call(ClaimTask("agent-1", ttl_ms=1000))

        def edited() -> bool:
            return nexus.call(UpdateTask("1", name="b")).status is TaskStatus.PENDING

        wait_until(edited, "the end of the lease")
        assert nexus.call(GetLease(claimed.lease.id)).state is LeaseState.EXPIRED
        assert nexus.call(GetTask("1")).assigned_agent is None


@pytest.mark.slow
@pytest.mark.soak
def test_edits_while_agents_work_are_kept_and_nothing_flips_back(world: DaemonProcess) -> None:
    chance = random.Random(2)
    with in_project(world, "both") as nexus, contextlib.closing(Many(world, "both")) as many:
        numbers = range(1, 41)
        nexus.call(CreateTaskGraph([GraphTask(ref=f"t{each}", name="as made") for each in numbers]))
        expected: dict[str, tuple[str, int]] = {}
        working: list[ClaimedTask | None] = [None] * CLIENTS
        idle = [None] * CLIENTS
        completed: set[str] = set()
        for edit in range(EDITS):
            requests: list[tuple[Command[Any], HeldLease | None] | None] = [*idle]
            for agent in chance.sample(range(CLIENTS - 1), 4):
                mine = working[agent]
                claim = ClaimTask(f"agent-{agent}")
                requests[agent] = (claim, None) if mine is None else (CompleteTask(mine.task.id), held(mine))
            number = str(chance.choice(numbers))
            expected[number] = (f"edit {edit}", chance.randint(1, 9))
            requests[-1] = (UpdateTask(number, name=expected[number][0], priority=expected[number][1]), None)
            for agent, outcome in enumerate(many.call(requests)):
                if isinstance(outcome, NexusError):
                    assert outcome.type == "task.none_ready", outcome
                elif agent < CLIENTS - 1 and outcome is not None:
                    ended = working[agent]
                    working[agent] = outcome if ended is None else None
                    if ended is not None:
                        completed.add(ended.task.id)
        for number in map(str, numbers):
            task = nexus.call(GetTask(number))
            if number in expected:
                assert (task.name, task.priority) == expected[number]
            holder = next((each for each in working if each is not None and each.task.id == task.id), None)
            assert (task.lease is None) == (holder is None)
            assert (task.status is TaskStatus.COMPLETED) == (task.id in completed)
        for claimed in filter(None, working):
            nexus.call(CompleteTask(claimed.task.id), lease=held(claimed))
