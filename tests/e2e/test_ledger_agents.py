"""Agents that die, and agents that sleep past their leases: each task is done once, in order, by who holds it."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support.agents import AgentProcess, check_history, problems, times_tried
from support.daemon import DaemonProcess
from support.leases import changing_requests
from support.raw import wait_until
from support.soak import SOAK
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.agents.records import Agent
from nexus.ledger.leases.commands import GetLease, ListLeases
from nexus.ledger.leases.records import Lease
from nexus.ledger.states import AgentType, LeaseState
from nexus.ledger.tasks.commands import CountTasks, CreateTaskGraph, GraphTask
from nexus.projects.commands import CreateProject

AGENTS, TASKS, WAVES = (8, 80, 1) if SOAK == 1 else (40, 100 * SOAK, max(1, SOAK // 5))
WAVE = AGENTS // 4
"""How many agents are killed, and how many sleep, in one wave."""
TTL_MS = 1000
WORK_S = 0.2


class World:
    """The daemon, its agents, and a client that looks at what they hold."""

    def __init__(self, daemon: DaemonProcess, folder: Path, client: BlockingClient) -> None:
        self.daemon, self.folder, self.client = daemon, folder, client
        self.changing = changing_requests(client)
        self.tasks = 0
        self.names: dict[str, str] = {}
        self.running: dict[str, AgentProcess] = {}

    def make(self, count: int, tasks: int) -> None:
        """Create agents, and tasks that depend on some of the few before each."""
        self.tasks = tasks
        chance = random.Random(tasks)
        self.client.call(CreateProject("shop", settings={"max_parallel_agents": 1000}), project="default")
        for first in range(1, tasks + 1, 1000):
            numbers = range(first, min(first + 1000, tasks + 1))
            graph = []
            for number in numbers:
                near = range(max(1, number - 3 * count), max(1, number - count // 2))
                depends = chance.sample(near, min(len(near), chance.randrange(3)))
                refs = [f"t{on}" if on >= first else str(on) for on in depends]
                graph.append(GraphTask(ref=f"t{number}", name=f"Task {number}", depends_on=refs))
            self.client.call(CreateTaskGraph(graph))
        for number in range(count):
            agent: Agent = self.client.call(CreateAgent(f"agent-{number}", AgentType.CODER))
            self.names[agent.id] = agent.name

    def start(self, name: str) -> None:
        """Start the process of an agent."""
        self.running[name] = AgentProcess(
            self.daemon.socket_path, "shop", name, tasks=self.tasks, ttl_ms=TTL_MS, work_s=WORK_S,
            changing=self.changing, folder=self.folder,
        )  # fmt: skip

    def strike(self, chance: random.Random, number: signal.Signals, spared: set[str]) -> list[tuple[str, Lease]]:
        """Send a signal to agents, none of ``spared``, until ``WAVE`` of those hold a lease; returns these."""
        struck: list[tuple[str, Lease]] = []
        while len(struck) < WAVE:
            leases = self.client.call(ListLeases(state=LeaseState.LIVE, limit=100)).leases
            holders = sorted({each.holder for each in leases} - spared)
            if not holders:
                assert self.client.call(CountTasks()).by_status.get("completed") != self.tasks
                time.sleep(0.01)
                continue
            holder = chance.choice(holders)
            os.kill(self.running[self.names[holder]].pid, number)
            held = self.client.call(ListLeases(state=LeaseState.LIVE, holder=holder)).leases
            if held:
                spared.add(holder)
                struck.append((self.names[holder], held[0]))
            else:  # it had just completed its task
                self.wake(self.names[holder], number)
        return struck

    def wake(self, name: str, number: signal.Signals) -> None:
        """Have an agent go on that got a signal; one that was killed begins anew."""
        if number == signal.SIGKILL:
            self.running[name].wait()
            self.start(name)
        else:
            os.kill(self.running[name].pid, signal.SIGCONT)

    def ended(self, lease: Lease) -> LeaseState:
        """How a lease ended, once it has."""
        return wait_until(
            lambda: found.state if (found := self.client.call(GetLease(lease.id))).state != "live" else None,
            "the end of a lease",
        )


@pytest.mark.slow
@pytest.mark.soak
def test_agents_that_die_and_agents_that_sleep_do_each_task_once(
    make_daemon: Callable[..., DaemonProcess], tmp_path: Path
) -> None:
    daemon = make_daemon().start()
    chance = random.Random(SOAK)
    died = slept = 0
    with BlockingClient(daemon.socket_path, project="shop") as client:
        world = World(daemon, tmp_path, client)
        world.make(AGENTS, TASKS)
        try:
            for name in world.names.values():
                world.start(name)
            for _ in range(WAVES):
                spared: set[str] = set()
                killed = world.strike(chance, signal.SIGKILL, spared)
                sleeping = world.strike(chance, signal.SIGSTOP, spared)
                # A request that had been sent was carried out: then the lease was released instead.
                died += sum(world.ended(lease) is LeaseState.EXPIRED for _name, lease in killed)
                slept += sum(world.ended(lease) is LeaseState.EXPIRED for _name, lease in sleeping)
                for name, _lease in killed:
                    world.wake(name, signal.SIGKILL)
                for name, _lease in sleeping:
                    world.wake(name, signal.SIGSTOP)
            codes = {name: agent.wait() for name, agent in world.running.items()}
            world.running.clear()
        finally:
            for agent in world.running.values():
                agent.kill()
        assert problems(tmp_path) == []
        assert set(codes.values()) == {0}
        assert min(died, slept) >= WAVES * WAVE // 2
        assert times_tried(tmp_path) >= slept
        assert client.call(ListLeases(state=LeaseState.LIVE)).leases == []
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()
    with look_at(daemon.database) as database:
        check_history(database, "shop")
