"""Programs with a terminal: what they see of it, its size, its signals, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.attachments import client_process, read_all, read_until, wait_for_log
from support.raw import wait_until
from support.runtimes import PATH, alive, collect, joined, python, shell

from nexus.runtime import AttachmentLost, Exit, Process, ProcessSpec, RunEnded, Runtime, StartFailed
from nexus.runtime.members import end_run
from nexus.runtime.status import read_status

FACTS = """
import os, sys, termios
print([os.isatty(fd) for fd in range(3)], len({os.ttyname(fd) for fd in range(3)}))
print(os.get_terminal_size(0))
print("session", os.getsid(0) == os.getpid(), "foreground", os.tcgetpgrp(0) == os.getpgrp())
print("controlling", os.ttyname(os.open("/dev/tty", os.O_RDWR)) is not None, sorted(os.listdir("/proc/self/fd")))
print("TERM", os.environ["TERM"], "utf8", bool(termios.tcgetattr(0)[0] & 0o40000))
"""

SIZES = """
import os, signal, sys
def show(*_arguments):
    size = os.get_terminal_size(0)
    os.write(1, b"%d %d;" % (size.lines, size.columns))
signal.signal(signal.SIGWINCH, show)
os.write(1, b"up;")
while True:
    signal.pause()
"""

RAW = "import os, sys, termios, tty; tty.setraw(0); os.write(1, b'raw;')\n"


def terminal(source: str, *arguments: object, **options: object) -> ProcessSpec:
    """A spec of a Python program with a terminal."""
    return python(source, *arguments, terminal=True, **options)


def terminal_of(pid: int) -> int:
    """The device number of a process's controlling terminal; 0 where it has none."""
    return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[4])


def test_program_sees_a_terminal_of_its_own_with_the_default_size(runtime: Runtime) -> None:
    spec = ProcessSpec(
        (sys.executable, "-I", "-S", "-c", FACTS), "/", {"PATH": PATH, "TERM": "xterm-256color"}, terminal=True
    )

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", spec)
        assert (await process.wait()).code == 0
        pieces = await collect(runtime.log("service-1"))
        assert {piece.stream for piece in pieces} == {1}
        # The terminal turns each line feed into carriage return and line feed. Descriptor 4 lists the others.
        assert joined(pieces).decode().split("\r\n") == [
            "[True, True, True] 1",
            "os.terminal_size(columns=80, lines=24)",
            "session True foreground True",
            "controlling True ['0', '1', '2', '3', '4']",
            "TERM xterm-256color utf8 True",
            "",
        ]

    asyncio.run(scenario())


def test_terminal_is_neither_the_shims_nor_the_daemons(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("exec sleep 1000", terminal=True))
        assert terminal_of(process.shim_pid) == 0
        assert terminal_of(process.pid) != 0
        await process.stop()

    asyncio.run(scenario())


@pytest.mark.parametrize("size", [1, 4096, 5_000_000])
def test_output_of_a_terminal_is_logged_byte_for_byte_to_its_end(runtime: Runtime, size: int) -> None:
    source = f"""{RAW}
import hashlib, random
data = random.Random(1).randbytes({size})
view = memoryview(data)
while view:
    view = view[os.write(1, view):]
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(source))
        assert (await process.wait()).code == 0
        pieces = await collect(runtime.log("service-1"))
        expected = b"raw;" + random.Random(1).randbytes(size)
        assert hashlib.sha256(joined(pieces)).digest() == hashlib.sha256(expected).digest()

    asyncio.run(scenario())


def test_smallest_size_wins_and_each_leaving_client_gives_its_own_back(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(SIZES))
        await wait_for_log(runtime.log("service-1"), b"up;")
        first = await runtime.attach("service-1", "run-1", size=(50, 100))
        await read_until(first, b"50 100;")
        second = await runtime.attach("service-1", "run-1", size=(30, 200))
        await read_until(first, b"30 100;")
        third = await runtime.attach("service-1", "run-1", size=(60, 90))
        await read_until(first, b"30 90;")
        second.close()
        await read_until(first, b"50 90;")
        third.resize(40, 95)
        await read_until(first, b"40 95;")
        third.close()
        await read_until(first, b"50 100;")
        # The last one leaves its size behind.
        first.close()
        last = await runtime.attach("service-1", "run-1", replay=False)
        last.resize(51, 100)
        assert await read_until(last, b"51 100;") == b"51 100;"
        last.resize(0, 0)
        last.resize(10**9, 7)
        await read_until(last, b"65535 7;")
        last.close()
        await process.stop()

    asyncio.run(scenario())


def test_client_with_the_terminals_size_makes_the_program_draw_itself_again(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(SIZES))
        await wait_for_log(runtime.log("service-1"), b"up;")
        for _ in range(3):
            attachment = await runtime.attach("service-1", "run-1", size=(24, 80), replay=False)
            assert await read_until(attachment, b"24 80;") == b"24 80;"
            attachment.close()
        await process.stop()

    asyncio.run(scenario())


def test_killed_client_gives_its_size_back(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(SIZES))
        await wait_for_log(runtime.log("service-1"), b"up;")
        attachment = await runtime.attach("service-1", "run-1", size=(50, 100))
        await read_until(attachment, b"50 100;")
        with client_process(runtime.directory, "service-1", "run-1", (30, 60)) as client:
            await read_until(attachment, b"30 60;")
            client.kill()
            await read_until(attachment, b"50 100;")
        await process.stop()
        attachment.close()

    asyncio.run(scenario())


def test_client_attaches_again_after_the_daemon_was_replaced(runtime: Runtime) -> None:
    source = f"""{RAW}
while data := os.read(0, 100):
    os.write(1, b"<" + data + b">")
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(source))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"raw;")  # the terminal echoes no more
        await attachment.send(b"one")
        await read_until(attachment, b"<one>")
        attachment.close()
        process.close()
        again = Runtime(runtime.directory, scopes=False)
        adopted = await again.adopt("service-1", "run-1")
        assert isinstance(adopted, Process)
        attachment = await again.attach("service-1", "run-1")
        assert attachment.terminal
        assert await attachment.receive() == (1, b"raw;<one>")
        await attachment.send(b"two")
        assert await read_until(attachment, b"<two>") == b"<two>"
        await adopted.stop()
        assert await attachment.receive() is None
        assert await attachment.receive() is None
        attachment.close()

    asyncio.run(scenario())


def test_replay_and_live_output_have_no_gap_and_no_repeat(runtime: Runtime) -> None:
    source = f"""{RAW}
number = 0
while True:
    os.write(1, b"%08d\\n" % number)
    number += 1
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(source))
        for _ in range(20):
            attachment = await runtime.attach("service-1", "run-1")
            data = b""
            while len(data) < 200_000:
                piece = await attachment.receive()
                assert piece is not None
                data += piece[1]
            attachment.close()
            lines = data.removeprefix(b"raw;").split(b"\n")[:-1]
            first = int(lines[0])
            assert [int(line) for line in lines] == list(range(first, first + len(lines)))
        await process.stop()

    asyncio.run(scenario())


def test_replay_is_the_last_64_kib_and_begins_with_a_line(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "stty raw -echo; seq 100000; printf 'no end'; exec sleep 1000"
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        await wait_for_log(runtime.log("service-1"), b"no end")
        attachment = await runtime.attach("service-1", "run-1")
        piece = await attachment.receive()
        assert piece is not None
        lines = piece[1].split(b"\n")
        assert lines == [str(number).encode() for number in range(int(lines[0]), 100_001)] + [b"no end"]
        assert 65_000 < len(piece[1]) <= 65_536
        attachment.close()
        await process.stop()

    asyncio.run(scenario())


def test_interrupt_typed_at_the_terminal_ends_the_foreground_group_alone(runtime: Runtime) -> None:
    foreground = "import os, signal; signal.signal(2, signal.SIG_DFL); os.write(1, b'foreground'); signal.pause()"
    script = f"""
trap 'echo caught' INT
set -m
sleep 1000 &
echo background $!
{sys.executable} -I -S -c "{foreground}"
echo after $?; read line; echo "got $line"; kill %1
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        attachment = await runtime.attach("service-1", "run-1")
        text = await read_until(attachment, b"foreground")
        background = int(text.split(b"background ")[1].split()[0])
        await attachment.send(b"\x03")
        await read_until(attachment, b"after 130")
        assert alive(background)
        await attachment.send(b"line\r")
        await read_all(attachment)
        assert (await process.wait()).kind == "exit"
        attachment.close()

    asyncio.run(scenario())


def test_end_of_file_is_typed_at_the_terminal(runtime: Runtime) -> None:
    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell("cat; echo end; cat; echo end", terminal=True))
        attachment = await runtime.attach("service-1", "run-1")
        await attachment.send(b"text\n")
        attachment.send_eof()
        await read_until(attachment, b"text\r\ntext\r\nend\r\n")
        await attachment.send(b"more\n")
        attachment.send_eof()
        assert await read_all(attachment) == b"more\r\nmore\r\nend\r\n"
        assert (await process.wait()).code == 0
        attachment.close()

    asyncio.run(scenario())


def test_stop_ends_all_processes_of_a_terminal_and_removes_its_socket(runtime: Runtime) -> None:
    script = "trap '' HUP TERM; set -m; sleep 1000 & setsid sleep 1001 & (trap '' HUP; exec sleep 1002) & echo up; wait"

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up")
        await asyncio.to_thread(wait_until, lambda: len(process.pids()) == 4, "all processes")
        pids = process.pids()
        folder = runtime.directory / "service-1" / "run-1"
        assert stat.S_IMODE((folder / "attach").stat().st_mode) == 0o600
        assert (await process.stop(grace_ms=1)).kind in ("signal", "exit")
        assert await attachment.receive() is None
        assert not any(alive(pid) for pid in [process.shim_pid, *pids])
        assert sorted(path.name for path in folder.iterdir()) == ["control", "lock", "status"]
        attachment.close()

    asyncio.run(scenario())


def test_what_is_left_behind_on_the_terminal_ends_with_its_program(runtime: Runtime) -> None:
    async def scenario() -> None:
        script = "(trap '' HUP; setsid sleep 1000 & echo $!; exec sleep 1001) & sleep 0.1; echo end"
        process = await runtime.start("service-1", "run-1", shell(script, terminal=True))
        attachment = await runtime.attach("service-1", "run-1")
        text = await read_all(attachment)
        assert text.endswith(b"end\r\n")
        assert (await process.wait()).code == 0
        assert not alive(int(text.split()[0]))
        attachment.close()

    asyncio.run(scenario())


def test_exec_of_a_missing_program_fails_with_a_terminal_too(runtime: Runtime) -> None:
    async def scenario() -> None:
        with pytest.raises(StartFailed, match="not found"):
            await runtime.start("service-1", "run-1", ProcessSpec(("/no/such",), "/", {}, terminal=True))
        with pytest.raises(StartFailed, match="its directory /no/such does not exist"):
            await runtime.start("service-1", "run-1", ProcessSpec(("true",), "/no/such", {}, terminal=True))
        assert not (runtime.directory / "service-1" / "run-1").exists()

    asyncio.run(scenario())


# A killed shim


def test_killed_shim_hangs_the_terminal_up_and_nothing_is_left(runtime: Runtime, root: Path) -> None:
    script = f"trap 'echo hangup > {root}/hangup' HUP; echo up; while :; do sleep 0.01; done"

    async def scenario() -> None:
        spec = shell(f"sh -c '{script.replace(chr(39), chr(34))}' & sleep 1000", terminal=True)
        process = await runtime.start("service-1", "run-1", spec)
        attachment = await runtime.attach("service-1", "run-1")
        await read_until(attachment, b"up")
        pids = process.pids()
        os.kill(process.shim_pid, signal.SIGKILL)
        ended = await process.wait()
        assert ended.kind == "lost"
        assert not any(alive(pid) for pid in pids)
        with pytest.raises(AttachmentLost):
            await attachment.receive()
        with pytest.raises(RunEnded):
            await runtime.attach("service-1", "run-1")
        attachment.close()
        runtime.forget("service-1", "run-1")
        assert not (runtime.directory / "service-1" / "run-1").exists()

    asyncio.run(scenario())


HOLDER = """
import os, signal, sys, time
signal.signal(signal.SIGHUP, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork():
        os._exit(0)
    os.execve("/bin/sleep", ["sleep", sys.argv[1]], {})
time.sleep(1000)
"""
"""Starts a process in another session, with another parent and no environment, that has the terminal open."""


def test_process_that_holds_the_terminal_of_a_killed_shim_is_found_by_the_next_daemon(runtime: Runtime) -> None:
    marker = "1000.0000123"

    def holders() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if path.read_bytes() == f"sleep\0{marker}\0".encode():
                    found.append(int(path.parent.name))
        return found

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", terminal(HOLDER, marker))
        await asyncio.to_thread(wait_until, holders, "the process")
        process.close()  # as if the daemon had ended
        kill_and_reap(process.shim_pid)
        (holder,) = holders()
        # The kernel gives the number of the terminal again, and a terminal of another program is none of the run.
        with program_on_another_terminal() as other:
            ended = await Runtime(runtime.directory, scopes=False).adopt("service-1", "run-1")
            assert isinstance(ended, Exit)
            assert ended.kind == "lost"
            assert not alive(holder)
            assert other.poll() is None

    asyncio.run(scenario())


def kill_and_reap(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


@contextlib.contextmanager
def program_on_another_terminal() -> Iterator[subprocess.Popen[bytes]]:
    master, slave = os.openpty()
    other = subprocess.Popen(["sleep", "1001"], stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    try:
        yield other
    finally:
        other.kill()
        other.wait()
        os.close(master)
        os.close(slave)


def test_status_of_a_terminal_is_understood_by_older_readers(runtime: Runtime) -> None:
    async def scenario() -> None:
        for number, (options, pipes) in enumerate([({"terminal": True}, 0), ({"stdin": "open"}, 3), ({}, 2)]):
            process = await runtime.start(f"service-{number}", "run-1", shell("exec sleep 1000", **options))
            folder = runtime.directory / f"service-{number}" / "run-1"
            status = read_status(folder / "status")
            assert status is not None
            assert status.run is not None
            assert (status.run.terminal is not None) == ("terminal" in options)
            assert len(status.run.pipes) == pipes
            assert status.run.attachable == bool(options)
            assert end_run(status.run._replace(boot="another"), "run-1", watched=False)
            words = (folder / "status").read_bytes()[:256].split()
            pid, *others, out, err = map(int, words[3:13])  # as the first readers did
            assert (pid, len(others)) == (process.pid, 7)
            assert bool(out and err) == ("terminal" not in options)
            await process.stop()

    asyncio.run(scenario())


# Full-screen programs


@pytest.fixture
def text_file(root: Path) -> Path:
    """A file of numbered lines."""
    path = root / "text"
    path.write_text("".join(f"line {number}\n" for number in range(1, 201)))
    return path


@pytest.mark.parametrize("program", ["less", "vi", "vim"])
def test_full_screen_program_is_used_through_two_clients_and_over_a_replaced_daemon(
    runtime: Runtime, text_file: Path, program: str
) -> None:
    path = shutil.which(program)
    if path is None:
        pytest.skip(f"{program} is not installed")
    options = ("-u", "NONE", "-n") if program.startswith("vi") else ()
    # less may overlook a SIGWINCH until the next key, and draws nothing where the size is the same.
    redraw = b"\x0c" if program == "less" else b""
    environment = {"PATH": PATH, "TERM": "xterm", "HOME": str(text_file.parent), "LESSHISTFILE": "-"}
    spec = ProcessSpec((path, *options, str(text_file)), str(text_file.parent), environment, terminal=True)

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", spec)
        await wait_for_log(runtime.log("service-1"), b"line 22")
        large = await runtime.attach("service-1", "run-1", size=(40, 100))
        await large.send(redraw)
        await read_until(large, b"line 1\r", b"line 38")
        small = await runtime.attach("service-1", "run-1", size=(11, 50), replay=False)
        await small.send(redraw)
        await read_until(small, b"line 9")
        await small.send(b"G")  # to the end of the file
        await read_until(large, b"191", b"200")
        await read_until(small, b"191", b"200")
        small.close()
        await large.send(redraw)
        await read_until(large, b"line 199")  # drawn again, with 40 rows
        large.close()
        process.close()
        again = Runtime(runtime.directory, scopes=False)
        adopted = await again.adopt("service-1", "run-1")
        assert isinstance(adopted, Process)
        # Without a replay, and of the size that the terminal has: the program draws itself again.
        third = await again.attach("service-1", "run-1", size=(40, 100), replay=False)
        await third.send(redraw)
        await read_until(third, b"line 199")
        await third.send(b"q" if program == "less" else b":q\r")
        await read_all(third)
        assert (await adopted.wait()).code == 0
        third.close()

    asyncio.run(scenario())
