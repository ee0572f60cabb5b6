"""kill -9 of the daemon while eight clients write: acknowledged changes are kept, and journal and rows agree."""

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
    """A client that creates and deletes VMs without pause and keeps the acknowledged changes."""

    def __init__(self, number: int, seed: int, socket_path: Path, acknowledged: Callable[[], None]) -> None:
        super().__init__(name=f"writer-{number}")
        self.random = random.Random(f"{number} {seed}")
        self.prefix = f"w{number}-{seed}"
        self.socket_path = socket_path
        self.acknowledged = acknowledged
        self.created: dict[str, Vm] = {}
        self.deleted: set[str] = set()
        self.in_doubt: str | None = None
        """The name in the request that has no reply yet."""
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


class Acknowledged:
    """The changes acknowledged to all writers, over all kills."""

    def __init__(self) -> None:
        self.present: dict[str, Vm] = {}
        self.deleted: dict[str, Vm] = {}

    def add_round(self, writers: list[Writer], found: set[str]) -> None:
        """Add the writers of a round; ``found`` are the names in the table, which settle the unanswered requests."""
        for writer in writers:
            if writer.problem is not None:
                raise writer.problem
            for name, vm in writer.created.items():
                if name == writer.in_doubt:
                    continue  # it may have been deleted
                (self.deleted if name in writer.deleted else self.present)[name] = vm
            doubtful = writer.created.get(writer.in_doubt or "")
            if doubtful is not None:
                (self.present if doubtful.name in found else self.deleted)[doubtful.name] = doubtful


def rows_of(database: sqlite3.Connection) -> dict[str, tuple[str, int]]:
    return {name: (id_, cid) for id_, name, cid in database.execute("SELECT id, name, cid FROM vms")}


def check_journal(database: sqlite3.Connection, rows: dict[str, tuple[str, int]]) -> None:
    """A replay of the whole journal gives exactly the table, and no two VMs have a CID at the same time."""
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
            assert cid not in cids, f"CID {cid} was assigned twice"
            cids.add(cid)
            alive[name] = (id_, cid)
        else:
            assert alive.pop(name) == (id_, cid)
            cids.discard(cid)
    assert alive == rows
    present = {id_ for id_, _ in rows.values()}
    for id_, kinds in events.items():
        assert kinds == (["vm.created"] if id_ in present else ["vm.created", "vm.deleted"])


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_store_twenty_kills_among_eight_writers_lose_nothing_acknowledged(
    make_daemon: Callable[..., DaemonProcess], repetition: int
) -> None:
    daemon = make_daemon()
    acknowledged = Acknowledged()
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
            acknowledged.add_round(writers, set(rows))
            for name, vm in acknowledged.present.items():
                assert rows.get(name) == (vm.id, vm.cid), f"{name} was created and is missing"
            assert not acknowledged.deleted.keys() & rows.keys(), "a deleted VM is present"
            in_doubt = {writer.in_doubt for writer in writers}
            for name in rows.keys() - acknowledged.present.keys():
                assert name in in_doubt, f"{name} was not requested"
                id_, cid = rows[name]
                acknowledged.present[name] = Vm(id_, name, "", "", "work", "created", cid, 1, 128, 0, 0, 1, 0)  # type: ignore[arg-type]
            check_journal(database, rows)
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert len(acknowledged.present) > 100
    assert len(acknowledged.deleted) > 100
    daemon.start()
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()
