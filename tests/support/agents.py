"""Agents as processes of their own that drain a project, and what the history must say after any number of them."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

from nexus_protocol import NexusError
from nexus_protocol.context import HeldLease

from nexus.client import BlockingClient
from nexus.ledger.tasks.commands import AddTaskNote, ClaimTask, CompleteTask, CountTasks

__all__ = ["AgentProcess", "check_history", "problems", "times_tried"]

_PROBLEM, _TRIED = "problem", "tried"


class AgentProcess:
    """An agent that claims and completes tasks until all are completed.

    Told that its lease is stale, it tries every request of ``changing`` with that lease, each of which must be refused.
    """

    def __init__(
        self,
        socket_path: Path,
        project: str,
        name: str,
        *,
        tasks: int,
        ttl_ms: int,
        work_s: float,
        changing: Sequence[tuple[str, int, bytes]],
        folder: Path,
    ) -> None:
        self.name = name
        self.socket_path, self.project, self.tasks, self.ttl_ms, self.work_s = (
            socket_path,
            project,
            tasks,
            ttl_ms,
            work_s,
        )
        self.changing = changing
        self.folder = folder
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self._run()
                code = 0
            except BaseException:
                (folder / f"{name}.{_PROBLEM}.{os.getpid()}").write_text(traceback.format_exc())
            finally:
                os._exit(code)

    # In the process of the agent

    def _run(self) -> None:
        chance = random.Random(self.name)
        with BlockingClient(self.socket_path, project=self.project, actor=self.name) as client:
            while True:
                try:
                    claimed = client.call(ClaimTask(self.name, ttl_ms=self.ttl_ms))
                except NexusError as error:
                    if error.type != "task.none_ready":
                        raise
                    if client.call(CountTasks()).by_status.get("completed", 0) == self.tasks:
                        return
                    time.sleep(0.05)
                    continue
                lease = HeldLease(claimed.lease.id, claimed.lease.epoch)
                try:
                    time.sleep(chance.random() * self.work_s)
                    client.call(AddTaskNote(claimed.task.id, "done", agent=self.name), lease=lease)
                    client.call(CompleteTask(claimed.task.id), lease=lease)
                except NexusError as error:
                    if error.type != "lease.stale":
                        raise
                    self._try_all(client, lease)

    def _try_all(self, client: BlockingClient, lease: HeldLease) -> None:
        outcomes = {name: _outcome(client, code, payload, lease) for name, code, payload in self.changing}
        assert set(outcomes.values()) == {"lease.stale"}, outcomes
        (self.folder / f"{self.name}.{_TRIED}.{time.monotonic_ns()}").touch()

    # In that of the test

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        os.kill(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> int:
        """Wait for its end; returns the code, or the signal as a negative number."""
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _outcome(client: BlockingClient, code: int, payload: bytes, lease: HeldLease) -> str:
    try:
        client.request(code, payload, lease=lease)
    except NexusError as error:
        return error.type
    return "carried out"


def problems(folder: Path) -> list[str]:
    """What went wrong in agents."""
    return [path.read_text() for path in folder.glob(f"*.{_PROBLEM}.*")]


def times_tried(folder: Path) -> int:
    """How often an agent tried everything with a stale lease."""
    return len(list(folder.glob(f"*.{_TRIED}.*")))


def check_history(database: sqlite3.Connection, project: str) -> None:
    """Each task of a project was completed once, under a lease that was live, after all that it depends on.

    No operation that names a lease wrote anything before it was granted or after it had ended.
    """
    depends_on = {
        id_: set(json.loads(on))
        for id_, on in database.execute(
            "SELECT tasks.id, depends_on FROM tasks JOIN projects ON projects.id = project_id WHERE projects.name = ?",
            (project,),
        )
    }
    live: dict[str, tuple[str, int]] = {}
    ended_in: dict[str, int] = {}
    epochs: dict[str, int] = {}
    completed: set[str] = set()
    lease_of: dict[str, tuple[str, int]] = {}
    for seq, kind, subject, detail, operation, lease_id, epoch in database.execute(
        "SELECT seq, kind, subject_id, detail, operation_id, lease_id, epoch FROM journal "
        "JOIN operation ON operation.id = operation_id ORDER BY seq"
    ):
        told = json.loads(detail)
        if kind == "lease.granted":
            resource = told["resource_id"]
            assert resource not in live, f"two leases on one task at {seq}"
            assert told["epoch"] > epochs.get(resource, 0), f"an epoch for a second time at {seq}"
            epochs[resource] = told["epoch"]
            live[resource] = lease_of[subject] = (subject, told["epoch"])
        elif kind in ("lease.released", "lease.expired", "lease.revoked"):
            assert live.pop(told["resource_id"]) == (subject, told["epoch"])
            ended_in[subject] = operation
        if lease_id is not None:
            assert lease_of[lease_id] == (lease_id, epoch), f"a write of another epoch at {seq}"
            assert ended_in.get(lease_id, operation) == operation, f"a write under a lease that had ended at {seq}"
        if kind != "task.moved" or subject not in depends_on:
            continue
        if told["to"] == "in_progress":
            assert depends_on[subject] <= completed, f"begun before what it depends on at {seq}"
        if told["to"] == "completed":
            assert subject not in completed, f"completed twice at {seq}"
            assert live[subject] == (lease_id, epoch), f"completed without its lease at {seq}"
            completed.add(subject)
    assert completed == depends_on.keys()
    unheld = database.execute(
        "SELECT count(*) FROM tasks WHERE status = 'in_progress' AND NOT EXISTS "
        "(SELECT 1 FROM lease WHERE resource_id = tasks.id AND state = 'live')"
    )
    assert unheld.fetchone() == (0,)
