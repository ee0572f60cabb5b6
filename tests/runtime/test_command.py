"""Short-lived child programs: their output, deadline, signals and descriptors, and that nothing is left of them."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import signal
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.raw import wait_until

from nexus.runtime.command import ChildProcess, CommandResult, OutputPipe, run_command
from nexus.runtime.procfs import process_exists
from nexus.runtime.tree import parent_of


@pytest.fixture(autouse=True)
def no_leaks() -> Iterator[None]:
    """No test leaves a descriptor or a child of this process, not even a zombie."""
    before = descriptors(), children()
    yield
    assert (descriptors(), children()) == before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def children() -> set[int]:
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return {pid for pid in pids if parent_of(pid) == os.getpid()}


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
    wait_until(lambda: not any(is_running(int(pid)) for pid in pids.read_text().split()), "the end of the group")


def test_run_command_kills_what_the_program_left_running(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    assert run_shell(f"sleep 1000 & echo $! > {pid}").code == 0
    wait_until(lambda: not is_running(int(pid.read_text())), "the end of the child")


def test_run_command_does_not_wait_for_a_pipe_that_another_session_keeps_open(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"setsid sh -c 'echo $$ > {pid}; exec sleep 1000' & while [ ! -s {pid} ]; do sleep 0.01; done; echo done"
    try:
        assert run_shell(script) == (0, b"done\n")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid.read_text()), signal.SIGKILL)


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
        assert await child.wait(60)
        pipe.drain()
        pipe.close()
        assert child.reap() == 0

    run(work)
    for fd in (reader, other):
        os.close(fd)
    secret, *numbers = received.decode().split()
    assert secret == "secret"
    assert {int(number) for number in numbers} - {0, 1, 2, 3} <= {reader}


def test_child_stays_a_zombie_until_it_is_reaped_and_its_group_can_be_signalled(tmp_path: Path) -> None:
    received = bytearray()
    pid_file = tmp_path / "pid"

    async def work() -> None:
        exits: list[int | None] = []
        child, pipe = start(
            f"sleep 1000 & echo $! > {pid_file}; exit 3", received, on_exit=lambda: exits.append(child.returncode)
        )
        assert await child.wait(60)
        assert (exits, child.returncode, child.failed()) == ([None], None, True)
        assert process_exists(child.pid)
        assert is_running(int(pid_file.read_text()))
        child.signal_group(signal.SIGKILL)
        assert child.reap() == 3
        assert child.reap() == 3
        assert not process_exists(child.pid)
        child.signal_group(signal.SIGKILL)
        pipe.close()

    run(work)
    wait_until(lambda: not is_running(int(pid_file.read_text())), "the end of the child")


def test_child_that_succeeded_has_not_failed() -> None:
    async def work() -> None:
        child, pipe = start("exit 0", bytearray())
        assert await child.wait(60)
        assert not child.failed()
        assert child.reap() == 0
        pipe.close()

    run(work)


def test_reap_of_a_running_child_returns_at_once_and_reaps_it_when_it_ends() -> None:
    async def work() -> None:
        child, pipe = start("exec sleep 1000", bytearray())
        assert not await child.wait(0)
        assert child.reap() is None
        child.signal_group(signal.SIGTERM)
        assert await child.wait(60)
        assert child.returncode == -signal.SIGTERM
        assert not process_exists(child.pid)
        pipe.close()

    run(work)


def test_wait_cancelled_leaves_the_child_running() -> None:
    async def work() -> None:
        child, pipe = start("exec sleep 1000", bytearray())
        waiting = asyncio.ensure_future(child.wait())
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert is_running(child.pid)
        child.signal_group(signal.SIGKILL)
        assert await child.wait(60)
        child.reap()
        pipe.close()

    run(work)


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
        await child.wait()
        assert child.reap() == 0
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


def test_child_that_cannot_start_closes_its_pipes_at_once() -> None:
    async def work() -> None:
        before = descriptors()
        pipe = OutputPipe(bytearray().extend)
        with pytest.raises(FileNotFoundError):
            ChildProcess(("/nowhere",), directory="/", environment={}, stdout=pipe, stderr=pipe)
        assert descriptors() == before

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


def test_signal_group_after_reap_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    signalled: list[tuple[int, int]] = []

    async def work() -> None:
        child, pipe = start("exit 0", bytearray())
        assert await child.wait(60)
        assert child.reap() == 0
        monkeypatch.setattr(os, "killpg", lambda *arguments: signalled.append(arguments))
        child.signal_group(signal.SIGKILL)
        pipe.close()

    run(work)
    assert signalled == []


def test_paused_pipe_blocks_the_writer_until_it_is_resumed() -> None:
    received = bytearray()

    async def work() -> None:
        child, pipe = start("head -c 3000000 /dev/zero", received)
        pipe.pause()
        assert not await child.wait(0.2)
        before = len(received)
        assert before < 3_000_000
        pipe.resume()
        assert await child.wait(60)
        pipe.drain()
        assert child.reap() == 0
        pipe.close()
        pipe.resume()

    run(work)
    assert len(received) == 3_000_000
