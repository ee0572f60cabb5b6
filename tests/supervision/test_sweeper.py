"""The sweep: what no record knows is ended and deleted, all else is left as it is."""

from __future__ import annotations

import asyncio
import fcntl
import os
import uuid
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from nexus.runtime import Process, ProcessSpec, Runtime
from nexus.supervision.sweeper import Known, Sweeper


async def start(runtime: Runtime, owner: str) -> Process:
    """A run that ends only when it is stopped."""
    spec = ProcessSpec(argv=("/bin/sleep", "1000"), directory="/", environment={}, stop_grace_ms=0)
    return await runtime.start(owner, uuid.uuid4().hex, spec)


def swept(root: Path, scenario: Callable[[Runtime, Sweeper], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        runtime = Runtime(root / "processes", scopes=False)
        await scenario(runtime, Sweeper(runtime))

    asyncio.run(run())


def test_a_known_run_is_left_alone_and_an_unknown_one_is_ended_and_deleted(root: Path) -> None:
    async def scenario(runtime: Runtime, sweeper: Sweeper) -> None:
        # One owner has one run at a time, so the unknown one belongs to an owner whose record names another.
        known, unknown = await start(runtime, "thing-1"), await start(runtime, "thing-2")
        runs = {"1": Known(True, known.run_id), "2": Known(True, "another")}
        sweeper.register("thing-", lambda id_: runs[id_])
        await sweeper.sweep()
        assert known.exit is None
        assert (await unknown.wait()).kind == "signal"
        assert runtime.runs("thing-1") == [known.run_id]
        assert runtime.runs("thing-2") == []
        assert runtime.owners() == ["thing-1", "thing-2"], "the log of an owner with a record stays"
        await known.stop()

    swept(root, scenario)


def test_an_owner_without_a_record_is_deleted_with_its_log(root: Path) -> None:
    async def scenario(runtime: Runtime, sweeper: Sweeper) -> None:
        unknown = await start(runtime, "thing-1")
        sweeper.register("thing-", lambda _id: Known(False))
        await sweeper.sweep()
        await unknown.wait()
        assert runtime.owners() == []

    swept(root, scenario)


def test_owners_of_no_registered_kind_are_left_alone(root: Path) -> None:
    async def scenario(runtime: Runtime, sweeper: Sweeper) -> None:
        process = await start(runtime, "other-1")
        sweeper.register("thing-", lambda _id: Known(False))
        await sweeper.sweep()
        assert process.exit is None
        assert runtime.owners() == ["other-1"]
        await process.stop()

    swept(root, scenario)


def test_a_run_that_the_record_begins_during_the_sweep_stays(root: Path) -> None:
    async def scenario(runtime: Runtime, sweeper: Sweeper) -> None:
        process = await start(runtime, "thing-1")
        await process.stop()
        answers = iter([Known(True), Known(True), Known(True, process.run_id), Known(True, process.run_id)])
        sweeper.register("thing-", lambda _id: next(answers))
        await sweeper.sweep()
        assert runtime.runs("thing-1") == [process.run_id]

    swept(root, scenario)


def test_what_cannot_be_deleted_is_logged_and_the_sweep_goes_on(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(runtime: Runtime, sweeper: Sweeper) -> None:
        for owner in ("thing-1", "thing-2"):
            (runtime.directory / owner / "log").mkdir(parents=True)
        held = os.open(runtime.directory / "thing-1" / "log", os.O_RDONLY)
        fcntl.flock(held, fcntl.LOCK_EX)  # as a run of it that began meanwhile would
        sweeper.register("thing-", lambda _id: Known(False))
        await sweeper.sweep()
        os.close(held)
        assert runtime.owners() == ["thing-1"]

    swept(root, scenario)
    assert "cannot delete what is left of thing-1" in caplog.text
