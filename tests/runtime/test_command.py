"""Short-lived child programs: their output, deadline, signals and descriptors, and that nothing is left of them.

Each test runs with the native and with the Python shim.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.raw import wait_until
from support.runtimes import alive, children

from nexus.runtime.command import ChildProcess, CommandResult, OutputPipe, run_command
from nexus.runtime.inheritance import DESCRIPTORS, UMASK
from nexus.runtime.members import end_left_behind, pid_namespace
from nexus.runtime.procfs import process_exists


@pytest.fixture(autouse=True)
def no_leaks(shim: str) -> Iterator[None]:
    """No test leaves a descriptor or a child of this process, not even a zombie."""
    before = descriptors(), children()
    yield
    assert (descriptors(), children()) == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def run(work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
    return asyncio.run(work())


def run_shell(script: str, timeout_s: float = 60, output_bytes: int = 4096) -> CommandResult:
    return asyncio.run(
        run_command(
            ("/bin/sh", "-c", script),
            directory="/",
            environment=os.environ,
            timeout_s=timeout_s,
            output_bytes=output_bytes,
        )
    )


def start(script: str, received: bytearray, **options: Any) -> tuple[ChildProcess, OutputPipe]:
    """A shell whose standard output and standard error share one pipe."""
    pipe = OutputPipe(received.extend)
    child = ChildProcess(
        ("/bin/sh", "-c", script), directory="/", environment=os.environ, stdout=pipe, stderr=pipe, **options
    )
    return child, pipe


def is_running(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


# run_command


@pytest.mark.parametrize(
    ("script", "code", "output"),
    [
        ("echo out; echo err >&2", 0, b"out\nerr\n"),
        ("exit 7", 7, b""),
        ("kill -9 $$", -9, b""),
    ],
)
def test_run_command_gives_exit_code_and_output(script: str, code: int, output: bytes) -> None:
    assert run_shell(script) == (code, output)


def test_run_command_keeps_only_the_last_bytes_of_output() -> None:
    assert run_shell("seq 1 100000", output_bytes=12) == (0, b"9999\n100000\n")


def test_run_command_leads_a_session_without_input() -> None:
    result = run_shell("read line; echo $?; cut -d ' ' -f 1,5,6 /proc/$$/stat")
    status, numbers = result.output.decode().splitlines()
    assert status == "1"
    pid, group, session = numbers.split()
    assert pid == group == session
    assert session != str(os.getsid(0))


def test_run_command_kills_the_group_at_the_deadline(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    result = run_shell(f"trap '' TERM; sleep 1000 & echo $$ $! > {pids}; echo begun; wait", timeout_s=0.5)
    assert result == (None, b"begun\n")
    assert not any(is_running(int(pid)) for pid in pids.read_text().split())


def test_run_command_kills_what_the_program_left_running(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert run_shell(f"sleep 1000 & echo $! > {pid}").code == 0
    assert not is_running(int(pid.read_text()))


def test_run_command_does_not_wait_for_a_pipe_that_another_session_keeps_open(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid}; exec sleep 1000' & while [ ! -s {pid} ]; do sleep 0.01; done; echo done"
    assert run_shell(script) == (0, b"done\n")
    assert not is_running(int(pid.read_text()))


@pytest.mark.parametrize("cancels", [1, 3])
def test_run_command_cancelled_kills_the_group_and_leaves_no_zombie(tmp_path: Path, cancels: int) -> None:
    pids = tmp_path / "pids"

    async def work() -> None:
        command = ("/bin/sh", "-c", f"sleep 1000 & echo $$ $! > {pids}; wait")
        task = asyncio.ensure_future(
            run_command(command, directory="/", environment=os.environ, timeout_s=60, output_bytes=10)
        )
        await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text(), "the program")
        for _ in range(cancels):
            task.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await task
        leader = int(pids.read_text().split()[0])
        await asyncio.to_thread(wait_until, lambda: not process_exists(leader), "the reaping of the leader")
        await asyncio.to_thread(wait_until, lambda: not children(), "the reaping of the shim")

    run(work)
    wait_until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()), "the end of the group")


@pytest.mark.parametrize(
    ("argv", "directory", "error"),
    [
        (("/nowhere/program",), "/", FileNotFoundError),
        (("/bin/true",), "/nowhere", FileNotFoundError),
        (("/",), "/", PermissionError),
    ],
)
def test_run_command_that_cannot_start_raises_and_leaves_nothing(
    argv: tuple[str, ...], directory: str, error: type[OSError]
) -> None:
    with pytest.raises(error):
        asyncio.run(run_command(argv, directory=directory, environment={}, timeout_s=60, output_bytes=10))


@pytest.mark.parametrize("left", range(8))
def test_run_command_without_free_descriptors_raises_and_leaves_nothing(left: int) -> None:
    async def work() -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        taken: list[int] = []
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
        try:
            with contextlib.suppress(OSError):
                for _ in range(256):
                    taken.append(os.open("/dev/null", os.O_RDONLY))
            assert len(taken) < 256
            for fd in taken[:left]:
                os.close(fd)
            del taken[:left]
            with contextlib.suppress(OSError):
                result = await run_command(("/bin/true",), directory="/", environment={}, timeout_s=60, output_bytes=10)
                assert result.code == 0
        finally:
            for fd in taken:
                os.close(fd)
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(work)


# ChildProcess and OutputPipe


def test_child_inherits_only_the_descriptors_that_it_is_given() -> None:
    received = bytearray()
    reader, writer = os.pipe()
    other = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(other, True)

    async def work() -> None:
        child, pipe = start(
            f"cat /proc/self/fd/{reader}; ls /proc/self/fd | tr '\\n' ' '", received, descriptors=(reader,)
        )
        os.write(writer, b"secret ")
        os.close(writer)
        assert await child.wait_gone(60)
        pipe.drain()
        pipe.close()
        assert child.returncode == 0

    run(work)
    for fd in (reader, other):
        os.close(fd)
    secret, *numbers = received.decode().split()
    assert secret == "secret"
    assert {int(number) for number in numbers} - {0, 1, 2, 3} <= {reader}


def test_child_that_ended_is_known_at_once_and_all_that_it_left_is_killed(tmp_path: Path) -> None:
    received = bytearray()
    pid_file = tmp_path / "pid"

    async def work() -> None:
        exits: list[int | None] = []
        child, pipe = start(
            f"sleep 1000 & echo $! > {pid_file}; exit 3", received, on_exit=lambda: exits.append(child.returncode)
        )
        assert await child.wait(60)
        assert (exits, child.returncode, child.failed()) == ([3], 3, True)
        assert await child.wait_gone(60)
        assert not process_exists(child.pid)
        assert not is_running(int(pid_file.read_text()))
        child.signal_group(signal.SIGKILL)
        child.kill()
        child.close()
        child.close()
        pipe.close()
        assert exits == [3]

    run(work)


def test_child_that_succeeded_has_not_failed() -> None:
    async def work() -> None:
        child, pipe = start("exit 0", bytearray())
        assert await child.wait(60)
        assert not child.failed()
        assert child.returncode == 0
        assert await child.wait_gone(60)
        pipe.close()

    run(work)


def test_close_of_a_running_child_returns_at_once_and_it_is_killed_and_reaped() -> None:
    async def work() -> None:
        child, pipe = start("trap '' TERM; sleep 1000 & wait", bytearray())
        await child.started()
        assert not await child.wait(0)
        child.close()
        assert child.returncode is None
        assert await child.wait_gone(60)
        assert child.ended.is_set()
        assert not process_exists(child.pid)
        pipe.close()

    run(work)


def test_wait_cancelled_leaves_the_child_running() -> None:
    async def work() -> None:
        child, pipe = start("exec sleep 1000", bytearray())
        await child.started()
        waiting = asyncio.ensure_future(child.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert is_running(child.pid)
        child.signal_group(signal.SIGTERM)
        assert await child.wait(60)
        assert child.returncode == -signal.SIGTERM
        assert await child.wait_gone(60)
        pipe.close()

    run(work)


def test_signal_reaches_the_group_and_not_what_left_it(tmp_path: Path) -> None:
    received = bytearray()
    pid = tmp_path / "pid"
    loop = "while :; do sleep 0.01; done"
    other = f"setsid sh -c 'trap \"echo left; exit\" TERM; echo $$ > {pid}; {loop}' &"
    script = f"{other} while [ ! -s {pid} ]; do sleep 0.01; done; trap 'echo group; exit 5' TERM; echo up; {loop}"

    async def work() -> None:
        child, pipe = start(script, received)
        await asyncio.to_thread(wait_until, lambda: b"up" in received, "the program")
        child.signal_group(signal.SIGTERM)
        assert await child.wait_gone(60)
        pipe.drain()
        pipe.close()
        assert child.returncode == 5

    run(work)
    lines = received.decode().split()
    assert "group" in lines
    assert "left" not in lines
    assert not is_running(int(pid.read_text()))


def test_pipe_reports_the_end_of_output_once_all_writers_are_gone() -> None:
    received = bytearray()

    async def work() -> None:
        at_eof = asyncio.Event()
        stdout = OutputPipe(received.extend, at_eof.set)
        stderr = OutputPipe(received.extend)
        argv = ("/bin/sh", "-c", "exec 2>&-; echo one; echo two")
        child = ChildProcess(argv, directory="/", environment=os.environ, stdout=stdout, stderr=stderr)
        async with asyncio.timeout(60):
            await at_eof.wait()
        assert stdout.at_eof
        assert await child.wait_gone(60)
        assert child.returncode == 0
        stdout.close()
        stderr.close()

    run(work)
    assert received == b"one\ntwo\n"


def test_drain_of_a_pipe_with_an_endless_writer_is_bounded() -> None:
    async def work() -> None:
        pieces: list[bytes] = []

        def write_again(data: bytes) -> None:
            pieces.append(data)
            assert len(pieces) < 100
            os.write(write_end, data)

        pipe = OutputPipe(write_again)
        write_end = pipe.open()
        os.write(write_end, b"x")
        pipe.drain()
        assert pieces
        pipe.close()
        os.close(write_end)

    run(work)


def test_child_without_resources_closes_its_pipes_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_options: object) -> int:
        raise OSError(errno.EAGAIN, "no process")

    async def work() -> None:
        before = descriptors()
        pipe = OutputPipe(bytearray().extend)
        with pytest.raises(OSError, match="no process"):
            ChildProcess(("/bin/true",), directory="/", environment={}, stdout=pipe, stderr=pipe)
        assert descriptors() == before

    monkeypatch.setattr(os, "posix_spawn", fail)
    run(work)


def test_child_without_a_pidfd_is_killed_and_reaped(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(pid: int) -> int:
        raise OSError(errno.EMFILE, f"no descriptor for {pid}")

    async def work() -> None:
        before = descriptors(), children()
        with pytest.raises(OSError, match="no descriptor"):
            start("exec sleep 1000", bytearray())
        assert (descriptors(), children()) == before

    monkeypatch.setattr(os, "pidfd_open", fail)
    run(work)


def test_paused_pipe_blocks_the_writer_until_it_is_resumed() -> None:
    received = bytearray()

    async def work() -> None:
        child, pipe = start("head -c 3000000 /dev/zero", received)
        pipe.pause()
        assert not await child.wait(0.2)
        before = len(received)
        assert before < 3_000_000
        pipe.resume()
        assert await child.wait_gone(60)
        pipe.drain()
        assert child.returncode == 0
        pipe.close()
        pipe.resume()

    run(work)
    assert len(received) == 3_000_000


# What escapes


SETSID = "setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &"
DOUBLE_FORK = "(setsid sh -c 'echo $$ >> {pids}; sleep 1000 & exec sleep 1000' &) &"
CLEARED = "setsid env -i /bin/sh -c 'echo $$ >> {pids}; exec sleep 1000' >/dev/null 2>&1 &"
FORKING = """
import os, sys, time
if os.fork():
    time.sleep(1000)
os.setsid()
open(sys.argv[1], "a").write(f"{os.getpid()}\\n")
while True:
    if os.fork():
        os._exit(0)
    os.setsid()
"""
ESCAPES = pytest.mark.parametrize("escape", [SETSID, DOUBLE_FORK, CLEARED], ids=["setsid", "double fork", "cleared"])


def waits_for(pids: Path, escape: str, then: str) -> str:
    """A script that starts a program that escapes, waits until it has, and goes on."""
    return f"{escape.format(pids=pids)} while [ ! -s {pids} ]; do sleep 0.01; done; {then}"


def none_runs(pids: Path) -> bool:
    return not any(is_running(int(pid)) for pid in pids.read_text().split())


@ESCAPES
@pytest.mark.parametrize(("then", "code"), [("exit 4", 4), ("kill -9 $$", -9)])
def test_what_left_the_session_ends_with_the_program(tmp_path: Path, escape: str, then: str, code: int) -> None:
    pids = tmp_path / "pids"
    assert run_shell(waits_for(pids, escape, then)).code == code
    assert none_runs(pids)


@ESCAPES
def test_what_left_the_session_ends_at_the_deadline(tmp_path: Path, escape: str) -> None:
    pids = tmp_path / "pids"
    assert run_shell(waits_for(pids, escape, "sleep 1000"), timeout_s=1).code is None
    assert none_runs(pids)


@ESCAPES
def test_what_left_the_session_ends_at_a_cancel(tmp_path: Path, escape: str) -> None:
    pids = tmp_path / "pids"
    command = ("/bin/sh", "-c", waits_for(pids, escape, "sleep 1000"))

    async def work() -> None:
        task = asyncio.ensure_future(
            run_command(command, directory="/", environment=os.environ, timeout_s=60, output_bytes=10)
        )
        await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text(), "the program")
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    run(work)
    assert none_runs(pids)


def test_a_chain_of_forks_ends_with_the_program(tmp_path: Path) -> None:
    pids, program = tmp_path / "pids", tmp_path / "program.py"
    program.write_text(FORKING)
    code = run_shell(waits_for(pids, f"{sys.executable} -I -S {program} {{pids}} &", "exit 0")).code
    assert code == 0
    assert processes_naming(program) == []


def processes_naming(program: Path) -> list[int]:
    """The processes that have this program in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.fsencode(program) in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return found


@ESCAPES
def test_everything_ends_with_a_killed_daemon(tmp_path: Path, escape: str) -> None:
    pids = tmp_path / "pids"
    daemon = start_daemon(waits_for(pids, escape, "sleep 1000"))
    wait_until(lambda: pids.exists() and pids.read_text(), "the program")
    shim_pid = the_child_of(daemon.pid)
    daemon.kill()
    daemon.wait()
    wait_until(lambda: not is_running(shim_pid) and none_runs(pids), "the end of everything")


DAEMON = """
import asyncio, os, sys
from nexus.runtime.command import run_command
asyncio.run(run_command(("/bin/sh", "-c", sys.argv[1]), directory="/", environment={"PATH": os.environ["PATH"]},
                        timeout_s=1000, output_bytes=10))
"""


def start_daemon(script: str) -> subprocess.Popen[bytes]:
    """A process of its own that runs a script by ``run_command``."""
    return subprocess.Popen([sys.executable, "-c", DAEMON, script])


def the_child_of(pid: int) -> int:
    return wait_until(lambda: Path(f"/proc/{pid}/task/{pid}/children").read_text().split(), "the shim") and int(
        Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    )


WITH_ID = pytest.mark.parametrize("escape", [SETSID, DOUBLE_FORK], ids=["setsid", "double fork"])


@WITH_ID
def test_killed_shim_is_replaced_by_the_daemon_and_its_program_counts_as_killed(tmp_path: Path, escape: str) -> None:
    pids = tmp_path / "pids"

    async def work() -> None:
        child, pipe = start(waits_for(pids, escape, "sleep 1000"), bytearray())
        await asyncio.to_thread(wait_until, lambda: pids.exists() and pids.read_text(), "the program")
        os.kill(the_child_of(os.getpid()), signal.SIGKILL)
        assert await child.wait_gone(60)
        assert child.returncode == -signal.SIGKILL
        assert not is_running(child.pid)
        pipe.close()

    run(work)
    assert none_runs(pids)


@WITH_ID
def test_next_daemon_ends_what_is_left_where_the_shim_was_killed_as_well(tmp_path: Path, escape: str) -> None:
    pids = tmp_path / "pids"
    daemon = start_daemon(waits_for(pids, escape, "sleep 1000"))
    wait_until(lambda: pids.exists() and pids.read_text(), "the program")
    shim_pid = the_child_of(daemon.pid)
    os.kill(daemon.pid, signal.SIGSTOP)
    os.kill(shim_pid, signal.SIGKILL)
    daemon.kill()
    daemon.wait()
    assert not none_runs(pids)
    assert end_left_behind()
    assert none_runs(pids)


def test_next_daemon_ends_a_suspended_shim_with_its_child(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    daemon = start_daemon(waits_for(pids, SETSID, "sleep 1000"))
    wait_until(lambda: pids.exists() and pids.read_text(), "the program")
    shim_pid = the_child_of(daemon.pid)
    os.kill(shim_pid, signal.SIGSTOP)
    daemon.kill()
    daemon.wait()
    assert end_left_behind()
    assert none_runs(pids)
    wait_until(lambda: not alive(shim_pid), "the end of the shim")


def test_children_of_a_running_daemon_are_not_taken_for_left_behind(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    daemon = start_daemon(waits_for(pids, SETSID, "sleep 1000"))
    try:
        wait_until(lambda: pids.exists() and pids.read_text(), "the program")
        assert end_left_behind()
        assert not none_runs(pids)
    finally:
        daemon.kill()
        daemon.wait()
    wait_until(lambda: none_runs(pids), "the end of everything")


def test_run_id_of_a_child_begins_with_that_of_its_environment() -> None:
    async def work() -> CommandResult:
        return await run_command(
            ("/bin/sh", "-c", "echo $NEXUS_RUN_ID"),
            directory="/",
            environment={"NEXUS_RUN_ID": "run-7"},
            timeout_s=60,
            output_bytes=200,
        )

    assert run(work).output.startswith(f"run-7.child-{pid_namespace()}-{os.getpid()}-".encode())


# What a child inherits


def test_child_gets_the_umask_and_limit_that_this_process_was_started_with() -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    old = os.umask(0o177)
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS - 1, limit[1]))
    try:
        assert run_shell("umask; ulimit -n").output.decode().split() == [f"{UMASK:04o}", str(DESCRIPTORS)]
    finally:
        os.umask(old)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)


@pytest.mark.parametrize("umask", [0, 0o027, 0o777])
def test_child_gets_the_umask_that_is_asked_for(umask: int) -> None:
    async def work() -> CommandResult:
        return await run_command(
            ("/bin/sh", "-c", "umask"), directory="/", environment={}, timeout_s=60, output_bytes=20, umask=umask
        )

    assert run(work).output == f"{umask:04o}\n".encode()
