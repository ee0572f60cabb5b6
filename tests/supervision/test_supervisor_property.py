"""Any order of starts, exits, stops, kills of the daemon and full disks ends in rows that are true of the processes."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.soak import SOAK
from support.supervised import NAP, STUBBORN, Toy, Toys, a_stop, exists, live_processes, toys_of, until

from nexus.supervision import adoption, state_writer, supervisor

pytestmark = pytest.mark.slow

SCRIPTS = {
    "nap": NAP,
    "stubborn": STUBBORN,
    "done": "exit 0",
    "fails soon": "sleep 0.01; exit 3",
    "leaves something": "trap '' TERM; sleep 1000 & exit 4",
    "ends late": "trap 'sleep 0.02; exit 5' TERM; sleep 1000 & wait",
}

STEPS = ["begin", "exit", "shim", "stop", "kill", "daemon", "adopt", "fill", "drain", "turn", "settle"]


class Play:
    """One toy, what may happen to it, and what must hold then."""

    def __init__(self, toys: Toys, toy_id: str, options: dict[str, Any]) -> None:
        self.toys = toys
        self.toy_id = toy_id
        self.options = options
        self.toy: Toy | None = None
        """In the present daemon; None after its end, and while it is queued."""
        self.down = False
        """Whether no daemon runs."""

    async def step(self, step: str) -> None:
        """Carry out a step, if it is possible now."""
        await getattr(self, step)()

    def _supervised(self) -> Toy | None:
        return None if self.toy is None or self.toy.supervisor.over else self.toy

    async def begin(self) -> None:
        """The queue begins it, also again after its end."""
        if self.down or self._supervised() is not None or self.toys.store.full:
            return
        self._check_over()
        queue = "UPDATE toy SET state = 'queued' WHERE id = ?"
        await self.toys.store.write(lambda tx: tx.execute(queue, (self.toy_id,)))
        self.toy = self.toys.enter(self.toy_id, **self.options)
        self.toy.supervisor.begin()

    async def exit(self) -> None:
        """Its main process is killed, also while no daemon runs."""
        await self._signal("pid")

    async def shim(self) -> None:
        """Its shim is killed."""
        await self._signal("shim_pid")

    async def _signal(self, which: str) -> None:
        toy = self.toy
        run = None if toy is None else toy.supervisor.run
        if run is not None and run.process.exit is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(getattr(run.process, which), signal.SIGKILL)

    async def stop(self) -> None:
        """A stop on demand."""
        self._request()

    async def kill(self) -> None:
        """A stop on demand that kills at once."""
        self._request(grace_ms=0)

    def _request(self, **options: Any) -> None:
        toy = self._supervised()
        if toy is not None and not self.down:
            toy.supervisor.request_stop(a_stop(**options))

    async def daemon(self) -> None:
        """The daemon ends at once."""
        if not self.down:
            await self.toys.kill_daemon()
            self.down = True
            # A write that it was at is completed, and may have been the last one.
            assert self.toy is None or self.toy.ended == self.toy.supervisor.over

    async def adopt(self) -> None:
        """The next daemon begins."""
        if not self.down:
            return
        self.down = False
        row = self.toys.enter(self.toy_id).row
        self.toys.toys.clear()
        self.toy = None
        if row.state == "executing":
            (self.toy,) = await self.toys.adopt(self.toy_id, **self.options)

    async def fill(self) -> None:
        """The disk is full."""
        self.toys.store.full = True

    async def drain(self) -> None:
        """There is space again."""
        self.toys.store.full = False

    async def turn(self) -> None:
        """The loop turns a few times."""
        for _ in range(5):
            await asyncio.sleep(0)

    async def settle(self) -> None:
        """Everything that has begun comes to its end, if the disk lets it."""
        if self.down or self.toys.store.full:
            return
        toy = self._supervised()
        if toy is None:
            self._check_over()
            return
        await toy.settled()
        if toy.supervisor.over:
            self._check_over()
            return
        row, run = toy.row, toy.supervisor.run
        assert run is not None
        assert (row.state, row.run_id, row.pid) == ("executing", run.process.run_id, run.process.pid)
        if run.process.exit is None:  # otherwise it has ended since
            assert toy.files() == [row.run_id]

    def _check_over(self) -> None:
        """Without a supervision nothing lives, no file is left, and the row says so."""
        owner = self.toys.daemon.owner(self.toy_id)
        row = self.toys.enter(self.toy_id).row
        self.toys.toys.pop()
        assert row.state != "executing"
        assert (row.run_id, row.pid, row.unknown_since) == (None, None, None)
        assert self.toys.daemon.runtime.runs(owner) == []
        assert live_processes(self.toys.directory, owner) == []
        assert self.toy is None or self.toy.ended == 1

    async def finish(self) -> None:
        """The disk has space, a daemon runs, everything is stopped: the row is true."""
        await self.drain()
        await self.adopt()
        await self.settle()
        toy = self._supervised()
        if toy is not None:
            pid = toy.pid
            await toy.supervisor.stop(a_stop())
            assert not exists(pid)
            await until(lambda: toy.ended, "the end")
            self._check_over()
        self.toys.toys.clear()


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again every second is tried again at once."""
    for module in (state_writer, supervisor):
        monkeypatch.setattr(module, "_RETRY_S", 0.002)
    monkeypatch.setattr(adoption, "_LOOK_AGAIN_S", 0.002)
    monkeypatch.setattr(adoption, "_SETTLE_S", 0.02)  # on a full disk nothing is handled


def test_rows_are_true_of_the_processes_after_any_order_of_events(root: Path) -> None:
    numbers = itertools.count()

    with asyncio.Runner() as runner:
        context = toys_of(root)
        toys = runner.run(context.__aenter__())

        async def play(script: str, again: int, steps: list[str]) -> None:
            toys.store.full = False
            toy_id = str(next(numbers))
            await toys.insert(toy_id)
            played = Play(toys, toy_id, {"script": SCRIPTS[script], "again": again, "grace_ms": 50})
            for step in steps:
                await played.step(step)
            await played.finish()

        @settings(max_examples=150 * SOAK)
        @given(
            st.sampled_from(sorted(SCRIPTS)),
            st.integers(0, 2),
            st.lists(st.sampled_from(STEPS), max_size=14).map(lambda steps: ["begin", *steps]),
        )
        @example("nap", 1, ["begin", "settle", "fill", "exit", "turn", "stop", "turn", "daemon", "adopt"])
        @example("nap", 0, ["begin", "settle", "daemon", "exit", "shim", "adopt", "settle"])
        @example("leaves something", 2, ["begin", "settle", "stop", "kill", "begin", "settle"])
        def check(script: str, again: int, steps: list[str]) -> None:
            runner.run(play(script, again, steps))

        try:
            check()
        finally:
            runner.run(context.__aexit__(None, None, None))
