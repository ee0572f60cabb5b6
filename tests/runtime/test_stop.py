"""A stop ends every process that a child started, however it hides."""

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
    # This process has its own session and group, no inherited descriptors, and its parent has exited.
    os.closerange(0, 3)
    note()
    while hide == "hide":
        time.sleep(1)
    while True:
        # Each process forks the next one and exits.
        if os.fork():
            os._exit(0)
        if hide == "sessions":
            os.setsid()
        time.sleep(0.001)
print("up", flush=True)
while True:
    time.sleep(1)
"""


async def wait_for_output(runtime: Runtime, word: bytes) -> None:
    async for piece in runtime.log("service-1").pieces(follow=True):
        if word in piece.data:
            return


def assert_all_ended(process: Process, pids: list[int]) -> None:
    """Assert that the shim, the child, these processes and everything in the child's session have ended."""
    assert process.pids() == []
    assert not any(alive(pid) for pid in [process.pid, process.shim_pid, *pids])
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_bytes().rpartition(b")")[2].split()
        except OSError:
            continue
        assert int(fields[3]) != process.pid, path


@pytest.mark.parametrize("hide", ["hide", "forks", "sessions"])
def test_stop_kills_processes_that_hide_ignore_signals_and_fork(runtime: Runtime, root: Path, hide: str) -> None:
    notes = root / "pids"

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(FORKER, notes, hide))
        await wait_for_output(runtime, b"up")
        await asyncio.to_thread(wait_until, lambda: notes.read_text().count("\n") == 2, "both pids")
        pids = list(map(int, notes.read_text().split()))
        ended = await asyncio.wait_for(process.stop(grace_ms=100), 30)
        assert ended[:2] == ("signal", signal.SIGKILL)
        assert_all_ended(process, pids)

    asyncio.run(scenario())


def test_descendants_are_stopped_after_the_child_exits_by_itself(runtime: Runtime, root: Path) -> None:
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
        assert_all_ended(process, list(map(int, notes.read_text().split())))

    asyncio.run(scenario())


def test_stop_signals_the_whole_group_and_waits_for_it(runtime: Runtime) -> None:
    script = """
        sh -c 'trap "echo second; exit 0" USR1; echo up2; while :; do sleep 0.02; done' &
        trap 'echo first; wait; exit 7' USR1
        echo up1
        while :; do sleep 0.02; done
    """

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell(script, stop_signal=signal.SIGUSR1))
        await wait_for_output(runtime, b"up1")
        await wait_for_output(runtime, b"up2")
        assert (await process.stop())[:2] == ("exit", 7)
        lines = joined(await collect(runtime.log("service-1"))).splitlines()
        assert {b"first", b"second"} <= set(lines)

    asyncio.run(scenario())


def test_stop_can_be_repeated_and_shortened(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "trap 'echo asked' TERM; echo up; while :; do sleep 0.02; done"
        process = await runtime.start("service-1", "run-1", shell(script))
        await wait_for_output(runtime, b"up")
        slow = [asyncio.create_task(process.stop(grace_ms=600_000)) for _ in range(3)]
        await wait_for_output(runtime, b"asked")
        slow[0].cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow[0]
        assert process.exit is None
        ended = await asyncio.wait_for(process.stop(grace_ms=0), 30)
        assert ended[:2] == ("signal", signal.SIGKILL)
        assert await slow[1] == await slow[2] == ended
        assert joined(await collect(runtime.log("service-1"))).count(b"asked") == 1

    asyncio.run(scenario())


def test_suspended_child_can_be_stopped(runtime: Runtime) -> None:
    # Not a shell: while a shell starts a program with vfork(2), it is in an uninterruptible state.
    source = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
print("up", flush=True)
while True:
    time.sleep(1)
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source))
        await wait_for_output(runtime, b"up")
        process.send_signal(signal.SIGSTOP)
        stat = Path(f"/proc/{process.pid}/stat")
        await asyncio.to_thread(wait_until, lambda: b") T " in stat.read_bytes(), "the suspension")
        assert (await asyncio.wait_for(process.stop(), 30))[:2] == ("exit", 3)

    asyncio.run(scenario())


def test_suspended_shim_still_stops_its_child(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("echo up; exec sleep 1000"))
        await wait_for_output(runtime, b"up")
        os.kill(process.shim_pid, signal.SIGSTOP)
        stat = Path(f"/proc/{process.shim_pid}/stat")
        await asyncio.to_thread(wait_until, lambda: b") T " in stat.read_bytes(), "the suspension")
        assert (await asyncio.wait_for(process.stop(), 30))[:2] == ("signal", signal.SIGTERM)

    asyncio.run(scenario())


def test_run_can_be_stopped_after_its_folder_was_deleted(runtime: Runtime, root: Path) -> None:
    async def scenario() -> None:
        path = root / "pids"
        process = await runtime.start("service-1", "run-1", python(FORKER, str(path), "hide"))
        await wait_for_output(runtime, b"up")
        await asyncio.to_thread(wait_until, lambda: len(path.read_text().split()) == 2, "both pids")
        (control,) = await asyncio.to_thread(lambda: list(root.glob("**/control")))
        await asyncio.to_thread(shutil.rmtree, control.parent.parent)
        await asyncio.wait_for(process.stop(grace_ms=100), 30)
        assert not any(alive(int(pid)) for pid in path.read_text().split())

    asyncio.run(scenario())


def test_send_signal_reaches_the_process_group(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "trap 'echo reloaded' HUP; echo up; while :; do sleep 0.02; done"
        process = await runtime.start("service-1", "run-1", shell(script))
        await wait_for_output(runtime, b"up")
        process.send_signal(signal.SIGHUP)
        await wait_for_output(runtime, b"reloaded")
        assert process.exit is None
        await process.stop()

    asyncio.run(scenario())


def test_usage_and_pids_cover_all_descendants(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "sleep 1000 & (setsid sleep 1000 &) ; echo up; i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; wait"
        process = await runtime.start("service-1", "run-1", shell(script))
        await asyncio.to_thread(wait_until, lambda: len(process.pids()) == 3, "three processes")
        await asyncio.to_thread(wait_until, lambda: process.usage().cpu_ms > 0, "some CPU time")
        usage = process.usage()
        assert usage.processes == 3
        assert usage.rss_bytes > 100_000
        assert process.pids()[0] == process.pid
        await process.stop(signal.SIGKILL, 0)

    asyncio.run(scenario())
