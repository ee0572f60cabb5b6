"""What services did, by those who do not ask the daemon: their programs, and a trigger in its database.

It holds the program that writes down its runs, and the rules by which its notes, the rows and the journal agree.
"""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nexus.services.commands import AddService
from nexus.services.states import TRANSITIONS, RestartPolicy, ServiceState
from nexus.store.migrate import migrate, target_version
from support.stores import look_at

__all__ = ["Noted", "actor", "check_history", "make_audited", "notes_of"]

PROGRAM = r"""
import fcntl, os, resource, signal, struct, sys, time

base, idle = sys.argv[1:]
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
# Whatever it leaves behind has this lock as well.
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
obey(plan[0] if plan else idle)
for line in fifo:
    obey(line.strip())
"""
"""Does what its plan says for this run, else its habit, then what comes through its FIFO."""

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
"""What becomes of each row, each with the last event before it."""

STATE_OF_EVENT = {
    "service.starting": "starting",
    "service.restarting": "starting",
    "service.started": "running",
    "service.stopping": "stopping",
    "service.stopped": "stopped",
    "service.failed": "failed",
}


class Noted(NamedTuple):
    """What a program wrote down."""

    word: str
    run: str
    pid: int
    at_ns: int
    value: int


class Changed(NamedTuple):
    """A change of a row, and the last event before it."""

    seq: int
    before: str
    after: str
    run_before: str | None
    run_after: str | None
    exit_code: int | None
    exit_signal: int | None
    wanted: int


class Event(NamedTuple):
    """What the journal tells of a service."""

    seq: int
    kind: str
    detail: dict[str, Any]


def actor(base: Path, habit: str) -> list[str]:
    """A command that does what its plan says for this run, else its habit, then what comes through its FIFO.

    It knows ``exit CODE``, ``kill SIGNAL`` (itself), ``fork`` (a process that leaves it, clears its environment and
    ignores SIGTERM), ``leave CODE`` (both) and ``stay``. ``base`` with ``.plan``, ``.fifo``, ``.lock`` and ``.notes``
    are its files, which are there before it starts; everything that it starts keeps the lock.
    """
    return [sys.executable, "-I", "-S", "-c", PROGRAM, str(base), habit]


def make_audited(path: Path) -> None:
    """Make a database for a daemon that has not started yet, with a table of what becomes of each service's row."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        migrate(database, 0, target_version())
        database.executescript(AUDIT)


def notes_of(root: Path, name: str) -> list[Noted]:
    """What the runs of a program have written down: ``start``, ``exit``, ``kill``, and ``twice`` where two were one."""
    lines = (root / f"{name}.notes").read_text().splitlines()
    return [Noted(word, run, *map(int, rest)) for word, run, *rest in map(str.split, lines)]


def check_history(database: Path, root: Path, definitions: Mapping[str, AddService]) -> None:
    """The journal, the rows and the programs tell the same story, and it is one that the policies allow."""
    changes: dict[tuple[str, str], list[Changed]] = defaultdict(list)
    events: dict[str, list[Event]] = defaultdict(list)
    with look_at(database) as connection:
        for id_, name, *columns in connection.execute("SELECT * FROM audit ORDER BY rowid"):
            changes[id_, name].append(Changed(*columns))
        for id_, seq, kind, detail in connection.execute(
            "SELECT subject_id, seq, kind, detail FROM journal WHERE subject_kind = 'service' ORDER BY seq"
        ):
            events[id_].append(Event(seq, kind, json.loads(detail)))
    known: dict[str, set[str | None]] = defaultdict(set)
    for (id_, name), rows in changes.items():
        noted = notes_of(root, name)
        check_transitions(name, rows, events[id_])
        check_exits(name, rows, noted)
        check_restarts(definitions[name], rows, events[id_], noted)
        known[name] |= {row.run_after for row in rows}
    for name in definitions:
        assert {each.run for each in notes_of(root, name)} <= known[name], f"{name} ran before its row said so"


def check_transitions(name: str, rows: list[Changed], events: list[Event]) -> None:
    """Each follows the one before as the table says, and has its event in the same transaction."""
    state = "stopped"
    ends = [row.seq for row in rows[1:]] + [events[-1].seq]
    for row, last in zip(rows, ends, strict=True):
        assert row.before == state, f"{name}: {rows}"
        state = row.after
        if row.before != row.after:
            assert ServiceState(row.after) in TRANSITIONS[ServiceState(row.before)], f"{name}: {row}"
            told = [event for event in events if row.seq < event.seq <= last]
            assert row.after in [STATE_OF_EVENT.get(event.kind) for event in told], f"{name}: {row} is in no event"
    told_states = [STATE_OF_EVENT[event.kind] for event in events if event.kind in STATE_OF_EVENT]
    assert told_states[-1:] in ([], [state]), f"{name} is {state}, and {events}"


def check_exits(name: str, rows: list[Changed], noted: list[Noted]) -> None:
    """How a run ended is as its program meant it, or as it was stopped."""
    for row in rows:
        run = row.run_before
        if run is None or row.run_after == run:
            continue
        meant = [each for each in noted if each.run == run and each.word in ("exit", "kill")]
        found = (row.exit_code, row.exit_signal)
        if meant:
            expected = [(meant[0].value, None) if meant[0].word == "exit" else (None, meant[0].value)]
            if not row.wanted:
                expected.append((None, signal.SIGKILL))  # it was stopped meanwhile, and its grace was over first
        else:
            expected = [(None, signal.SIGTERM), (None, signal.SIGKILL)]
        if row.run_after is not None or not any(each.run == run for each in noted):
            expected.append((None, None))  # another run follows at once, or there never was a process
        assert found in expected, f"{name}: {row}, and it meant {meant}"


def check_restarts(definition: AddService, rows: list[Changed], events: list[Event], noted: list[Noted]) -> None:
    """No restart that the policy does not want, none too early, none too many."""
    name, policy, limit = definition.name, definition.restart, definition.restart_limit
    exits: dict[str, dict[str, Any]] = {}
    began = {each.run: each.at_ns for each in noted if each.word == "start"}
    ended = {each.run: each.at_ns for each in noted if each.word in ("exit", "kill")}
    waits: int | None = None
    for event in events:
        if event.kind == "service.exited":
            exits["last"] = event.detail
        elif event.kind == "service.restarting":
            assert policy is not RestartPolicy.NO, f"{name}: {event}"
            exit_ = exits.pop("last", {})
            assert policy is RestartPolicy.ALWAYS or exit_.get("exit_code") != 0, f"{name}: {event} after {exit_}"
            waits = event.detail["restarts"]
        elif event.kind in STATE_OF_EVENT:
            if event.kind == "service.starting" and waits is not None and event.detail.get("restarts") == waits + 1:
                assert not limit or waits < limit, f"{name}: {event}"
                least_ms = min(definition.restart_backoff_ms << waits, definition.restart_backoff_max_ms)
                runs = [row.run_before or row.run_after for row in rows if row.seq < event.seq]
                runs = [run for run in dict.fromkeys(runs) if run is not None]
                if len(runs) > 1 and runs[-1] in began and runs[-2] in ended:
                    after_ms = (began[runs[-1]] - ended[runs[-2]]) / 1e6
                    assert after_ms > least_ms - 1, f"{name}: {event} after {after_ms} ms"
            waits = None
