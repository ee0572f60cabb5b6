"""Backups under load: each one restores to a state that its journal explains, with every blob and log that it names."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import NexusError
from support.cli import Cli
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.mutations import Mutator, Pool, make_repository
from support.raw import RawClient, connect, wait_until
from support.replay import check
from support.services import end_runs
from support.soak import SOAK
from support.stores import look_at

from nexus.capabilities import file_sets
from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.conversations.commands import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    ForkConversation,
    GetBlob,
    ListMessages,
    PutBlob,
    SweepBlobs,
)
from nexus.conversations.errors import BlobNotFound
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role
from nexus.jobs.commands import CreateJob, WaitJobs
from nexus.store.maintenance import check_database
from nexus.system.commands import BackupDatabase, Health, SetSetting

SETS = file_sets()
WRITERS = 3
BACKUPS = 3 if SOAK == 1 else 8


@pytest.fixture
def world(make_daemon: Callable[..., DaemonProcess]) -> Iterator[DaemonProcess]:
    """A daemon that is not started; all processes of its services are ended after the test."""
    daemon = make_daemon()
    yield daemon
    daemon.close()
    end_runs(daemon.root)


class Talker(threading.Thread):
    """A client that stores blobs and writes messages until its connection ends."""

    def __init__(self, daemon: DaemonProcess, seed: int) -> None:
        super().__init__(name="talker")
        self.socket_path = daemon.socket_path
        self.chance = random.Random(seed)
        self.problem: BaseException | None = None
        self.done = 0

    def run(self) -> None:
        try:
            with BlockingClient(self.socket_path, actor="talker") as client:
                while True:
                    try:
                        self._converse(client)
                    except BlobNotFound:
                        pass  # swept before it was named, which a grace time of nothing allows
                    except NexusError as error:
                        if error.code not in ("conflict", "not_found", "failed_precondition", "unavailable"):
                            raise
        except ConnectionFailure:
            pass
        except BaseException as problem:
            self.problem = problem

    def _parts(self, client: BlockingClient) -> list[MessagePart]:
        blob = client.call(PutBlob(self.chance.randbytes(self.chance.choice([10, 5_000, 200_000]))))
        return [MessagePart(PartKind.TEXT, "look"), MessagePart(PartKind.IMAGE, blob=blob.hash)]

    def _converse(self, client: BlockingClient) -> None:
        conversation = client.call(CreateConversation())
        messages = [
            client.call(CreateMessage(conversation.id, role=Role.USER, content="look", parts=self._parts(client)))
            for _ in range(self.chance.randint(1, 4))
        ]
        chosen = self.chance.choice(messages)
        match self.chance.randrange(5):
            case 0:
                client.call(EditMessage(chosen.id, content="no more"))
            case 1:
                client.call(EditMessage(chosen.id, content="look", parts=self._parts(client)))
            case 2:
                client.call(DeleteMessage(chosen.id))
            case 3:
                client.call(ForkConversation(conversation.id))
            case 4:
                client.call(DeleteConversation(conversation.id))
        self.done += 1


def restored(world: DaemonProcess, backup: Path, name: str) -> DaemonProcess:
    """Restore a backup as on another machine."""
    daemon = DaemonProcess(world.root / name)
    cli = Cli(daemon.environment)
    result = cli("db", "restore", str(backup), "--yes", "-o", "json")
    assert result.code == 0, result.err
    assert json.loads(result.out)["set_aside"] is None
    return daemon


def problems_of(daemon: DaemonProcess) -> list[str]:
    report = check_database(daemon.database, SETS, deep=True)
    with look_at(daemon.database) as database:
        return [*report.problems, *report.file_problems, *check(database)]


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_backups_among_writers_of_every_kind_restore_to_what_the_journal_explains(
    world: DaemonProcess, repetition: int
) -> None:
    repository = make_repository(world.root)
    world.start()
    sent: list[Any] = []
    clients: list[Mutator | Talker] = [
        Mutator(
            world.socket_path,
            Pool(random.Random(f"{repetition} {number}"), world.root, repository, sent),
            100_000,
        )
        for number in range(WRITERS)
    ]
    clients += [Talker(world, repetition * 10 + number) for number in range(2)]
    for client in clients:
        client.start()
    archives, plain = [], []
    with BlockingClient(world.socket_path, actor="backup") as nexus:
        for number in range(BACKUPS):
            time.sleep(0.5)
            archives.append(nexus.call(BackupDatabase(str(world.root / f"{number}.tar.gz"), with_files=True)))
            plain.append(nexus.call(BackupDatabase(str(world.root / f"{number}.db"))))
            nexus.call(SweepBlobs(grace_ms=0))
    world.kill()
    outcomes: Counter[tuple[str, str]] = Counter()
    for client in clients:
        client.join(120)
        assert not client.is_alive()
        if client.problem is not None:
            raise client.problem
        if isinstance(client, Mutator):
            outcomes.update(client.outcomes)
    end_runs(world.root)
    assert sum(talker.done for talker in clients if isinstance(talker, Talker)) > 10
    assert len({name for (name, code), _times in outcomes.items() if code == "ok"}) > 20
    assert problems_of(world) == []

    blobs = [next(each for each in backup.files if each.name == "blobs") for backup in archives]
    assert blobs[-1].count > 10
    for backup in archives:
        # A blob that was swept between the copy of the database and its own is missing, and told.
        assert all(each.damaged == 0 for each in backup.files)
    for number, backup in enumerate(archives):
        daemon = restored(world, Path(backup.path), f"a{number}")
        missing = blobs[number].missing
        found = problems_of(daemon)
        assert len(found) == missing, found
        daemon.start()
        with connect(daemon) as client:
            assert {each.name for each in client.call(Health()).checks if each.status != "ok"} <= set()
            assert client.call(SweepBlobs(grace_ms=0)).count >= 0
        daemon.kill()
        assert len(problems_of(daemon)) <= missing
        end_runs(daemon.root)
    daemon = restored(world, Path(plain[-1].path), "p")
    with look_at(daemon.database) as database:
        assert check(database) == []


@pytest.mark.slow
def test_daemon_killed_while_it_makes_a_backup_leaves_none_under_its_name(world: DaemonProcess) -> None:
    world.start()
    with BlockingClient(world.socket_path) as nexus:
        for number in range(20):
            nexus.call(PutBlob(random.Random(number).randbytes(1_000_000)))
        nexus.call(SetSetting("a", 1))
    backups = world.state / "backups"
    chance = random.Random(7)
    for number in range(6):
        with RawClient(world.socket_path) as client:
            client.begin(BackupDatabase(with_files=True))
            wait_until(lambda: backups.exists() and any(backups.iterdir()), "a backup to begin")
            time.sleep(chance.random() * 0.4)
            world.kill()
        for path in backups.iterdir():
            if not path.name.startswith("."):
                assert not restored(world, path, f"k{number}-{path.stem[-8:]}").database.with_name("x").exists()
                path.unlink()
        world.start()
    with BlockingClient(world.socket_path) as nexus:
        made = nexus.call(BackupDatabase(with_files=True))
    assert [str(path) for path in backups.iterdir()] == [made.path], "what killed ones left is deleted"


def test_archive_on_a_disk_that_fills_up_is_refused_and_the_daemon_goes_on(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        with BlockingClient(daemon.socket_path) as nexus:
            for number in range(3):
                nexus.call(PutBlob(random.Random(number).randbytes(500_000)))
            filler = fill(disk, leave_kib=1024)
            for _ in range(2):
                with pytest.raises(NexusError, match="the disk is full") as full:
                    nexus.call(BackupDatabase(with_files=True))
                assert full.value.code == "resource_exhausted"
                assert list((daemon.state / "backups").iterdir()) == []
            filler.unlink()
            nexus.call(SetSetting("a", 1))
            made = nexus.call(BackupDatabase(with_files=True))
            assert next(each.count for each in made.files if each.name == "blobs") == 3

    on_small_disk(daemon.root / "state", 8 * 1024, running(daemon, use))


def test_state_moves_to_another_machine_with_its_messages_and_output(world: DaemonProcess, root: Path) -> None:
    world.start()
    with connect(world) as client:
        blob = client.call(PutBlob(b"an image"))
        conversation = client.call(CreateConversation())
        image = [MessagePart(PartKind.IMAGE, blob=blob.hash, name="cat.png")]
        client.call(CreateMessage(conversation.id, role=Role.USER, content="see", parts=image))
        job = client.call(CreateJob("echo a line"))
        list(client.items(client.begin(WaitJobs([job.id]))))
    cli = Cli(world.environment)
    made = cli("db", "backup", str(root / "state.tar.gz"), "--with-files")
    assert made.code == 0
    assert made.lines[1] == "It has 1 job log (23 bytes), 1 blob (8 bytes)"
    with tarfile.open(root / "state.tar.gz") as tar:
        assert "nexus.db" in tar.getnames()
    world.stop()
    other = restored(world, root / "state.tar.gz", "other")
    other.start()
    try:
        with connect(other) as client:
            (message,) = client.call(ListMessages(conversation.id, parts=True)).messages
            assert client.call(GetBlob(str(message.parts[0].blob))).data == b"an image"
        assert Cli(other.environment).ok("job", "logs", "1").out == "a line\n"
        assert Cli(other.environment).ok("db", "check", "--deep").lines[0].endswith(", ok")
    finally:
        other.close()


def test_sql_answers_while_writers_write_and_is_ended_by_an_interrupt(world: DaemonProcess) -> None:
    world.start()
    talker = Talker(world, 1)
    talker.start()
    cli = Cli(world.environment)
    counts = []
    for _ in range(4):
        wait_until(lambda: talker.done > len(counts), "the writer to write")
        counts.append(int(cli.ok("db", "sql", "SELECT count(*) FROM messages", "--no-header").out))
    assert counts == sorted(counts)
    endless = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    process = subprocess.Popen(
        [sys.executable, "-m", "nexus.cli.main", "db", "sql", endless],
        env=cli.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_until(lambda: "nexus.db" in " ".join(open_files(process.pid)), "the statement to begin")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err
    world.stop()
    talker.join(60)
    assert talker.problem is None


def open_files(pid: int) -> list[str]:
    try:
        return [str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:
        return []
