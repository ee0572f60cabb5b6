"""Stop means stopped: whatever a child started, and however it hides."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from pathlib import Path

import pytest
from support.raw import wait_until
from support.runtimes import alive, collect, joined, python, shell

from nexus.runtime import Process, Runtime

FORKER = """
import os, signal, sys, time
path, hide = sys.argv[1:3]
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
    signal.signal(number, signal.SIG_IGN)
def note():
    with open(path, "a") as file:
        file.write(f"{os.getpid()}\\n")
note()
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    # A session, a group and descriptors of its own, and no parent.
    os.closerange(0, 3)
    note()
    while hide == "hide":
        time.sleep(1)
    while True:
        # Each generation starts the next and ends.
        if os.fork():
            os._exit(0)
        if hide == "sessions":
            os.setsid()
        time.sleep(0.001)
print("up", flush=True)
while True:
    time.sleep(1)
"""


async def says(runtime: Runtime, word: bytes) -> None:
    async for piece in runtime.log("service-1").pieces(follow=True):
        if word in piece.data:
            return


def gone(process: Process, pids: list[int]) -> None:
    """The run is over: its shim, its child and everything else."""
    assert process.pids() == []
    assert not any(alive(pid) for pid in [process.pid, process.shim_pid, *pids])
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        assert int(fields[3]) != process.pid, path


@pytest.mark.parametrize("hide", ["hide", "forks", "sessions"])
def test_what_hides_ignores_signals_and_keeps_forking_ends_within_the_grace(
    runtime: Runtime, root: Path, hide: str
) -> None:
    notes = root / "pids"

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(FORKER, notes, hide))
        await says(runtime, b"up")
        await asyncio.to_thread(wait_until, lambda: notes.read_text().count("\n") == 2, "both run")
        pids = list(map(int, notes.read_text().split()))
        ended = await asyncio.wait_for(process.stop(grace_ms=100), 30)
        assert ended[:2] == ("signal", signal.SIGKILL)
        gone(process, pids)

    asyncio.run(scenario())


def test_what_a_child_leaves_behind_ends_after_it_with_nobody_asking(runtime: Runtime, root: Path) -> None:
    notes = root / "pids"
    script = f"""
        (setsid sh -c 'trap "echo asked >&2; exit 0" TERM; echo $$ >> {notes}; while :; do sleep 0.02; done' &)
        sh -c 'trap "" TERM; echo $$ >> {notes}; while :; do sleep 0.02; done' &
        while [ "$(wc -l < {notes})" != 2 ]; do sleep 0.02; done
        exit 5
    """
    notes.touch()

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell(script, stop_grace_ms=300))
        ended = await process.wait_exit()
        assert ended[:2] == ("exit", 5)
        assert await process.wait() == ended
        assert b"asked\n" in joined(await collect(runtime.log("service-1")), 2)
        gone(process, list(map(int, notes.read_text().split())))

    asyncio.run(scenario())


def test_the_whole_group_gets_the_signal_and_may_end_in_peace(runtime: Runtime) -> None:
    script = """
        sh -c 'trap "echo second; exit 0" USR1; echo up2; while :; do sleep 0.02; done' &
        trap 'echo first; wait; exit 7' USR1
        echo up1
        while :; do sleep 0.02; done
    """

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell(script, stop_signal=signal.SIGUSR1))
        await says(runtime, b"up1")
        await says(runtime, b"up2")
        assert (await process.stop())[:2] == ("exit", 7)
        lines = joined(await collect(runtime.log("service-1"))).splitlines()
        assert {b"first", b"second"} <= set(lines)

    asyncio.run(scenario())


def test_a_stop_is_asked_for_as_often_as_one_likes_and_may_be_cut_short(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done"
        process = await runtime.start("service-1", "run-1", shell(script))
        await says(runtime, b"up")
        slow = [asyncio.create_task(process.stop(grace_ms=600_000)) for _ in range(3)]
        await says(runtime, b"asked")
        slow[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow[0]
        assert process.exit is None
        ended = await asyncio.wait_for(process.stop(grace_ms=0), 30)
        assert ended[:2] == ("signal", signal.SIGKILL)
        assert await slow[1] == await slow[2] == ended
        assert joined(await collect(runtime.log("service-1"))).count(b"asked") == 1

    asyncio.run(scenario())


def test_what_is_suspended_can_be_stopped(runtime: Runtime) -> None:
    # Not a shell: while it starts something with vfork(2), it waits in a state of its own.
    source = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("up", flush=True)
while True:
    time.sleep(1)
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source))
        await says(runtime, b"up")
        process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        await asyncio.to_thread(wait_until, lambda: b") T " in stat.read_bytes(), "it is suspended")
        assert (await asyncio.wait_for(process.stop(), 30))[:2] == ("exit", 3)

    asyncio.run(scenario())


def test_a_suspended_shim_still_stops_its_child(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("echo up; exec sleep 1000"))
        await says(runtime, b"up")
        os.kill(process.shim_pid, signal.SIGSTOP)
        stat = Path(f"/proc/{process.shim_pid}/stat")
        await asyncio.to_thread(wait_until, lambda: b") T " in stat.read_bytes(), "it is suspended")
        assert (await asyncio.wait_for(process.stop(), 30))[:2] == ("signal", signal.SIGTERM)

    asyncio.run(scenario())


def test_what_runs_can_be_stopped_after_its_folder_was_deleted(runtime: Runtime, root: Path) -> None:
    async def scenario() -> None:
        path = root / "pids"
        process = await runtime.start("service-1", "run-1", python(FORKER, str(path), "hide"))
        await says(runtime, b"up")
        await asyncio.to_thread(wait_until, lambda: len(path.read_text().split()) == 2, "both have said their pids")
        (control,) = await asyncio.to_thread(lambda: list(root.glob("**/control")))
        await asyncio.to_thread(shutil.rmtree, control.parent.parent)
        await asyncio.wait_for(process.stop(grace_ms=100), 30)
        assert not any(alive(int(pid)) for pid in path.read_text().split())

    asyncio.run(scenario())


def test_a_signal_reaches_the_group(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "trap 'echo reloaded' HUP; echo up; while :; do sleep 0.02; done"
        process = await runtime.start("service-1", "run-1", shell(script))
        await says(runtime, b"up")
        process.send_signal(signal.SIGHUP)
        await says(runtime, b"reloaded")
        assert process.exit is None
        await process.stop()

    asyncio.run(scenario())


def test_a_stopped_one_is_wholly_counted_while_it_runs(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "sleep 1000 & (setsid sleep 1000 &) ; echo up; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; wait"
        process = await runtime.start("service-1", "run-1", shell(script))
        await asyncio.to_thread(wait_until, lambda: len(process.pids()) == 3, "all run")
        await asyncio.to_thread(wait_until, lambda: process.usage().cpu_ms > 0, "it took time")
        usage = process.usage()
        assert usage.processes == 3
        assert usage.rss_bytes > 100_000
        assert process.pids()[0] == process.pid
        await process.stop(signal.SIGKILL, 0)

    asyncio.run(scenario())
