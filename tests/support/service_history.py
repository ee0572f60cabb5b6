"""The history of services from two sources that bypass the daemon: programs' notes, and a trigger in its database.

This module has the program that notes its runs, and the checks that the notes, the rows and the journal agree.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nexus.services.commands import AddService
from nexus.services.states import TRANSITIONS, RestartPolicy, ServiceState
from nexus.store.connection import connect
from nexus.store.migrate import migrate, target_version
from support.stores import look_at

__all__ = ["Note", "check_history", "create_audited_database", "notes_of", "scripted"]

PROGRAM = r"""
import fcntl, os, resource, signal, struct, sys, time

base, default_order = sys.argv[1:]
run, pid = os.environ["NEXUS_RUN_ID"], os.getpid()
notes = os.open(base + ".notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def note(word, value=0):
    os.write(notes, f"{word} {run} {pid} {time.monotonic_ns()} {value}\n".encode())


def obey(line):
    verb, _, number = line.partition(" ")
    number = int(number or 0)
    if verb in ("fork", "leave"):
        child = os.fork()
        if child == 0:
            os.setsid()
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if os.fork() == 0:
                os.execve("/bin/sleep", ["sleep", "600"], {})
            os._exit(0)
        os.waitpid(child, 0)
    if verb in ("exit", "leave", "kill"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        if verb == "kill":
            note("kill", number)
            os.kill(pid, number)
        note("exit", number)
        os._exit(number)


resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
# Processes that it leaves behind inherit this lock.
lock = os.open(base + ".lock", os.O_RDWR)
os.set_inheritable(lock, True)
try:
    fcntl.fcntl(lock, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 0, 0, 0))
except OSError:
    note("twice")
fifo = open(os.open(base + ".fifo", os.O_RDWR))
note("start")
print("ready", flush=True)
plan = open(base + ".plan").read().splitlines()
if plan:
    with open(base + ".plan", "w") as file:
        file.writelines(line + "\n" for line in plan[1:])
obey(plan[0] if plan else default_order)
for line in fifo:
    obey(line.strip())
"""
"""Obeys the first line of its plan, or the default order if the plan is empty; then the lines of its FIFO."""

AUDIT = """
CREATE TABLE audit (
    service TEXT, name TEXT, seq INTEGER, before TEXT, after TEXT, run_before TEXT, run_after TEXT,
    exit_code INTEGER, exit_signal INTEGER, wanted INTEGER
);
CREATE TRIGGER audit_service AFTER UPDATE ON service
WHEN old.status IS NOT new.status OR old.run_id IS NOT new.run_id
BEGIN
    INSERT INTO audit VALUES (
        new.id, new.name, (SELECT coalesce(max(seq), 0) FROM journal), old.status, new.status, old.run_id, new.run_id,
        new.exit_code, new.exit_signal, new.wanted
    );
END;
"""
"""Records every change of a service's row, with the number of the last event before it."""

STATE_OF_EVENT = {
    "service.starting": "starting",
    "service.restarting": "starting",
    "service.started": "running",
    "service.stopping": "stopping",
    "service.stopped": "stopped",
    "service.failed": "failed",
}


class Note(NamedTuple):
    """A line that a program noted."""

    word: str
    run: str
    pid: int
    at_ns: int
    value: int


class RowChange(NamedTuple):
    """A change of a service's row; ``seq`` is the last event before it."""

    seq: int
    before: str
    after: str
    run_before: str | None
    run_after: str | None
    exit_code: int | None
    exit_signal: int | None
    wanted: int


class Event(NamedTuple):
    """An event of a service in the journal."""

    seq: int
    kind: str
    detail: dict[str, Any]


def scripted(base: Path, default_order: str) -> list[str]:
    """A command that obeys the first line of its plan, or ``default_order``, and then the lines of its FIFO.

    Orders are ``exit CODE``, ``kill SIGNAL`` (itself), ``fork`` (start a process that leaves the session, clears its
    environment and ignores SIGTERM), ``leave CODE`` (fork, then exit) and ``stay``. Its files are ``base`` with
    ``.plan``, ``.fifo``, ``.lock`` and ``.notes``; they exist before it starts. All processes it starts hold the lock.
    """
    return [sys.executable, "-I", "-S", "-c", PROGRAM, str(base), default_order]


def create_audited_database(path: Path) -> None:
    """Create a database with the audit table, for a daemon that has not started yet."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(connect(path, isolation_level=None)) as database:
        migrate(database, 0, target_version())
        database.executescript(AUDIT)


def notes_of(root: Path, name: str) -> list[Note]:
    """The notes of all runs of a program: ``start``, ``exit``, ``kill``, and ``twice`` where two runs overlapped."""
    lines = (root / f"{name}.notes").read_text().splitlines()
    return [Note(word, run, *map(int, rest)) for word, run, *rest in map(str.split, lines)]


def check_history(database: Path, root: Path, definitions: Mapping[str, AddService]) -> None:
    """Check that journal, rows and programs' notes agree, and that the policies allow what they show."""
    changes: dict[tuple[str, str], list[RowChange]] = defaultdict(list)
    events: dict[str, list[Event]] = defaultdict(list)
    with look_at(database) as connection:
        for id_, name, *columns in connection.execute("SELECT * FROM audit ORDER BY rowid"):
            changes[id_, name].append(RowChange(*columns))
        for id_, seq, kind, detail in connection.execute(
            "SELECT subject_id, seq, kind, detail FROM journal WHERE subject_kind = 'service' ORDER BY seq"
        ):
            events[id_].append(Event(seq, kind, json.loads(detail)))
    known: dict[str, set[str | None]] = defaultdict(set)
    for (id_, name), rows in changes.items():
        notes = notes_of(root, name)
        check_transitions(name, rows, events[id_])
        check_exits(name, rows, notes)
        check_restarts(definitions[name], rows, events[id_], notes)
        known[name] |= {row.run_after for row in rows}
    for name in definitions:
        assert {each.run for each in notes_of(root, name)} <= known[name], f"{name} ran before its row had the run"


def check_transitions(name: str, rows: list[RowChange], events: list[Event]) -> None:
    """Each transition is in the table of transitions, and its event is written in the same transaction."""
    state = "stopped"
    ends = [row.seq for row in rows[1:]] + [events[-1].seq]
    for row, last in zip(rows, ends, strict=True):
        assert row.before == state, f"{name}: {rows}"
        state = row.after
        if row.before != row.after:
            assert ServiceState(row.after) in TRANSITIONS[ServiceState(row.before)], f"{name}: {row}"
            written = [event for event in events if row.seq < event.seq <= last]
            assert row.after in [STATE_OF_EVENT.get(event.kind) for event in written], f"{name}: {row} has no event"
    event_states = [STATE_OF_EVENT[event.kind] for event in events if event.kind in STATE_OF_EVENT]
    assert event_states[-1:] in ([], [state]), f"{name} is {state}, but its events are {events}"


def check_exits(name: str, rows: list[RowChange], notes: list[Note]) -> None:
    """The recorded exit of each run is the one that its program noted, or that of a stop."""
    for row in rows:
        run = row.run_before
        if run is None or row.run_after == run:
            continue
        intended = [each for each in notes if each.run == run and each.word in ("exit", "kill")]
        found = (row.exit_code, row.exit_signal)
        if intended:
            expected = [(intended[0].value, None) if intended[0].word == "exit" else (None, intended[0].value)]
            if not row.wanted:
                expected.append((None, signal.SIGKILL))  # a stop came in between, and its grace ended first
        else:
            expected = [(None, signal.SIGTERM), (None, signal.SIGKILL)]
        if row.run_after is not None or not any(each.run == run for each in notes):
            expected.append((None, None))  # the next run follows at once, or no process was started
        assert found in expected, f"{name}: {row}, but the program noted {intended}"


def check_restarts(definition: AddService, rows: list[RowChange], events: list[Event], notes: list[Note]) -> None:
    """No restart is against the policy, earlier than its backoff or beyond its limit."""
    name, policy, limit = definition.name, definition.restart, definition.restart_limit
    exits: dict[str, dict[str, Any]] = {}
    began = {each.run: each.at_ns for each in notes if each.word == "start"}
    ended = {each.run: each.at_ns for each in notes if each.word in ("exit", "kill")}
    attempt: int | None = None
    for event in events:
        if event.kind == "service.exited":
            exits["last"] = event.detail
        elif event.kind == "service.restarting":
            assert policy is not RestartPolicy.NO, f"{name}: {event}"
            exit_ = exits.pop("last", {})
            assert policy is RestartPolicy.ALWAYS or exit_.get("exit_code") != 0, f"{name}: {event} after {exit_}"
            attempt = event.detail["restarts"]
        elif event.kind in STATE_OF_EVENT:
            if event.kind == "service.starting" and attempt is not None and event.detail.get("restarts") == attempt + 1:
                assert not limit or attempt < limit, f"{name}: {event}"
                least_ms = min(definition.restart_backoff_ms << attempt, definition.restart_backoff_max_ms)
                runs = [row.run_before or row.run_after for row in rows if row.seq < event.seq]
                runs = [run for run in dict.fromkeys(runs) if run is not None]
                if len(runs) > 1 and runs[-1] in began and runs[-2] in ended:
                    after_ms = (began[runs[-1]] - ended[runs[-2]]) / 1e6
                    assert after_ms > least_ms - 1, f"{name}: {event} after {after_ms} ms"
            attempt = None
