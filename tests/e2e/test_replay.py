"""The images of the journal replay to the rows and back, through kills, full disks and failing syncs."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import NexusError
from nexus_protocol.command import Effect
from support.daemon import DaemonProcess, running
from support.faults import build_failing_fsync, fill, on_small_disk
from support.mutations import BATCH, EXCEPTIONS, MAKERS, Mutator, Pool, make_repository
from support.operations import an_operation
from support.raw import wait_until
from support.replay import changes, check, present
from support.services import end_runs
from support.soak import SOAK
from support.stores import look_at
from support.stores import running as store_running

from nexus.client import BlockingClient
from nexus.journal.retention import prune
from nexus.store.sqlite import SqliteStore
from nexus.system.commands import Describe, Health, SetSetting

KILLS = 20
CLIENTS = 4
COMMANDS = 800
DISK_KIB = 24 * 1024


@pytest.fixture
def world(make_daemon: Callable[..., DaemonProcess]) -> Iterator[DaemonProcess]:
    """A daemon that is not started; all processes of its services are ended after the test."""
    daemon = make_daemon()
    yield daemon
    daemon.close()
    end_runs(daemon.root)


def mutate(
    daemon: DaemonProcess,
    seed: str,
    count: int,
    repository: Path,
    sent: list[Any],
    done: Callable[[], None] = lambda: None,
) -> list[Mutator]:
    """Start clients that send ``count`` random commands each; ``sent`` are those with keys, which come again."""
    mutators = [
        Mutator(daemon.socket_path, Pool(random.Random(f"{seed} {number}"), daemon.root, repository, sent), count, done)
        for number in range(CLIENTS)
    ]
    for mutator in mutators:
        mutator.start()
    return mutators


def join(mutators: list[Mutator], outcomes: Counter[tuple[str, str]]) -> None:
    """Wait for the clients, and add up how their commands ended."""
    for mutator in mutators:
        mutator.join(120)
        assert not mutator.is_alive()
        if mutator.problem is not None:
            raise mutator.problem
        outcomes.update(mutator.outcomes)


def assert_replays(daemon: DaemonProcess) -> None:
    """Check a database that no daemon writes."""
    with look_at(daemon.database) as database:
        problems = check(database)
        assert problems == [], "\n".join(problems[:20])


def assert_prunes(daemon: DaemonProcess) -> None:
    """Prune the database part by part: what is left replays backward, and misses no operation and no secret."""
    with look_at(daemon.database) as database:
        times = [at for (at,) in database.execute("SELECT at FROM journal ORDER BY seq")]
        rows = present(database)

    async def prune_to(before_at: int) -> None:
        operation, after = an_operation("retention"), 0
        async with store_running(SqliteStore(daemon.database, daemon.state / "backups")) as store:
            for _ in range(10_000):
                step = await store.write(
                    functools.partial(prune, operation=operation, now_ms=before_at, before_at=before_at, after=after)
                )
                if step.did_nothing(after):
                    return
                after = step.after

    for part in (0.1, 0.4, 0.7, 0.95, 1):
        asyncio.run(prune_to(times[int((len(times) - 1) * part)] + 1))
        with look_at(daemon.database) as database:
            assert check(database, complete=False) == []
            assert present(database) == rows
            left = len(changes(database))
            assert left <= len(times) * (1 - part) + 1
    assert left == 0


def assert_varied(outcomes: Counter[tuple[str, str]], count: int) -> None:
    """The commands made were of many kinds, and that many succeeded."""
    succeeded = Counter({name: times for (name, code), times in outcomes.items() if code == "ok"})
    assert succeeded.total() > count
    assert len(succeeded) > len(MAKERS) // 2


def test_every_command_that_changes_something_is_made(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as nexus:
        mutating = {info.name for info in nexus.call(Describe()).commands if info.effect != Effect.READ}
    assert {*MAKERS, BATCH} | EXCEPTIONS.keys() == mutating
    assert all(EXCEPTIONS.values())


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_images_replay_after_kills_among_writers_of_every_kind(world: DaemonProcess, repetition: int) -> None:
    chance = random.Random(17 + repetition)
    repository = make_repository(world.root)
    outcomes: Counter[tuple[str, str]] = Counter()
    sent: list[Any] = []
    for kill in range(KILLS):
        world.start()
        enough = threading.Semaphore(0)
        mutators = mutate(world, f"{repetition} {kill}", 100_000, repository, sent, enough.release)
        for _ in range(chance.randint(20, 80)):
            assert enough.acquire(timeout=60), "the clients make no progress"
        world.kill()
        join(mutators, outcomes)
        assert_replays(world)
    world.start()
    assert world.stop() == 0
    assert_replays(world)
    assert_prunes(world)
    assert_varied(outcomes, 10 * KILLS)
    assert "Traceback" not in world.log()


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_images_replay_after_random_commands_with_groups_lost_to_the_disk(
    make_daemon: Callable[..., DaemonProcess], root: Path, repetition: int
) -> None:
    environment = build_failing_fsync(root)
    daemon = make_daemon(environment=environment)
    repository = make_repository(root)
    outcomes: Counter[tuple[str, str]] = Counter()
    sent: list[Any] = []

    def writes_work() -> bool:
        with BlockingClient(daemon.socket_path) as nexus, contextlib.suppress(NexusError):
            nexus.call(SetSetting("probe", random.random()))
            return {each.name: each.status for each in nexus.call(Health()).checks}["writes"] == "ok"
        return False

    def use(disk: Path) -> None:
        assert daemon.database.is_relative_to(disk)
        parts = 10
        for part in range(parts):
            fault = ("none", "disk", "sync")[part % 3]
            filler = fill(disk) if fault == "disk" else None
            if fault == "sync":
                (root / "fail").write_text("once\n")
            join(mutate(daemon, f"{repetition} {part}", COMMANDS // parts // CLIENTS + 1, repository, sent), outcomes)
            if filler is not None:
                filler.unlink()
            (root / "fail").unlink(missing_ok=True)
            wait_until(writes_work, "writes to work again")
        assert daemon.stop() == 0
        assert_replays(daemon)
        daemon.start()
        assert daemon.stop() == 0
        assert_replays(daemon)
        with look_at(daemon.database) as database:
            assert len(changes(database)) > COMMANDS // 4
        end_runs(root)

        assert_varied(outcomes, COMMANDS // 4)

    on_small_disk(daemon.root / "state", DISK_KIB, running(daemon, use))
