"""Toys under the real supervisor: rows in a real store, real processes, and a driver that is told what to do."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from nexus_protocol import NexusError

from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.runtime import Exit, Orphans, Process, Runtime
from nexus.store import DiskFull, Reader, StateStore, Transaction
from nexus.supervision.adoption import Found, RecordedRun, find_runs, wait_until_handled
from nexus.supervision.driver import End, Launch, NotStarted, RunEnded, RunStopped, StopLadder
from nexus.supervision.exits import describe_exit, lost
from nexus.supervision.requests import Reason, Request, StopRequest
from nexus.supervision.run import Run
from nexus.supervision.state_writer import StateWriter
from nexus.supervision.supervised import Supervised
from nexus.supervision.supervisor import Supervisor
from support.operations import TESTER, an_operation
from support.runtimes import alive, shell
from support.stores import make_store, running

__all__ = [
    "NAP",
    "STUBBORN",
    "WAIT_S",
    "Daemon",
    "FullStore",
    "Row",
    "Toy",
    "ToyDriver",
    "ToyWriter",
    "Toys",
    "a_stop",
    "delete_files",
    "exists",
    "live_processes",
    "scenario",
    "toys_of",
    "until",
]

WAIT_S = 60.0
NAP = "exec sleep 1000"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 1000; done"
"""Once it is ``ready``, it ends only by SIGKILL."""

T = TypeVar("T")

_TABLE = """CREATE TABLE toy (
    id TEXT PRIMARY KEY, state TEXT NOT NULL, run_id TEXT, pid INTEGER, reason TEXT, unknown_since INTEGER,
    runs INTEGER NOT NULL DEFAULT 0)"""

_TRANSITIONS = {
    "queued": {"executing", "failed", "stopped"},
    "executing": {"queued", "completed", "failed", "stopped"},
}


class Row(NamedTuple):
    """The record of a toy."""

    id: str
    state: str
    run_id: str | None
    pid: int | None
    reason: str | None
    unknown_since: int | None
    runs: int


class FullStore:
    """A store that refuses writes while its disk is ``full``. Only that is fake: real disks are in services' tests."""

    def __init__(self, store: StateStore) -> None:
        self.full = False
        self.before_write: Callable[[], Awaitable[None]] | None = None
        """Awaited before each write."""
        self.writes = 0
        self._store = store

    def read(self, fn: Callable[[Reader], T], *, snapshot: bool = False) -> T:
        """As ``StateStore``."""
        return self._store.read(fn, snapshot=snapshot)

    async def write(self, fn: Callable[[Transaction], T], *, size_bytes: int = 256) -> T:
        """As ``StateStore``."""
        if self.before_write is not None:
            await self.before_write()
        if self.full:
            raise DiskFull("the disk is full")
        self.writes += 1
        return await self._store.write(fn, size_bytes=size_bytes)


class Daemon:
    """What a supervision needs of one daemon; the next daemon has the same files."""

    def __init__(self, directory: Path, store: FullStore) -> None:
        self.directory = directory
        self.faulty_store = store
        self.runtime = Runtime(directory, scopes=False)

    def owner(self, toy_id: str) -> str:
        """The owner of a toy's runs, which no other test has."""
        return f"toy-{self.directory.parent.name}-{toy_id}"

    @property
    def store(self) -> StateStore:
        """The store of the toys."""
        return self.faulty_store  # type: ignore[return-value]

    def cause(self, name: str, of: Operation | None = None) -> Operation:
        """As ``ManagerContext``."""
        return Operation(TESTER, name, cause=of)


class ToyWriter(StateWriter[str, Row]):
    """Writes the row of one toy."""

    def __init__(self, daemon: Daemon, toy_id: str) -> None:
        super().__init__(daemon, daemon.owner(toy_id), an_operation())
        self.id = toy_id
        self.name_fails = False

    @property
    def name(self) -> str:
        """As ``StateWriter``."""
        if self.name_fails:
            raise KeyError("name")
        return self.id

    def read(self) -> Row:
        """The row as it is committed."""
        return self._host.store.read(self._row)

    def _row(self, reader: Reader) -> Row:
        found = reader.one(
            "SELECT id, state, run_id, pid, reason, unknown_since, runs FROM toy WHERE id = ?", (self.id,)
        )
        assert found is not None
        return Row(*found)

    def change(
        self, tx: Transaction, operation: Operation, state: str | None, events: Sequence[Event], columns: dict[str, Any]
    ) -> Row:
        """As ``StateWriter``."""
        assert not events
        before = self._row(tx)
        state = before.state if state is None else state
        if state != before.state and state not in _TRANSITIONS.get(before.state, ()):
            raise ValueError(f"a toy does not go from {before.state} to {state}")
        if columns.get("unknown_since") is not None:
            columns = columns | {"unknown_since": before.unknown_since or columns["unknown_since"]}
        operation.enter(tx)
        after = before._replace(**({"unknown_since": None} | columns), state=state)
        tx.execute(
            "UPDATE toy SET state = ?, run_id = ?, pid = ?, reason = ?, unknown_since = ?, runs = ? WHERE id = ?",
            (*after[1:], self.id),
        )
        return after


class Refused(NexusError):
    """The driver refuses a start."""

    code = "conflict"


class ToyDriver:
    """A driver as a job's: a queued row is executed; it completes, fails, or is queued again and executed again."""

    def __init__(
        self, subject: Supervised, writer: ToyWriter, *, script: str = NAP, again: int = 0, grace_ms: int = 60_000
    ) -> None:
        self.spec = shell(script, stop_grace_ms=grace_ms)
        self.again = again
        """How many runs follow the first one in the same supervision."""
        self.faults: dict[str, BaseException] = {}
        """What each method raises, at its first call."""
        self.calls: list[str] = []
        self.gate: asyncio.Event | None = None
        """Closes ``prepare`` before the row is written."""
        self.ends: list[End] = []
        self._subject = subject
        self._writer = writer

    def _called(self, method: str) -> None:
        self.calls.append(method)
        fault = self.faults.pop(method, None)
        if fault is not None:
            raise fault

    def resume(self, found: Process | Exit | Orphans | None) -> RunEnded | NotStarted | None:
        """As ``Driver``."""
        self._called("resume")
        row, requests = self._writer.read(), self._subject.requests
        if row.reason == "stopping":
            requests.stop = requests.stop or a_stop(on_demand=False)
        if isinstance(found, Exit):
            return RunEnded(found, self._writer.cause("process.exited"))
        if found is not None or row.state == "queued":
            return None
        return NotStarted(None) if row.pid is None else RunEnded(lost("it was not found"), self._writer.operation)

    @contextlib.asynccontextmanager
    async def prepare(self, run_id: str) -> AsyncIterator[Launch]:
        """As ``Driver``."""
        self._called("prepare")
        if self.gate is not None:
            await self._subject.requests.interruptible(self.gate.wait())
        row = self._writer.read()
        if row.state != "queued":
            raise Refused(f"the toy is {row.state}")
        await self._writer.write("executing", insist=False, run_id=run_id, pid=None, reason=None, runs=row.runs + 1)
        yield Launch(self.spec)

    async def watch(self, run: Run) -> NoReturn:
        """As ``Driver``."""
        self._called("watch")
        if run.process.exit is None and self._writer.read().pid is None:
            await self._writer.write("executing", requests=self._subject.requests, pid=run.process.pid)
        while True:
            run.check()
            await self._subject.requests.wait()

    async def ending(self, cause: Request | RunEnded | Orphans) -> None:
        """As ``Driver``."""
        self._called("ending")
        strict = isinstance(cause, StopRequest) and cause.strict
        with contextlib.ExitStack() as stack:
            if not strict:
                stack.enter_context(contextlib.suppress(DiskFull))
            reason = "stopping" if isinstance(cause, StopRequest) else "ending"
            await self._writer.write("executing", insist=False, reason=reason)

    async def verdict(self, end: End) -> bool:
        """As ``Driver``."""
        self._called("verdict")
        self.ends.append(end)
        columns: dict[str, Any] = {"run_id": None, "pid": None}
        if isinstance(end, NotStarted):
            if self._writer.read().state == "executing" and end.error is None:
                await self._writer.write("queued", reason="never started", **columns)
            elif not isinstance(end.error, (Refused, DiskFull)):
                assert end.error is not None
                await self._writer.write("failed", reason=end.error.message, **columns)
            return False
        if isinstance(end, RunStopped):
            await self._writer.write("stopped", reason=end.request.reason.text, **columns)
            return False
        if self.again:
            self.again -= 1
            await self._writer.write("queued", reason=describe_exit(end.exit), **columns)
            return True
        state = "completed" if (end.exit.kind, end.exit.code) == ("exit", 0) else "failed"
        await self._writer.write(state, reason=describe_exit(end.exit), **columns)
        return False

    async def stop_at_rest(self, request: StopRequest) -> None:
        """As ``Driver``."""
        self._called("stop_at_rest")
        if self._writer.read().state == "queued":
            await self._writer.write("stopped", reason=request.reason.text)

    async def give_up(self, failure: NexusError) -> None:
        """As ``Driver``."""
        self._called("give_up")
        if self._writer.read().state in _TRANSITIONS:
            await self._writer.write("failed", reason=failure.message, run_id=None, pid=None)

    def stop_ladder(self) -> StopLadder:
        """As ``Driver``."""
        self._called("stop_ladder")
        return StopLadder(15, 1000)


class Toy:
    """One toy in one daemon: its supervision, and what it told."""

    def __init__(self, daemon: Daemon, toy_id: str, **options: Any) -> None:
        self.id = toy_id
        self.owner = daemon.owner(toy_id)
        self.writer = ToyWriter(daemon, toy_id)
        self.subject = Supervised(daemon, "toy", self.owner, self.writer, lambda: None)
        self.driver = ToyDriver(self.subject, self.writer, **options)
        self.ended = 0
        """How often it was told that the supervision is over."""
        self.supervisor = Supervisor(self.subject, self.driver, self._end)
        self._daemon = daemon

    def _end(self) -> None:
        self.ended += 1

    @property
    def row(self) -> Row:
        """Its row."""
        return self.writer.read()

    @property
    def pid(self) -> int:
        """The pid of its process."""
        assert self.supervisor.run is not None
        return self.supervisor.run.process.pid

    async def begin(self) -> Toy:
        """Begin the supervision, and wait until a process is watched or it is over."""
        self.supervisor.begin()
        await self.settled()
        return self

    async def ready(self) -> Toy:
        """Wait until its program has written a line."""
        await until(lambda: self._daemon.runtime.log(self.owner).tail(1), "the first line")
        return self

    def is_settled(self) -> bool:
        """Whether the supervision is over, or watches a process with nothing left to do."""
        supervisor, row = self.supervisor, self.row
        if supervisor.over:
            return True
        run = supervisor.run
        watched = run is not None and run.process.exit is None and row.pid == run.process.pid
        return watched and not self.subject.requests.pending and row.unknown_since is None

    async def settled(self) -> None:
        """Wait until it is settled."""
        await until(self.is_settled, f"toy {self.id} to settle: {self.row}, {self.driver.calls}")

    async def over(self) -> Row:
        """Wait until the supervision is over; returns the row."""
        await until(lambda: self.supervisor.over, f"the end of toy {self.id}: {self.row}, {self.driver.calls}")
        assert self.ended == 1
        return self.row

    async def outcome(self) -> NexusError | None:
        """Wait for the outcome as a client that started it; gives its error."""
        try:
            await self.subject.waiters.outcome(ready=False)
        except NexusError as error:
            return error
        return None

    def files(self) -> list[str]:
        """The runs that have files."""
        return self._daemon.runtime.runs(self.owner)


class Toys:
    """All toys of a test, in one store, under one daemon after the other."""

    def __init__(self, directory: Path, store: FullStore) -> None:
        self.store = store
        self.directory = directory
        self.daemon = Daemon(directory, store)
        self.toys: list[Toy] = []
        """Of the present daemon."""

    async def insert(self, toy_id: str = "1", state: str = "queued", **columns: Any) -> None:
        """Insert the row of a toy."""
        values = (toy_id, state, columns.get("run_id"), columns.get("pid"))
        await self.store.write(
            lambda tx: tx.execute("INSERT INTO toy (id, state, run_id, pid) VALUES (?, ?, ?, ?)", values)
        )

    async def add(self, toy_id: str = "1", **options: Any) -> Toy:
        """Insert a toy in the state queued, and enter it."""
        await self.insert(toy_id)
        return self.enter(toy_id, **options)

    def enter(self, toy_id: str, **options: Any) -> Toy:
        """A toy whose row there is, in the present daemon; it is to be begun or resumed."""
        toy = Toy(self.daemon, toy_id, **options)
        self.toys.append(toy)
        return toy

    async def kill_daemon(self) -> None:
        """End the present daemon; the next one has adopted nothing yet."""
        for toy in self.toys:
            await toy.supervisor.close()
        self.toys = []
        self.daemon = Daemon(self.directory, self.store)

    async def found(self, *toy_ids: str) -> list[Found]:
        """What the present daemon finds of the runs of these toys."""
        rows = [ToyWriter(self.daemon, toy_id).read() for toy_id in toy_ids]
        return await find_runs(
            self.daemon.runtime, [RecordedRun(self.daemon.owner(row.id), row.run_id) for row in rows]
        )

    async def adopt(self, *toy_ids: str, **options: Any) -> list[Toy]:
        """Adopt these toys; returns when what was found of each is handled, or after a while."""
        found = await self.found(*toy_ids)
        toys = [self.enter(toy_id, **options) for toy_id in toy_ids]
        handled = []
        for toy, each in zip(toys, found, strict=True):
            row = toy.row
            unknown = row.unknown_since is not None
            handled.append(toy.supervisor.resume(each, run_id=row.run_id, was_unknown=unknown))
        await wait_until_handled(handled)
        return toys

    async def next_daemon(self, *toy_ids: str, **options: Any) -> list[Toy]:
        """Kill the daemon, and let the next one adopt these toys."""
        await self.kill_daemon()
        return await self.adopt(*toy_ids, **options)

    async def close(self) -> None:
        """Stop everything that is left."""
        self.store.full, self.store.before_write = False, None
        for toy in self.toys:
            with contextlib.suppress(NexusError):
                if not toy.supervisor.over:
                    toy.driver.gate = None
                    await asyncio.wait_for(toy.supervisor.stop(a_stop(grace_ms=0)), WAIT_S)
            await toy.supervisor.close()


def a_stop(text: str = "stopped on demand", *, on_demand: bool = True, **options: Any) -> StopRequest:
    """A stop on demand."""
    return StopRequest(an_operation(), Reason("requested", text), on_demand=on_demand, **options)


async def until(condition: Callable[[], object], what: str) -> None:
    """Wait until a condition holds."""
    deadline = asyncio.get_running_loop().time() + WAIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < deadline, f"waited in vain for {what}"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def toys_of(root: Path) -> AsyncIterator[Toys]:
    """Toys in a folder; what is left of them afterwards is stopped."""
    async with running(make_store(root)) as store:
        await store.write(lambda tx: tx.execute(_TABLE))
        toys = Toys(root / "processes", FullStore(store))
        try:
            yield toys
        finally:
            await toys.close()


def scenario(root: Path, play: Callable[[Toys], Awaitable[None]]) -> None:
    """Play with toys in a folder."""

    async def run() -> None:
        async with toys_of(root) as toys:
            await play(toys)

    asyncio.run(run())


def live_processes(directory: Path, owner: str) -> list[int]:
    """The processes of an owner's runs that are alive, their shims among them: they have its folder open, or its id."""
    runs = [path.name for path in (directory / owner).glob("*") if path.name != "log"] if directory.exists() else []
    marks = [f"{owner}/".encode(), *(run.encode() for run in runs)]
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
                if any(mark in words for mark in marks) and alive(int(entry.name)):
                    found.append(int(entry.name))
    return found


def delete_files(directory: Path, owner: str) -> None:
    """Delete the files of every run of an owner, as somebody who cleans up."""
    for path in (directory / owner).iterdir():
        if path.name != "log":
            shutil.rmtree(path)


def exists(pid: int) -> bool:
    """Whether there is a process with this pid."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return alive(pid)
