"""The ledger with 10,000 tasks and 20,000 dependencies: what is ready, claims, counts, the board, ends and circles.

beads, a tracker for agents, publishes for 10,000 issues on an M2 Pro, within its process: 30 ms for what is ready,
1.9 s for a hundred that are closed one after another, and 70 ms for a circle in a chain of 5,000.
"""

from __future__ import annotations

import contextlib
import functools
import random
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.measures import Measure, Sample, compare_durations, duration
from bench.world import World
from nexus_protocol import Command
from nexus_protocol.errors import NexusError
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.leases.commands import ReleaseLease
from nexus.ledger.pages.commands import GetBoard
from nexus.ledger.states import AgentType
from nexus.ledger.tasks.commands import (
    BlockTask,
    ClaimTask,
    CompleteTask,
    CountTasks,
    CreateTaskGraph,
    GraphFeature,
    GraphTask,
    ListReadyTasks,
    UpdateTask,
)
from nexus.projects.commands import CreateProject
from nexus.system.commands import Ping

__all__ = ["LEDGER_MEASURES"]

TASKS = 10_000
READY = 100
_FEATURES = 20
_CLOSED = 100
_GRAPH, _WAITING, _CHAIN, _LOOSE = "graph", "waiting", "chain", "loose"


def _fill(client: BlockingClient, project: str, depends: Callable[[int], list[int]], tasks: int = TASKS) -> None:
    """Create a project with tasks; ``depends`` gives the numbers of those before it that a task depends on."""
    client.call(CreateProject(project, settings={"max_parallel_agents": 1000}))
    features = [GraphFeature(f"f{each}", f"Feature {each}") for each in range(_FEATURES)]
    for first in range(1, tasks + 1, 1000):
        made = [
            GraphTask(
                ref=f"t{number}",
                name=f"Task {number}",
                feature=f"f{number % _FEATURES}" if first == 1 else str(1 + number % _FEATURES),
                priority=1 + number % 9,
                depends_on=[f"t{on}" if on >= first else str(on) for on in depends(number)],
            )
            for number in range(first, first + 1000)
        ]
        client.call(CreateTaskGraph(made, features if first == 1 else []), project=project)


def _filled(daemon: DaemonProcess) -> DaemonProcess:
    chance = random.Random(4)

    def graph(number: int) -> list[int]:
        if number <= READY:
            return []
        first = max(1, number - 500)
        return chance.sample(range(first, number), 4 if number > TASKS - READY else 2)

    with BlockingClient(daemon.start().socket_path) as client:
        client.call(CreateAgent("ada", AgentType.CODER))
        _fill(client, _GRAPH, graph)
        _fill(client, _WAITING, lambda number: [] if number == 1 else [1])
        client.call(BlockTask("1", reason="the bench"), project=_WAITING)
        _fill(client, _CHAIN, lambda number: [] if number == 1 else [number - 1])
        _fill(client, _LOOSE, lambda number: [number - 1] if number % 2 == 0 else [])
    daemon.stop()
    return daemon.start()


@functools.cache
def _daemon(world: World) -> DaemonProcess:
    return _filled(world.new_daemon())


@functools.cache
def _in_memory(world: World) -> DaemonProcess:
    """A daemon whose files are in memory, where a flush costs nothing."""
    root = Path(tempfile.mkdtemp(prefix="nexus-bench-", dir="/dev/shm"))
    world.callback(functools.partial(shutil.rmtree, root))
    daemon = DaemonProcess(root, environment={"PYTHONDONTWRITEBYTECODE": "", "PYTHONWARNINGS": ""})
    world.callback(daemon.stop)
    return _filled(daemon)


@functools.cache
def _client(world: World, *, in_memory: bool = False) -> BlockingClient:
    return world.client(_in_memory(world) if in_memory else _daemon(world))


@functools.cache
def _table(world: World) -> sqlite3.Connection:
    uri = f"{_daemon(world).database.as_uri()}?mode=ro"
    return world.enter(contextlib.closing(sqlite3.connect(uri, uri=True)))


def _p50(world: World, call: Callable[[], Any], rounds: int = 100) -> float:
    return statistics.median(duration(call) for _ in range(rounds // 10 if world.quick else rounds)) * 1000


def _refused(client: BlockingClient, command: Command[Any], project: str, type_: str) -> NexusError:
    """The error of a request that is refused as this type."""
    try:
        client.call_raw(command, project=project)
    except NexusError as error:
        if error.type == type_:
            return error
        raise
    raise AssertionError(f"{command} was carried out")


def _read(world: World, command: Command[Any], project: str, sql: str, refusal: str | None = None) -> Sample:
    """The median of a command, and that of SQLite alone in this process with rows as dicts."""
    client, table = _client(world), _table(world)
    (project_id,) = table.execute("SELECT id FROM projects WHERE name = ?", (project,)).fetchone()

    def select() -> list[dict[str, Any]]:
        cursor = table.execute(sql, {"project": project_id})
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def call() -> None:
        if refusal is None:
            client.call_raw(command, project=project)
        else:
            _refused(client, command, project, refusal)

    return Sample(_p50(world, call), _p50(world, select))


def _idle_claim(world: World) -> Sample:
    """The median of a claim of the best ready task, without a flush; each is released. The baseline is a Ping."""
    client = _client(world, in_memory=True)
    found = []
    for _ in range(20 if world.quick else 200):
        start = time.perf_counter()
        lease = client.call(ClaimTask("ada"), project=_GRAPH).lease
        found.append(time.perf_counter() - start)
        client.call(ReleaseLease(lease.id))
    return Sample(statistics.median(found) * 1000, _p50(world, lambda: client.call(Ping()), 200))


def _close(world: World) -> Sample:
    """The duration of closing a hundred tasks in one Batch, each of which makes another ready, and one by one."""
    client = _client(world)

    def ready() -> list[str]:
        page = client.call_raw(ListReadyTasks(limit=_CLOSED), project=_LOOSE)
        assert len(page["tasks"]) == _CLOSED
        return [str(task["number"]) for task in page["tasks"]]

    def batch() -> float:
        commands = [CompleteTask(number) for number in ready()]
        return duration(lambda: client.batch(commands, project=_LOOSE))

    def one_by_one() -> float:
        numbers = ready()
        return duration(lambda: [client.call_raw(CompleteTask(number), project=_LOOSE) for number in numbers])

    return compare_durations(world, batch, one_by_one)


def _circle(world: World, project: str) -> Sample:
    """The median of a refusal of a circle; the baseline is SQLite's own walk from the last task to the first."""
    client, table = _client(world), _table(world)
    (last,) = table.execute(
        "SELECT tasks.id FROM tasks JOIN projects ON projects.id = tasks.project_id "
        "WHERE projects.name = ? AND tasks.number = ?",
        (project, TASKS),
    ).fetchone()
    walk = (
        "WITH RECURSIVE reached (id) AS (SELECT ? UNION SELECT depends_on_id FROM reached "
        "JOIN task_dependency ON task_id = reached.id) SELECT id FROM reached"
    )
    (first,) = table.execute(f"SELECT min(number) FROM tasks WHERE id IN ({walk})", (last,)).fetchone()
    command = UpdateTask(str(first), add_depends_on=[str(TASKS)])
    details = _refused(client, command, project, "task.cycle").details
    assert details["cycle"][0] == details["cycle"][-1] == str(first)
    assert project != _CHAIN or details["length"] == TASKS
    return Sample(
        _p50(world, lambda: _refused(client, command, project, "task.cycle"), 10),
        _p50(world, lambda: table.execute(walk, (last,)).fetchall(), 10),
    )


_SELECT_READY = (
    "SELECT tasks.* FROM ready_tasks AS tasks WHERE project_id = :project ORDER BY priority, number LIMIT 1000"
)
_SELECT_COUNT = "SELECT status, count(*) FROM tasks WHERE project_id = :project GROUP BY status"
_SELECT_BOARD = (
    "SELECT * FROM (SELECT id, number, name, status, type, priority, open_dependencies, "
    "row_number() OVER (PARTITION BY status ORDER BY number) AS place FROM tasks WHERE project_id = :project) "
    "WHERE place <= 10"
)
_ALONE = "SQLite alone"
_OF = f"{TASKS:,} tasks with 20,000 dependencies"


def _measure(
    name: str, title: str, target: float, sample: Callable[[World], Sample], baseline: str = _ALONE
) -> Measure:
    return Measure(f"ledger-{name}", title, "ms", target, False, sample, baseline, absolute=True)


LEDGER_MEASURES = (
    _measure(
        "ready",
        f"ListReadyTasks, {READY} of {_OF}, p50 (beads: 30 ms)",
        5,
        functools.partial(_read, command=ListReadyTasks(), project=_GRAPH, sql=_SELECT_READY),
    ),
    _measure(
        "none-ready",
        f"ListReadyTasks, none of {TASKS:,} that wait, p50",
        1,
        functools.partial(_read, command=ListReadyTasks(), project=_WAITING, sql=_SELECT_READY),
    ),
    _measure(
        "no-claim",
        f"ClaimTask, none of {TASKS:,} that wait, p50",
        1,
        functools.partial(
            _read, command=ClaimTask("ada"), project=_WAITING, sql=_SELECT_READY, refusal="task.none_ready"
        ),
    ),
    _measure("claim", f"ClaimTask of {_OF}, without a flush, p50", 1, _idle_claim, "Ping"),
    _measure(
        "count",
        f"CountTasks of {_OF}, p50",
        2,
        functools.partial(_read, command=CountTasks(), project=_GRAPH, sql=_SELECT_COUNT),
    ),
    _measure(
        "board",
        f"GetBoard of {_OF}, p50",
        20,
        functools.partial(_read, command=GetBoard(), project=_GRAPH, sql=_SELECT_BOARD),
    ),
    _measure(
        "close", f"a Batch of {_CLOSED} CompleteTask (beads: 1.9 s, one after another)", 50, _close, "one after another"
    ),
    _measure(
        "chain",
        f"UpdateTask, refused for a circle of {TASKS:,} tasks, p50 (beads: 70 ms for 5,000)",
        50,
        functools.partial(_circle, project=_CHAIN),
        "SQLite's walk alone",
    ),
    _measure(
        "circle",
        f"UpdateTask, refused for a circle among {_OF}, p50",
        50,
        functools.partial(_circle, project=_GRAPH),
        "SQLite's walk alone",
    ),
)
"""In the order of the table."""
