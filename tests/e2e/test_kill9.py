"""kill -9 of the daemon in the middle of eight writers: what was acknowledged holds, and journal and rows agree."""

from __future__ import annotations

import json
import random
import sqlite3
import threading
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from support.daemon import DaemonProcess
from support.soak import SOAK
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.vms.commands import CreateVm, DeleteVm, Vm

KILLS = 20
WRITERS = 8


class Writer(threading.Thread):
    """One client that creates and deletes as fast as it can, and knows what it was told."""

    def __init__(self, number: int, seed: int, socket_path: Path, acknowledged: Callable[[], None]) -> None:
        super().__init__(name=f"writer-{number}")
        self.random = random.Random(f"{number} {seed}")
        self.prefix = f"w{number}-{seed}"
        self.socket_path = socket_path
        self.acknowledged = acknowledged
        self.created: dict[str, Vm] = {}
        self.deleted: set[str] = set()
        self.in_doubt: str | None = None
        """The name in a request that was never answered."""
        self.problem: BaseException | None = None

    def run(self) -> None:
        try:
            with BlockingClient(self.socket_path) as nexus:
                self.write(nexus)
        except ConnectionFailure:
            pass
        except BaseException as problem:
            self.problem = problem

    def write(self, nexus: BlockingClient) -> None:
        for number in range(100_000):
            alive = sorted(self.created.keys() - self.deleted)
            if alive and self.random.random() < 0.4:
                name = self.in_doubt = self.random.choice(alive)
                nexus.call(DeleteVm(vm=name))
                self.deleted.add(name)
            else:
                name = self.in_doubt = f"{self.prefix}-{number}"
                self.created[name] = nexus.call(CreateVm(name=name))
            self.in_doubt = None
            self.acknowledged()


class Truth:
    """What all writers were told so far, over all kills."""

    def __init__(self) -> None:
        self.alive: dict[str, Vm] = {}
        self.gone: dict[str, Vm] = {}

    def take(self, writers: list[Writer], found: set[str]) -> None:
        """Add a round, and hold it against the names that are in the table."""
        for writer in writers:
            if writer.problem is not None:
                raise writer.problem
            for name, vm in writer.created.items():
                if name == writer.in_doubt:
                    continue  # its delete may have happened
                (self.gone if name in writer.deleted else self.alive)[name] = vm
            doubtful = writer.created.get(writer.in_doubt or "")
            if doubtful is not None:
                (self.alive if doubtful.name in found else self.gone)[doubtful.name] = doubtful


def rows_of(database: sqlite3.Connection) -> dict[str, tuple[str, int]]:
    return {name: (id_, cid) for id_, name, cid in database.execute("SELECT id, name, cid FROM vms")}


def check_journal(database: sqlite3.Connection, rows: dict[str, tuple[str, int]]) -> None:
    """Played from its beginning, the journal gives exactly the table, and no CID was ever given out twice at once."""
    alive: dict[str, tuple[str, int]] = {}
    cids: set[int] = set()
    events = defaultdict(list)
    last = 0
    for seq, kind, id_, name, detail in database.execute(
        "SELECT seq, kind, subject_id, subject_name, detail FROM journal ORDER BY seq"
    ):
        assert seq > last
        last = seq
        events[id_].append(kind)
        cid = json.loads(detail)["cid"]
        if kind == "vm.created":
            assert cid not in cids, f"CID {cid} was given out twice"
            cids.add(cid)
            alive[name] = (id_, cid)
        else:
            assert alive.pop(name) == (id_, cid)
            cids.discard(cid)
    assert alive == rows
    here = {id_ for id_, _ in rows.values()}
    for id_, kinds in events.items():
        assert kinds == (["vm.created"] if id_ in here else ["vm.created", "vm.deleted"])


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_store_twenty_kills_among_eight_writers_lose_nothing_acknowledged(
    make_daemon: Callable[..., DaemonProcess], repetition: int
) -> None:
    daemon = make_daemon()
    truth = Truth()
    chance = random.Random(9 + repetition)
    for kill in range(repetition * KILLS, (repetition + 1) * KILLS):
        daemon.start()
        enough = threading.Semaphore(0)
        writers = [Writer(number, kill, daemon.socket_path, enough.release) for number in range(WRITERS)]
        for writer in writers:
            writer.start()
        for _ in range(chance.randint(20, 200)):
            assert enough.acquire(timeout=60), "the writers make no progress"
        daemon.kill()
        for writer in writers:
            writer.join(60)
            assert not writer.is_alive()
        with look_at(daemon.database) as database:
            rows = rows_of(database)
            truth.take(writers, set(rows))
            for name, vm in truth.alive.items():
                assert rows.get(name) == (vm.id, vm.cid), f"{name} was created, and is not there"
            assert not truth.gone.keys() & rows.keys(), "a deleted one is there"
            doubtful = {writer.in_doubt for writer in writers}
            for name in rows.keys() - truth.alive.keys():
                assert name in doubtful, f"nobody asked for {name}"
                id_, cid = rows[name]
                truth.alive[name] = Vm(id_, name, "work", "created", cid, 1, 128, 0, 0)  # type: ignore[arg-type]
            check_journal(database, rows)
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(truth.alive) > 100
    assert len(truth.gone) > 100
    daemon.start()
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()
