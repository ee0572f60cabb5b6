"""Exits are known when the run was watched, unwatched, and after its shim was killed or the machine rebooted."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import fcntl
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.raw import wait_until
from support.runtimes import alive, collect, joined, python, shell, shim_of

from nexus.runtime import Exit, Process, RunHeld, Runtime, members
from nexus.runtime.members import strings_of
from nexus.runtime.status import STATUS_BYTES, boot_id, is_locked, process_start, read_status
from nexus.runtime.tree import all_processes

DAEMON = """
import asyncio, sys
from pathlib import Path
from nexus.runtime import Runtime
from support.runtimes import shell

async def main():
    runtime = Runtime(Path(sys.argv[1]), scopes=False)
    for number, script in enumerate(sys.argv[3:]):
        await runtime.start(f"service-{number}", sys.argv[2], shell(script))
    print("started", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@contextlib.contextmanager
def daemon(directory: Path, *scripts: str, run_id: str = "run-1"):  # type: ignore[no-untyped-def]
    """A process that has started the scripts and that the test may kill."""
    process = subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(directory), run_id, *scripts],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "started\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize(
    ("script", "kind", "code"),
    [
        ("exit 0", "exit", 0),
        ("exit 3", "exit", 3),
        ("exit 143", "exit", 143),
        ("kill -TERM $$", "signal", signal.SIGTERM),
        ("kill -KILL $$", "signal", signal.SIGKILL),
        ("exec kill -USR1 $$", "signal", signal.SIGUSR1),
    ],
)
def test_exit_code_and_signal_are_distinguished(runtime: Runtime, script: str, kind: str, code: int) -> None:
    async def scenario() -> None:
        before = time.time_ns() // 1_000_000
        process = await runtime.start("service-1", "run-1", shell(script))
        assert process.run_id == "run-1"
        ended = await process.wait_exit()
        assert (ended.kind, ended.code) == (kind, code)
        assert before - 5 <= process.started_at <= ended.at <= time.time_ns() // 1_000_000 + 5
        assert await process.wait() == ended == process.exit
        assert process.pids() == []
        assert process.usage() == (0, 0, 0)
        assert await process.stop() == ended
        process.send_signal(signal.SIGTERM)
        assert await runtime.adopt("service-1", "run-1") == ended
        assert not alive(process.shim_pid)

    asyncio.run(scenario())


def test_exit_is_told_once_and_at_once_where_it_is_known(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("exit 3"))
        told: list[tuple[str, Exit | None]] = []
        process.on_exit(lambda: told.append(("replaced", process.exit)))
        process.on_exit(lambda: told.append(("first", process.exit)))
        ended = await process.wait()
        assert told == [("first", ended)]
        process.on_exit(lambda: told.append(("late", process.exit)))
        assert told[1:] == [("late", ended)]

        closed = await runtime.start("service-1", "run-2", shell("exec sleep 1000"))
        closed.on_exit(lambda: told.append(("closed", None)))
        closed.close()
        os.kill(closed.pid, signal.SIGKILL)
        wait_until(lambda: not alive(closed.shim_pid), "the end of the shim")
        await asyncio.sleep(0)
        assert len(told) == 2

    asyncio.run(scenario())


def test_children_outlive_a_killed_daemon_and_the_next_one_adopts_them_or_gets_their_exits(
    runtime: Runtime, root: Path
) -> None:
    go = root / "go"
    wait_for_it = f"while [ ! -e {go} ]; do sleep 0.02; done"
    scripts = (
        f"echo before; {wait_for_it}; echo after; exec sleep 1000",
        f"{wait_for_it}; echo bye; exit 0",
        f"{wait_for_it}; exit 3",
        f"{wait_for_it}; kill -KILL $$",
    )
    with daemon(runtime.directory, *scripts) as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    pids = [read_status(runtime.directory / f"service-{number}" / "run-1" / "status") for number in range(4)]
    go.touch()
    locks = [runtime.directory / f"service-{number}" / "run-1" / "lock" for number in range(1, 4)]
    wait_until(lambda: not any(map(is_locked, locks)), "three runs to end")

    async def scenario() -> None:
        ends = [await runtime.adopt(f"service-{number}", "run-1") for number in range(1, 4)]
        assert all(isinstance(end, Exit) for end in ends)
        assert [end[:2] for end in ends if isinstance(end, Exit)] == [("exit", 0), ("exit", 3), ("signal", 9)]
        assert runtime.log("service-1").tail(1) == [b"bye"]
        process = await runtime.adopt("service-0", "run-1")
        assert isinstance(process, Process)
        assert pids[0] is not None
        assert pids[0].run is not None
        assert process.pid == pids[0].run.pid
        assert process.exit is None
        await asyncio.to_thread(
            wait_until, lambda: runtime.log("service-0").tail(5) == [b"before", b"after"], "more output"
        )
        assert process.pid in process.pids()
        assert process.usage().rss_bytes > 0
        assert (await process.stop()).code == signal.SIGTERM
        assert not alive(process.pid)

    asyncio.run(scenario())


def test_stop_completes_when_the_daemon_dies_during_it(runtime: Runtime) -> None:
    source = """
import asyncio, sys
from pathlib import Path
from nexus.runtime import Runtime
from support.runtimes import shell

async def main():
    runtime = Runtime(Path(sys.argv[1]), scopes=False)
    process = await runtime.start("service-1", "run-1", shell("trap '' TERM; echo up; while :; do sleep 0.02; done"))
    async for piece in runtime.log("service-1").pieces(follow=True):
        break
    asyncio.create_task(process.stop(grace_ms=300))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    import os
    os._exit(9)

asyncio.run(main())
"""
    done = subprocess.run(
        [sys.executable, "-c", source, str(runtime.directory)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
        timeout=60,
    )
    assert done.returncode == 9
    wait_until(lambda: not is_locked(runtime.directory / "service-1" / "run-1" / "lock"), "the run to be stopped")

    async def scenario() -> None:
        ended = await runtime.adopt("service-1", "run-1")
        assert isinstance(ended, Exit)
        assert ended[:2] == ("signal", signal.SIGKILL)

    asyncio.run(scenario())


def test_close_leaves_the_process_running_and_it_can_be_adopted_twice(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("sleep 1000"))
        process.close()
        process.close()
        assert alive(process.pid)
        again = await runtime.adopt("service-1", "run-1")
        twice = await runtime.adopt("service-1", "run-1")
        assert isinstance(again, Process)
        assert isinstance(twice, Process)
        assert again.pid == process.pid
        ended = await again.stop()
        assert await twice.wait() == ended

    asyncio.run(scenario())


def test_killed_shim_leaves_no_process_and_the_exit_is_lost(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "(trap '' TERM HUP; sleep 1000) & sleep 1000 & exec sleep 1000"
        process = await runtime.start("service-1", "run-1", shell(script))
        await asyncio.to_thread(wait_until, lambda: len(process.pids()) >= 3, "three processes")
        pids = process.pids()
        os.kill(process.shim_pid, signal.SIGKILL)
        ended = await process.wait()
        assert ended.kind == "lost"
        assert "supervisor" in ended.reason
        assert process.exit == ended
        for pid in pids:
            await asyncio.to_thread(wait_until, lambda pid=pid: not alive(pid), "the end of each process")
        later = await runtime.adopt("service-1", "run-1")
        assert isinstance(later, Exit)
        assert later.kind == "lost"
        after = await runtime.start("service-1", "run-2", shell("echo again"))
        assert (await after.wait()).code == 0

    asyncio.run(scenario())


WORKERS = {
    "setsid": "setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &",
    "double fork": "(setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' >/dev/null 2>&1 &) &",
    "cleared": "(setsid env -i /bin/sh -c 'echo $$ >> {pids}; exec sleep 1000' &) &",
    "child of one found": "(setsid sh -c 'env -i setsid /bin/sh -c \"echo \\$\\$ >> {pids}; exec sleep 1000\" & wait' "
    "</dev/null >/dev/null 2>&1 &) &",
    "restarts itself": '(setsid sh -c \'trap "" TERM HUP; while :; do setsid sh -c "echo \\$\\$ >> {pids}; '
    "exec sleep 1000\"; done' >/dev/null 2>&1 &) &",
}
"""Programs that leave the session of the run in different ways, and write their pids.

The run ids of these tests are unique, since a run's processes are found by its id on the whole machine.
"""


def worker_script(worker: str, pids: Path) -> str:
    return f"{WORKERS[worker].format(pids=pids)} while [ ! -s {pids} ]; do sleep 0.01; done; exec sleep 1000"


def pids_in(pids: Path) -> list[int]:
    return [int(text) for text in pids.read_text().split()] if pids.exists() else []


@pytest.mark.parametrize("worker", WORKERS)
def test_killed_shim_leaves_no_process_outside_of_the_session(runtime: Runtime, root: Path, worker: str) -> None:
    pids, run_id = root / "pids", root.name

    async def scenario() -> None:
        spec = shell(worker_script(worker, pids))
        spec = dataclasses.replace(spec, environment={**spec.environment, "NEXUS_RUN_ID": run_id})
        process = await runtime.start("service-1", run_id, spec)
        await asyncio.to_thread(wait_until, lambda: pids_in(pids), "the worker")
        os.kill(process.shim_pid, signal.SIGKILL)
        assert (await process.wait()).kind == "lost"
        assert not any(map(alive, [process.pid, *pids_in(pids)]))

    asyncio.run(scenario())


@pytest.mark.parametrize("worker", WORKERS)
def test_adopt_ends_every_process_of_a_run_whose_shim_was_killed_unwatched(
    runtime: Runtime, root: Path, worker: str
) -> None:
    pids, run_id = root / "pids", root.name
    script = f"export NEXUS_RUN_ID={run_id}; {worker_script(worker, pids)}"
    with daemon(runtime.directory, script, run_id=run_id) as first:
        wait_until(lambda: pids_in(pids), "the worker")
        first.send_signal(signal.SIGKILL)
        first.wait()
    os.kill(shim_of(runtime.directory / "service-0" / run_id), signal.SIGKILL)
    wait_until(lambda: not is_locked(runtime.directory / "service-0" / run_id / "lock"), "the end of the shim")

    async def scenario() -> None:
        ended = await runtime.adopt("service-0", run_id)
        assert isinstance(ended, Exit)
        assert ended.kind == "lost"

    asyncio.run(scenario())
    assert not any(map(alive, pids_in(pids)))


def test_chain_of_forks_ends_with_a_killed_shim(runtime: Runtime, root: Path) -> None:
    source = """
import os, sys, time
if not os.fork():
    until = time.monotonic() + 20  # a chain that outlived a failed or interrupted test would load the machine for ever
    while time.monotonic() < until:
        if os.fork():
            os._exit(0)
    os._exit(0)
open(sys.argv[1], "w").close()
os.execvp("sleep", ["sleep", "1000"])
"""
    begun = root / "begun"

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source, begun))
        await asyncio.to_thread(wait_until, begun.exists, "the chain")
        os.kill(process.shim_pid, signal.SIGKILL)
        await process.wait()

    asyncio.run(scenario())
    assert [pid for pid, _fields in all_processes() if os.fsencode(begun) in strings_of(pid, "cmdline")] == []


def test_what_is_older_than_a_run_is_not_ended_though_it_looks_like_it(
    runtime: Runtime, root: Path, unrelated_process: subprocess.Popen[bytes]
) -> None:
    """As a service manager that holds a pipe of the run, or a shell with the run id of an outer Nexus."""
    run_id = root.name
    older = subprocess.Popen(["sleep", "1000"], env={**os.environ, "NEXUS_RUN_ID": run_id})
    started = process_start(older.pid)
    assert started is not None

    async def scenario() -> None:
        # The start of a process is known in clock ticks.
        await asyncio.to_thread(wait_until, lambda: ticks() > started, "the next clock tick")
        process = await runtime.start("service-1", run_id, shell("exec sleep 1000"))
        os.kill(process.shim_pid, signal.SIGKILL)
        await process.wait()

    try:
        asyncio.run(scenario())
        assert older.poll() is None
        assert unrelated_process.poll() is None
    finally:
        older.kill()
        older.wait()


def ticks() -> int:
    """The clock ticks since the boot."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def test_adopt_kills_the_session_of_a_shim_that_was_killed_unwatched(runtime: Runtime) -> None:
    with daemon(runtime.directory, "sleep 1000 & exec sleep 1000") as first:
        first.send_signal(signal.SIGKILL)
        first.wait()
    folder = runtime.directory / "service-0" / "run-1"
    status = read_status(folder / "status")
    assert status is not None
    assert status.run is not None
    record = status.run
    left: list[int] = []

    def members() -> list[int]:
        found = []
        for pid in [int(path.name) for path in Path("/proc").glob("[0-9]*")]:
            with contextlib.suppress(OSError):
                if os.getsid(pid) == record.pid and alive(pid):
                    found.append(pid)
        return found

    wait_until(lambda: len(members()) == 2, "both processes")
    left = members()
    os.kill(shim_of(folder), signal.SIGKILL)
    wait_until(lambda: not alive(record.pid), "the end of the main process")

    async def scenario() -> None:
        ended = await runtime.adopt("service-0", "run-1")
        assert isinstance(ended, Exit)
        assert ended.kind == "lost"

    asyncio.run(scenario())
    assert not any(alive(pid) for pid in left)


@pytest.fixture
def unrelated_process():  # type: ignore[no-untyped-def]
    """A process that belongs to no run."""
    process = subprocess.Popen(["sleep", "1000"], start_new_session=True)
    yield process
    assert process.poll() is None, "an unrelated process was killed"
    process.kill()
    process.wait()


def write_run_files(folder: Path, boot: str, pid: int, start: int) -> None:
    folder.mkdir(parents=True)
    (folder / "lock").touch()
    os.mkfifo(folder / "control")
    text = f"run 1 {boot} {pid} {start} 1000 {pid} {start} 0 0 0 1 1".ljust(255) + "\n"
    (folder / "status").write_text(text.ljust(STATUS_BYTES))


@pytest.mark.parametrize("locked", [False, True], ids=["unlocked", "locked"])
@pytest.mark.parametrize("reused", ["start", "boot"])
def test_reused_pid_is_neither_adopted_nor_signalled(
    runtime: Runtime,
    unrelated_process: subprocess.Popen[bytes],
    locked: bool,
    reused: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("nexus.runtime.runtime._MAX_POLLS", 3)
    start = process_start(unrelated_process.pid)
    assert start is not None
    folder = runtime.directory / "service-1" / "run-1"
    if reused == "start":
        write_run_files(folder, boot_id(), unrelated_process.pid, start - 1)
    else:
        write_run_files(folder, "another-boot", unrelated_process.pid, start)
    lock = os.open(folder / "lock", os.O_RDWR)
    if locked:
        fcntl.flock(lock, fcntl.LOCK_EX)

    async def scenario() -> None:
        ended = await runtime.adopt("service-1", "run-1")
        assert isinstance(ended, Exit)
        assert ended.kind == "lost"
        if not locked:
            assert ("restarted" if reused == "boot" else "supervisor") in ended.reason

    try:
        asyncio.run(scenario())
    finally:
        os.close(lock)
    assert unrelated_process.poll() is None


def test_exit_recorded_before_a_reboot_is_known_after_it(runtime: Runtime) -> None:
    folder = runtime.directory / "service-1" / "run-1"
    write_run_files(folder, "another-boot", 1, 1)
    with (folder / "status").open("r+b") as file:
        file.seek(256)
        file.write(b"exit 7 0 12345".ljust(127) + b"\n")

    async def scenario() -> None:
        assert await runtime.adopt("service-1", "run-1") == Exit("exit", 7, False, 12345)

    asyncio.run(scenario())


def test_adopt_returns_none_for_a_run_that_never_started(runtime: Runtime) -> None:
    async def scenario() -> None:
        assert await runtime.adopt("service-1", "run-1") is None
        folder = runtime.directory / "service-1" / "run-2"
        folder.mkdir(parents=True)
        assert await runtime.adopt("service-1", "run-2") is None
        (folder / "lock").touch()
        (folder / "status").write_bytes(b" " * STATUS_BYTES)
        assert await runtime.adopt("service-1", "run-2") is None

    asyncio.run(scenario())


def test_malformed_status_file_has_no_run_record(root: Path) -> None:
    path = root / "status"
    for junk in (b"", b"\xff" * STATUS_BYTES, b"run 1 x y", b"run 1".ljust(256) + b"exit", b"exit 1 " * 100):
        path.write_bytes(junk)
        status = read_status(path)
        assert status is not None
        assert status.run is None


def test_forget_and_remove_are_refused_while_the_run_is_running(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("echo hello; exec sleep 1000"))
        with pytest.raises(RunHeld):
            runtime.forget("service-1", "run-1")
        with pytest.raises(RunHeld):
            await runtime.remove("service-1")
        await asyncio.to_thread(wait_until, lambda: runtime.log("service-1").tail(1) == [b"hello"], "the output")
        await process.stop()
        runtime.forget("service-1", "run-1")
        runtime.forget("service-1", "run-1")
        assert await runtime.adopt("service-1", "run-1") is None
        assert joined(await collect(runtime.log("service-1"))) == b"hello\n"
        await runtime.remove("service-1")
        await runtime.remove("service-1")
        assert list(runtime.directory.iterdir()) == []
        assert await collect(runtime.log("service-1")) == []

    asyncio.run(scenario())


def test_many_concurrent_short_runs_report_their_exit_codes(runtime: Runtime) -> None:
    async def one(number: int) -> int:
        process = await runtime.start(f"service-{number}", "run-1", shell(f"exit {number}"))
        return (await process.wait()).code

    async def scenario() -> None:
        assert await asyncio.gather(*map(one, range(20))) == list(range(20))

    asyncio.run(scenario())


def test_core_dump_is_reported_if_one_was_written(runtime: Runtime) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    source = "import os, resource, signal; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); os.kill(os.getpid(), 6)"

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source))
        ended = await process.wait()
        assert ended[:2] == ("signal", signal.SIGABRT)
        # With a limit of 0, a core dump is made only if core_pattern pipes it to a program.
        assert ended.core is False or pattern.startswith("|")

    asyncio.run(scenario())


def test_importing_the_runtime_does_not_import_ctypes_or_sqlite3() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, nexus.runtime; print('ctypes' in sys.modules, 'sqlite3' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("spare", range(3))
def test_process_that_cannot_be_looked_at_does_not_count_as_ended(root: Path, spare: int) -> None:
    process = subprocess.Popen(["sleep", "1000"], env={**os.environ, "NEXUS_RUN_ID": root.name})
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = {int(entry.name) for entry in Path("/proc/self/fd").iterdir()}
    free = [number for number in range(256) if number not in used]
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[spare], hard))
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(members, "_LONGEST_S", 0.2)
            ended = members.end_members(members.has_run_id(root.name))
    except OSError:
        ended = False
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    still_alive = alive(process.pid)
    assert members.end_members(members.has_run_id(root.name))
    process.wait()
    assert not (ended and still_alive)


def test_process_that_is_dying_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was killed has no environment any more before it is a zombie."""
    pid, start = 4_000_000, 77
    states = iter([b"S", b"R", b"R", b"R", b"R", b"Z"])
    looked: list[bytes] = []

    def processes() -> list[tuple[int, list[bytes]]]:
        looked.append(next(states, b"Z"))
        return [(pid, [looked[-1], b"1", b"%d" % pid, *[b"0"] * 16, b"%d" % start])]

    monkeypatch.setattr(members, "all_processes", processes)
    monkeypatch.setattr(members, "_kill", lambda *_args: True)
    assert members.end_members(lambda _pid, fields: fields[0] == b"S")
    assert looked == [b"S", b"R", b"R", b"R", b"R", b"Z", b"Z"]
