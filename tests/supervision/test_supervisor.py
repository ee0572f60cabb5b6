"""The supervisor with a toy driver: real processes and rows, and whatever may come in between."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

import pytest
from nexus_protocol import Internal
from support.runtimes import shell, shim_of
from support.supervised import (
    NAP,
    STUBBORN,
    WAIT_S,
    Toys,
    a_stop,
    delete_files,
    exists,
    live_processes,
    scenario,
    until,
)

from nexus.runtime import ProcessSpec
from nexus.store import DiskFull
from nexus.supervision import adoption, state_writer, supervisor
from nexus.supervision.driver import NotStarted, RunEnded, RunStopped


@pytest.fixture(autouse=True)
def fast_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is tried again every second is tried again at once."""
    monkeypatch.setattr(state_writer, "_RETRY_S", 0.01)
    monkeypatch.setattr(supervisor, "_RETRY_S", 0.01)
    monkeypatch.setattr(adoption, "_LOOK_AGAIN_S", 0.01)


# Start and exit


@pytest.mark.parametrize(
    ("script", "state", "reason"),
    [
        ("exit 0", "completed", "exited with 0"),
        ("exit 3", "failed", "exited with 3"),
        ("kill -9 $$", "failed", "killed by SIGKILL"),
    ],
)
def test_run_ends_by_itself(root: Path, script: str, state: str, reason: str) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script=script)
        toy.supervisor.begin()
        row = await toy.over()
        assert (row.state, row.reason, row.run_id, row.pid) == (state, reason, None, None)
        (end,) = toy.driver.ends
        assert isinstance(end, RunEnded)
        assert end.up_ms is not None
        assert end.operation.command == "process.exited"
        assert toy.files() == []
        assert toys.daemon.runtime.owners() == [toy.owner], "its log stays"

    scenario(root, play)


def test_run_costs_three_writes_and_one_task(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script=NAP)
        before, tasks = toys.store.writes, len(asyncio.all_tasks())
        await toy.begin()
        assert len(asyncio.all_tasks()) == tasks + 1
        os.kill(toy.pid, signal.SIGKILL)
        await toy.over()
        assert toys.store.writes == before + 3
        assert len(asyncio.all_tasks()) == tasks

    scenario(root, play)


def test_driver_lets_more_runs_follow(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script="exit 1", again=2)
        toy.supervisor.begin()
        row = await toy.over()
        assert (row.state, row.runs) == ("failed", 3)
        assert toy.files() == []

    scenario(root, play)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (shell("exit 0", directory="/nowhere"), "/nowhere"),
        (ProcessSpec(("no-such-program",), "/", {}), "no-such-program"),
    ],
    ids=["directory", "program"],
)
def test_start_that_fails_gets_a_verdict(root: Path, spec: ProcessSpec, words: str) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()
        toy.driver.spec = spec
        toy.supervisor.begin()
        row = await toy.over()
        assert row.state == "failed"
        assert words in (row.reason or "")
        assert toy.files() == []
        assert isinstance(toy.driver.ends[0], NotStarted)

    scenario(root, play)


def test_row_that_is_no_longer_queued_is_not_started(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()
        toy.driver.gate = asyncio.Event()
        toy.supervisor.begin()
        await until(lambda: "prepare" in toy.driver.calls, "the preparation")
        await toys.store.write(lambda tx: tx.execute("UPDATE toy SET state = 'stopped'"))
        toy.driver.gate.set()
        assert (await toy.over()).state == "stopped"
        assert toys.daemon.runtime.owners() == []

    scenario(root, play)


# Stops


def test_stop_during_the_preparation_starts_no_process(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()
        toy.driver.gate = asyncio.Event()
        toy.supervisor.begin()
        await until(lambda: "prepare" in toy.driver.calls, "the preparation")
        await toy.supervisor.stop(a_stop())
        assert (await toy.over()).state == "stopped"
        assert toys.daemon.runtime.owners() == []

    scenario(root, play)


def test_stop_while_the_row_is_written_starts_no_process(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()

        async def stop() -> None:
            toys.store.before_write = None
            toy.supervisor.request_stop(a_stop())

        toys.store.before_write = stop
        toy.supervisor.begin()
        row = await toy.over()
        assert (row.state, row.runs) == ("stopped", 1)
        assert toys.daemon.runtime.owners() == []
        (end,) = toy.driver.ends
        assert isinstance(end, RunStopped)
        assert end.exit is None

    scenario(root, play)


def test_stop_ends_the_process(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        await toy.supervisor.stop(a_stop())
        assert not exists(pid)
        row = await toy.over()
        assert (row.state, row.reason) == ("stopped", "stopped on demand")
        (end,) = toy.driver.ends
        assert isinstance(end, RunStopped)
        assert end.exit is not None
        assert (end.exit.kind, end.exit.code) == ("signal", signal.SIGTERM)

    scenario(root, play)


def test_second_stop_kills_at_once(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await (await toys.add(script=STUBBORN)).begin()).ready()
        first = asyncio.create_task(toy.supervisor.stop(a_stop()))
        await until(lambda: toy.row.reason == "stopping", "the first stop")
        await asyncio.wait_for(toy.supervisor.stop(a_stop("killed", grace_ms=0)), 9)
        await first
        assert (await toy.over()).reason == "killed"

    scenario(root, play)


def test_stop_may_kill_at_once(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await (await toys.add(script=STUBBORN)).begin()).ready()
        await asyncio.wait_for(toy.supervisor.stop(a_stop(grace_ms=0)), 9)
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


def test_stop_kills_what_an_ended_process_has_left_behind(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await (await toys.add(script=f"({STUBBORN}) & exec sleep 1000")).begin()).ready()
        os.kill(toy.pid, signal.SIGKILL)
        await until(lambda: toy.row.reason == "ending", "its end")
        await asyncio.wait_for(toy.supervisor.stop(a_stop(grace_ms=0)), 9)
        assert (await toy.over()).state == "stopped"
        assert live_processes(toys.directory, toy.owner) == []

    scenario(root, play)


def test_what_an_ended_process_has_left_behind_is_ended_first(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script="trap '' TERM; sleep 0.5 & exit 4")
        toy.supervisor.begin()
        assert (await toy.over()).reason == "exited with 4"
        assert toy.driver.calls == ["prepare", "watch", "ending", "verdict"]
        assert live_processes(toys.directory, toy.owner) == []

    scenario(root, play)


def test_stop_while_the_exit_is_written_is_carried_out_afterwards(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()

        async def stop() -> None:
            if toy.driver.calls[-1] == "verdict":
                toys.store.before_write = None
                toy.supervisor.request_stop(a_stop())

        toys.store.before_write = stop
        os.kill(toy.pid, signal.SIGKILL)
        assert (await toy.over()).state == "failed"
        assert toy.driver.calls[-2:] == ["verdict", "stop_at_rest"]

    scenario(root, play)


def test_stop_while_another_run_is_announced_prevents_it(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add(again=5)).begin()

        async def stop() -> None:
            if toy.driver.calls[-1] == "verdict":
                toys.store.before_write = None
                toy.supervisor.request_stop(a_stop())

        toys.store.before_write = stop
        os.kill(toy.pid, signal.SIGKILL)
        row = await toy.over()
        assert (row.state, row.runs) == ("stopped", 1)

    scenario(root, play)


def test_a_stop_of_the_daemons_own_does_not_replace_one_on_demand(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        toy.supervisor.request_stop(a_stop())
        toy.supervisor.request_stop(a_stop("timed out", on_demand=False))
        assert (await toy.over()).reason == "stopped on demand"

    scenario(root, play)


def test_daemon_that_ends_leaves_the_process_and_tells_no_end(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        await toys.kill_daemon()
        assert exists(pid)
        assert toy.ended == 0
        assert (toy.row.state, toy.row.pid) == ("executing", pid)
        await toys.adopt("1")

    scenario(root, play)


def test_end_of_the_loop_ends_the_task_and_tells_no_end(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        (task,) = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        task.cancel()
        await asyncio.wait_for(asyncio.wait([task]), WAIT_S)
        assert task.cancelled()
        assert toy.ended == 0
        await toys.next_daemon("1")

    scenario(root, play)


# A store that cannot be written


def test_start_on_a_full_disk_leaves_the_row(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()
        toys.store.full = True
        toy.supervisor.begin()
        row = await toy.over()
        assert (row.state, row.runs) == ("queued", 0)
        assert toys.daemon.runtime.owners() == []

    scenario(root, play)


def test_stop_on_a_full_disk_ends_the_process_and_is_written_later(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        toys.store.full = True
        with pytest.raises(DiskFull, match='cannot write that toy "1" has stopped'):
            await toy.supervisor.stop(a_stop())
        assert not exists(pid)
        assert not toy.supervisor.may_live
        assert (toy.row.state, toy.ended) == ("executing", 0)
        toys.store.full = False
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


def test_stop_reaches_a_run_whose_start_cannot_be_written(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()

        async def fill() -> None:
            toys.store.full = "watch" in toy.driver.calls

        toys.store.before_write = fill
        toy.supervisor.begin()
        await until(lambda: toy.writer.trouble is not None, "the write that is refused")
        pid = toy.pid
        with pytest.raises(DiskFull):
            await toy.supervisor.stop(a_stop())
        assert not exists(pid)
        toys.store.before_write, toys.store.full = None, False
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


def test_exit_on_a_full_disk_is_written_later_and_a_stop_meanwhile_is_answered(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        toys.store.full = True
        os.kill(toy.pid, signal.SIGKILL)
        await until(lambda: toy.writer.trouble is not None, "the write that is refused")
        with pytest.raises(DiskFull):
            await toy.supervisor.stop(a_stop())
        assert toy.ended == 0
        toys.store.full = False
        assert (await toy.over()).reason == "killed by SIGKILL"
        assert toy.writer.trouble is None

    scenario(root, play)


def test_strict_stop_on_a_full_disk_is_refused_and_the_run_goes_on(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        toys.store.full = True
        with pytest.raises(DiskFull):
            await toy.supervisor.stop(a_stop(strict=True))
        assert exists(pid)
        toys.store.full = False
        os.kill(pid, signal.SIGKILL)
        assert (await toy.over()).state == "failed"

    scenario(root, play)


# Adoption


def test_running_toys_are_adopted_together(root: Path) -> None:
    async def play(toys: Toys) -> None:
        names = [str(number) for number in range(40)]
        pids = {}
        for name in names:
            pids[name] = (await (await toys.add(name)).begin()).pid
        for toy in await toys.next_daemon(*names):
            assert toy.pid == pids[toy.id]
            assert toy.row.runs == 1
            toy.supervisor.request_stop(a_stop(grace_ms=0))
        for toy in toys.toys:
            await toy.over()
        assert not any(map(exists, pids.values()))

    scenario(root, play)


def test_run_that_ended_meanwhile_gets_its_verdict(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        await toys.kill_daemon()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: live_processes(toys.directory, toys.daemon.owner("1")) == [], "the end of the run")
        (toy,) = await toys.adopt("1")
        row = await toy.over()
        assert (row.state, row.reason) == ("failed", "killed by SIGKILL")
        (end,) = toy.driver.ends
        assert isinstance(end, RunEnded)
        assert end.up_ms is None
        assert toy.files() == []

    scenario(root, play)


@pytest.mark.parametrize("pid", [None, 1])
def test_run_without_a_trace_never_started_or_is_lost(root: Path, pid: int | None) -> None:
    async def play(toys: Toys) -> None:
        await toys.insert("1", "executing", run_id="never", pid=pid)
        (toy,) = await toys.adopt("1")
        row = await toy.over()
        assert row.state == ("queued" if pid is None else "failed")
        assert row.run_id is None

    scenario(root, play)


def test_stop_of_an_earlier_daemon_goes_on(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await (await toys.add(script=STUBBORN)).begin()).ready()
        toy.supervisor.request_stop(a_stop())
        await until(lambda: toy.row.reason == "stopping", "the stop")
        (toy,) = await toys.next_daemon("1")
        await toy.supervisor.stop(a_stop("killed", grace_ms=0))
        assert (await toy.over()).reason == "killed"

    scenario(root, play)


def damaged(toys: Toys) -> tuple[Path, bytes]:
    """Damage the status of a run; gives the file and what it held."""
    (path,) = toys.directory.glob("*/*/status")
    status = path.read_bytes()
    path.write_bytes(b"garbage")
    return path, status


def test_unknown_run_is_adopted_once_it_can_be_looked_at(root: Path) -> None:
    async def play(toys: Toys) -> None:
        pid = (await (await toys.add()).begin()).pid
        path, status = damaged(toys)
        (toy,) = await toys.next_daemon("1")
        await until(lambda: toy.row.unknown_since is not None, "the unknown run")
        since = toy.row.unknown_since
        assert toy.supervisor.unknown is not None
        assert toy.supervisor.may_live
        # The next daemon cannot look either: since when stays.
        (toy,) = await toys.next_daemon("1")
        await until(lambda: toy.supervisor.unknown is not None, "the look")
        await asyncio.sleep(0.05)
        assert (toy.row.state, toy.row.unknown_since) == ("executing", since)
        path.write_bytes(status)
        await toy.settled()
        assert (toy.pid, toy.row.runs, toy.row.unknown_since) == (pid, 1, None)

    scenario(root, play)


def test_next_daemon_that_can_look_unsets_unknown_since(root: Path) -> None:
    async def play(toys: Toys) -> None:
        await (await toys.add()).begin()
        path, status = damaged(toys)
        (toy,) = await toys.next_daemon("1")
        await until(lambda: toy.row.unknown_since is not None, "the unknown run")
        path.write_bytes(status)
        (toy,) = await toys.next_daemon("1")
        await toy.settled()
        assert toy.row.unknown_since is None

    scenario(root, play)


def test_unknown_run_can_be_stopped(root: Path) -> None:
    async def play(toys: Toys) -> None:
        pid = (await (await toys.add()).begin()).pid
        damaged(toys)
        (toy,) = await toys.next_daemon("1")
        await until(lambda: toy.row.unknown_since is not None, "the unknown run")
        await toy.supervisor.stop(a_stop())
        assert not exists(pid)
        row = await toy.over()
        assert (row.state, row.unknown_since) == ("stopped", None)

    scenario(root, play)


@pytest.mark.parametrize("stopped", [False, True])
def test_orphans_are_ended_also_on_a_full_disk(root: Path, stopped: bool) -> None:
    async def play(toys: Toys) -> None:
        pid = (await (await toys.add()).begin()).pid
        delete_files(toys.directory, toys.daemon.owner("1"))
        await toys.kill_daemon()
        (found,) = await toys.found("1")
        toys.store.full = True
        toy = toys.enter("1")
        toy.supervisor.resume(found, run_id=toy.row.run_id, was_unknown=stopped)
        if stopped:
            toy.supervisor.request_stop(a_stop())
        await until(lambda: not exists(pid), "the end of the process")
        toys.store.full = False
        row = await toy.over()
        assert row.reason == ("stopped on demand" if stopped else supervisor.ORPHANS_ENDED)
        assert live_processes(toys.directory, toys.daemon.owner("1")) == []

    scenario(root, play)


def test_shim_that_is_killed_leaves_a_true_row(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        (status,) = toys.directory.glob("*/*/status")
        os.kill(shim_of(status.parent), signal.SIGKILL)
        assert (await toy.over()).state == "failed"
        assert not exists(pid)

    scenario(root, play)


# Bugs

BUG = KeyError("a bug")
FAULTS = pytest.mark.parametrize("fault", [BUG, asyncio.CancelledError()], ids=["error", "cancelled"])


@FAULTS
@pytest.mark.parametrize("method", ["prepare", "verdict"])
def test_bug_without_a_process_ends_the_supervision(root: Path, method: str, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script="exit 0")
        toy.driver.faults[method] = fault
        waiting = asyncio.create_task(toy.outcome())
        await asyncio.sleep(0)
        toy.supervisor.begin()
        row = await toy.over()
        assert isinstance(await waiting, Internal)
        assert (row.state, row.run_id) == ("failed", None)
        assert f'cannot go on with toy "1": {type(fault).__name__}' == row.reason
        assert live_processes(toys.directory, toy.owner) == []

    scenario(root, play)


@FAULTS
def test_bug_in_the_watch_leaves_the_process_and_is_tried_again(root: Path, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()
        toy.driver.faults["watch"] = fault
        waiting = asyncio.create_task(toy.outcome())
        await asyncio.sleep(0)
        await toy.begin()
        assert isinstance(await waiting, Internal)
        assert toy.driver.calls.count("watch") == 2
        await toy.supervisor.stop(a_stop())
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


@pytest.mark.parametrize("stopped", [False, True])
def test_watch_that_always_fails_hides_no_end_and_no_stop(root: Path, stopped: bool) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add()

        async def watch(_run: object) -> None:
            raise BUG

        toy.driver.watch = watch  # type: ignore[assignment,method-assign]
        toy.supervisor.begin()
        await until(lambda: toy.supervisor.run is not None, "the process")
        if stopped:
            await toy.supervisor.stop(a_stop())
        else:
            os.kill(toy.pid, signal.SIGKILL)
        assert (await toy.over()).state == ("stopped" if stopped else "failed")

    scenario(root, play)


@FAULTS
def test_bug_in_the_admission_of_a_stop_does_not_keep_it_from_ending_the_process(
    root: Path, fault: BaseException
) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        pid = toy.pid
        toy.driver.faults["ending"] = fault
        await toy.supervisor.stop(a_stop())
        assert not exists(pid)
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


def test_bug_in_the_admission_of_a_strict_stop_refuses_it(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        toy.driver.faults["ending"] = BUG
        with pytest.raises(Internal):
            await toy.supervisor.stop(a_stop(strict=True))
        await toy.supervisor.stop(a_stop(strict=True))
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


@FAULTS
def test_bug_while_leftovers_are_ended_hides_no_exit(root: Path, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script="trap '' TERM; sleep 0.3 & exit 5")
        toy.driver.faults["ending"] = fault
        toy.supervisor.begin()
        assert (await toy.over()).reason == "exited with 5"
        assert "ending" in toy.driver.calls

    scenario(root, play)


@FAULTS
def test_bug_in_the_late_stop_ends_the_supervision(root: Path, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()
        toy.driver.faults["stop_at_rest"] = fault

        async def stop() -> None:
            if toy.driver.calls[-1] == "verdict":
                toy.supervisor.request_stop(a_stop())

        toys.store.before_write = stop
        os.kill(toy.pid, signal.SIGKILL)
        assert (await toy.over()).state == "failed"

    scenario(root, play)


@FAULTS
def test_bug_upon_a_bug_still_ends_the_supervision(root: Path, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        toy = await toys.add(script="exit 0")
        toy.driver.faults |= {"verdict": fault, "give_up": fault}
        toy.writer.name_fails = True
        toy.supervisor.begin()
        await toy.over()

    scenario(root, play)


def test_bug_in_the_callback_of_the_end_leaves_no_stop_waiting(root: Path) -> None:
    async def play(toys: Toys) -> None:
        toy = await (await toys.add()).begin()

        def fail() -> None:
            raise BUG

        toy.supervisor._ended = fail
        await asyncio.wait_for(toy.supervisor.stop(a_stop()), WAIT_S)
        assert toy.supervisor.over

    scenario(root, play)


@FAULTS
def test_bug_in_resume_ends_no_process_and_starts_no_second_one(root: Path, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        pid = (await (await toys.add()).begin()).pid
        await toys.kill_daemon()
        (found,) = await toys.found("1")
        toy = toys.enter("1")
        toy.driver.faults["resume"] = fault
        toy.supervisor.resume(found, run_id=toy.row.run_id)
        await toy.settled()
        assert (toy.pid, toy.row.runs) == (pid, 1)
        await toy.supervisor.stop(a_stop())
        assert (await toy.over()).state == "stopped"

    scenario(root, play)


def test_bug_in_resume_without_a_process_ends_the_supervision(root: Path) -> None:
    async def play(toys: Toys) -> None:
        pid = (await (await toys.add()).begin()).pid
        await toys.kill_daemon()
        os.kill(pid, signal.SIGKILL)
        await until(lambda: live_processes(toys.directory, toys.daemon.owner("1")) == [], "the end of the run")
        (found,) = await toys.found("1")
        toy = toys.enter("1")
        toy.driver.faults["resume"] = BUG
        toy.supervisor.resume(found, run_id=toy.row.run_id)
        assert (await toy.over()).state == "failed"

    scenario(root, play)


@FAULTS
def test_bug_while_orphans_are_ended_ends_them_all_the_same(root: Path, fault: BaseException) -> None:
    async def play(toys: Toys) -> None:
        pid = (await (await toys.add()).begin()).pid
        delete_files(toys.directory, toys.daemon.owner("1"))
        await toys.kill_daemon()
        (found,) = await toys.found("1")
        toy = toys.enter("1")
        toy.driver.faults |= {"ending": fault, "stop_ladder": fault, "resume": fault}
        toy.supervisor.resume(found, run_id=toy.row.run_id)
        assert (await toy.over()).reason == supervisor.ORPHANS_ENDED
        assert not exists(pid)

    scenario(root, play)
