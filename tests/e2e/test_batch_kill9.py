"""kill -9 of the daemon while it carries out batches: each is there whole, or not at all."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable

import pytest
from support.daemon import DaemonProcess
from support.soak import SOAK
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.client.errors import ConnectionFailure
from nexus.system.commands import Batch
from nexus.vms.commands import CreateVm

KILLS = 6
SIZE = 1000


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.parametrize("repetition", range(SOAK))
def test_batch_of_1000_creates_survives_kill9_whole_or_not_at_all(
    make_daemon: Callable[..., DaemonProcess], repetition: int
) -> None:
    daemon = make_daemon()
    chance = random.Random(repetition)
    acknowledged = 0
    for kill in range(KILLS):
        daemon.start()
        first = threading.Semaphore(0)
        done: list[str] = []

        def write(prefix: str, done: list[str] = done, first: threading.Semaphore = first) -> None:
            with contextlib.suppress(ConnectionFailure), BlockingClient(daemon.socket_path) as nexus:
                for number in range(100):
                    first.release()
                    nexus.call(Batch.of(CreateVm(f"{prefix}-{number}-{each}") for each in range(SIZE)))
                    done.append(f"{prefix}-{number}")

        writer = threading.Thread(target=write, args=(f"k{kill}",))
        writer.start()
        for _ in range(chance.randint(1, 3)):
            assert first.acquire(timeout=60)
        threading.Event().wait(chance.uniform(0, 0.3))  # somewhere within a batch; the moment does not matter
        daemon.kill()
        writer.join(60)
        assert not writer.is_alive()
        with look_at(daemon.database) as database:
            counts = dict(
                database.execute(
                    "SELECT substr(name, 1, instr(substr(name, instr(name, '-') + 1), '-') + instr(name, '-') - 1), "
                    "count(*) FROM vms GROUP BY 1"
                )
            )
            assert set(counts.values()) <= {SIZE}, "a batch is there in part"
            assert set(done) <= counts.keys(), "an acknowledged batch is lost"
            events = database.execute("SELECT count(*) FROM journal WHERE kind = 'vm.created'").fetchone()[0]
            assert events == sum(counts.values())
        acknowledged += len(done)
    assert acknowledged > 0
