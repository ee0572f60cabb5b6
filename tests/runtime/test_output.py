"""Both shims log a child's output completely and within its bound, also on a full disk."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest
from support.faults import fill, on_small_disk
from support.raw import wait_until
from support.runtimes import collect, end_all, joined, python, shell

from nexus.runtime import Runtime
from nexus.runtime.log_lines import NO_OUTPUT
from nexus.runtime.status import is_locked

MIB = 1024 * 1024


def size_of(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.iterdir())


def test_every_byte_of_the_output_is_logged(runtime: Runtime) -> None:
    source = """
import os, sys
out = bytes(range(256)) * 40 + b"\\xff\\xfe\\n" + b"x" * 10_000_000 + b"\\n" + b"no end"
err = b"\\0\\n" * 1000 + b"no end either"
def put(fd, data):
    while data:
        data = data[os.write(fd, data):]
put(1, out); put(2, err)
"""
    out = bytes(range(256)) * 40 + b"\xff\xfe\n" + b"x" * 10_000_000 + b"\n" + b"no end"
    err = b"\0\n" * 1000 + b"no end either"

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source))
        await process.wait()
        pieces = await collect(runtime.log("service-1"))
        assert joined(pieces, 1) == out
        assert joined(pieces, 2) == err
        assert all(process.started_at <= piece.at for piece in pieces)
        assert runtime.log("service-1").tail(1) == [b"no end either"]

    asyncio.run(scenario())


def test_streams_are_logged_in_the_order_of_writing(runtime: Runtime) -> None:
    source = """
import os, time
for number in range(50):
    os.write(1 + number % 2, b"%d\\n" % number)
    time.sleep(0.01)
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source))
        await process.wait()
        pieces = await collect(runtime.log("service-1"))
        # On a busy machine the shim may see two writes at once, but the order within a stream is always kept.
        for stream in (1, 2):
            assert [int(line) for line in joined(pieces, stream).split()] == list(range(stream - 1, 50, 2))
        assert [piece.at for piece in pieces] == sorted(piece.at for piece in pieces)

    asyncio.run(scenario())


def test_log_spans_runs_and_can_be_read_from_one_run_on(runtime: Runtime) -> None:
    async def scenario() -> None:
        for number in range(5):
            process = await runtime.start(
                "service-1", f"run-{number}", shell(f"echo out {number}; echo err {number} >&2")
            )
            await process.wait()
        log = runtime.log("service-1")
        assert joined(await collect(log), 1) == b"".join(b"out %d\n" % number for number in range(5))
        assert joined(await collect(log, from_run="run-3"), 2) == b"err 3\nerr 4\n"
        assert sorted(log.tail(10, from_run="run-4")) == [b"err 4", b"out 4"]
        assert len(log.tail(10)) == 10
        assert len(list(log.folder.iterdir())) == 2

    asyncio.run(scenario())


def test_flood_of_output_stays_within_the_bound_and_keeps_the_newest_bytes(runtime: Runtime) -> None:
    source = """
import os
block = b"".join(b"%015d\\n" % 0 for _ in range(4096))
number = 0
for _ in range(1700):
    data = b"".join(b"%015d\\n" % n for n in range(number, number + 4096))
    number += 4096
    while data:
        data = data[os.write(1, data):]
"""
    bound = 2 * MIB

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source, log_bytes=bound))
        folder = runtime.log("service-1").folder
        ended = asyncio.create_task(process.wait())
        while not ended.done():
            try:
                assert size_of(folder) <= bound
            except FileNotFoundError:
                pass
            await asyncio.sleep(0.02)
        assert (await ended).code == 0
        assert size_of(folder) <= bound
        kept = joined(await collect(runtime.log("service-1")))
        assert len(kept) > bound * 3 // 4
        lines = kept[kept.index(b"\n") + 1 :].splitlines()
        last = 1700 * 4096
        assert lines == [b"%015d" % number for number in range(last - len(lines), last)]
        assert runtime.log("service-1").tail(1) == [lines[-1]]
        assert joined(await collect(runtime.log("service-1"), lines=1000)).splitlines() == lines[-1000:]

    asyncio.run(scenario())


def test_segments_of_a_large_log_are_at_most_32_mib(runtime: Runtime) -> None:
    source = """
import os
for number in range(40):
    data = b"%015d\\n" % number * 65536
    while data:
        data = data[os.write(1, data):]
"""

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source, log_bytes=1024 * MIB))
        assert (await process.wait()).code == 0
        log = runtime.log("service-1")
        parts = sorted(path.stat().st_size for path in log.folder.glob("*.log"))
        assert len(parts) == 2
        assert parts[-1] <= 32 * MIB
        assert sum(parts) == 40 * MIB
        assert log.tail(1) == [b"%015d" % 39]

    asyncio.run(scenario())


def test_stop_during_a_flood_of_output_leaves_no_process(runtime: Runtime) -> None:
    source = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
while True:
    os.write(1, b"x" * 65535 + b"\\n")
"""
    bound = MIB

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", python(source, log_bytes=bound))
        follower = runtime.log("service-1").pieces(follow=True)
        got = 0
        while got < 20 * MIB:
            got += len((await anext(follower)).data)
        await follower.aclose()  # type: ignore[attr-defined]
        ended = await asyncio.wait_for(process.stop(grace_ms=100), 60)
        assert ended[:2] == ("signal", signal.SIGKILL)
        assert process.pids() == []
        assert size_of(runtime.log("service-1").folder) <= bound

    asyncio.run(scenario())


def test_output_pipe_held_by_an_outside_process_does_not_delay_the_end(runtime: Runtime, root: Path) -> None:
    source = """
import array, socket, sys
with socket.socket(socket.AF_UNIX) as peer:
    peer.connect(sys.argv[1])
    peer.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [1]))])
    peer.recv(1)
print("bye", flush=True)
"""

    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(root / "socket"))
            listener.listen()
            process = await runtime.start("service-1", "run-1", python(source, root / "socket"))
            peer, _ = await asyncio.to_thread(listener.accept)
            with peer:
                _data, fds, _flags, _from = await asyncio.to_thread(socket.recv_fds, peer, 1, 1)
                peer.send(b"y")
                try:
                    assert (await asyncio.wait_for(process.wait(), 60)).code == 0
                finally:
                    os.close(fds[0])
        assert joined(await collect(runtime.log("service-1"))) == b"bye\n"

    asyncio.run(scenario())


def test_full_disk_does_not_block_the_child_and_the_log_resumes(shim: str, root: Path) -> None:
    source = """
import os, sys, time
for number in range(20_000):
    os.write(1, b"%08d" % number + b"x" * 91 + b"\\n")
    if number == 2000:
        while not os.path.exists(sys.argv[1] + "/full"):
            time.sleep(0.01)
with open(sys.argv[2], "w") as file:
    file.write("written")
while not os.path.exists(sys.argv[1] + "/room"):
    time.sleep(0.01)
os.write(1, b"room again\\n")
sys.exit(9)
"""

    def scenario(disk: Path) -> None:
        marks = disk.parent
        runtime = Runtime(disk / "processes", scopes=False)

        async def use() -> None:
            process = await runtime.start("service-1", "run-1", python(source, marks, marks / "written"))
            log = runtime.log("service-1")
            await asyncio.to_thread(wait_until, lambda: size_of(log.folder) > 150_000, "some output")
            filler = fill(disk)
            (marks / "full").touch()
            await asyncio.to_thread(wait_until, (marks / "written").exists, "the child to write all its output")
            filler.unlink()
            (marks / "room").touch()
            assert (await process.wait())[:2] == ("exit", 9)
            pieces = await collect(log)
            assert joined(pieces).endswith(b"room again\n")
            assert sum(piece.lost for piece in pieces) > 1_000_000
            assert sum(piece.lost + len(piece.data) for piece in pieces) == 2_000_000 + len(b"room again\n")

        try:
            asyncio.run(use())
        finally:
            end_all(runtime.directory)

    on_small_disk(root / "disk", 4096, scenario)


def test_exit_code_is_recorded_while_the_disk_is_full(shim: str, root: Path) -> None:
    def scenario(disk: Path) -> None:
        runtime = Runtime(disk / "processes", scopes=False)

        async def use() -> None:
            go = disk.parent / "go"
            script = f"while [ ! -e {go} ]; do sleep 0.02; done; echo hello; exit 6"
            process = await runtime.start("service-1", "run-1", shell(script))
            fill(disk)
            go.touch()
            assert (await process.wait())[:2] == ("exit", 6)
            assert not is_locked(runtime.directory / "service-1" / "run-1" / "lock")
            assert await runtime.adopt("service-1", "run-1") == process.exit

        try:
            asyncio.run(use())
        finally:
            end_all(runtime.directory)

    on_small_disk(root / "disk", 1024, scenario)


def test_start_on_a_full_disk_fails_and_leaves_no_run(shim: str, root: Path) -> None:
    def scenario(disk: Path) -> None:
        runtime = Runtime(disk / "processes", scopes=False)

        async def use() -> None:
            fill(disk)
            with pytest.raises(Exception, match="no space left") as caught:
                await runtime.start("service-1", "run-1", shell("true"))
            assert getattr(caught.value, "hint", None)
            assert await runtime.adopt("service-1", "run-1") is None

        asyncio.run(use())

    on_small_disk(root / "disk", 256, scenario)


NUMBERS = """
import os, sys
first, count = map(int, sys.argv[1:3])
for fd, name in ((1, b"out"), (2, b"err")):
    data = b"".join(b"%s %015d\\n" % (name, number) for number in range(first, first + count)) + b"unfinished"
    while data:
        data = data[os.write(fd, data):]
"""
"""Writes numbered lines of 20 bytes to each stream, and ten bytes more."""


def test_gaps_have_the_size_of_what_was_deleted_over_several_runs(runtime: Runtime) -> None:
    async def scenario() -> None:
        log = runtime.log("service-1")
        cursor, behind = NO_OUTPUT, 0
        for run in range(6):
            spec = python(NUMBERS, run * 5000, 5000, log_bytes=MIB // 4)
            process = await runtime.start("service-1", f"run-{run}", spec)
            await process.wait()
            if run % 2 == 0:
                continue
            pieces = await collect(log, after=cursor)
            total = 2 * (run + 1) * (5000 * 20 + len("unfinished"))
            assert behind + sum(len(piece.data) + piece.lost for piece in pieces) == total
            assert sum(piece.lost for piece in pieces) > 0
            for piece in pieces:
                lines = piece.data.splitlines()
                assert all(line == b"unfinished" or len(line) == len("out") + 16 for line in lines)
                assert not piece.continues
            cursor, behind = pieces[-1].cursor, total

    asyncio.run(scenario())


def test_bytes_that_a_full_disk_has_no_space_for_are_a_gap(shim: str, root: Path) -> None:
    def scenario(disk: Path) -> None:
        runtime = Runtime(disk / "processes", scopes=False)

        async def use() -> None:
            full, space = disk.parent / "full", disk.parent / "space"
            for path in (full, space):
                os.mkfifo(path)
            source = NUMBERS + (
                f"open({str(full)!r}).close()\n"
                "for number in range(40):\n"
                "    os.write(1, b'lost, and cut by nothing\\n' * 1000)\n"
                "os.write(1, b'the end of the loss, and a half')\n"
                f"open({str(space)!r}).read()\n"
                "os.write(1, b' line\\nkept\\n')\n"
            )
            process = await runtime.start("service-1", "run-1", python(source, 0, 10))
            log = runtime.log("service-1")
            await asyncio.to_thread(wait_until, lambda: len(log.tail(100)) == 22, "the first lines")
            filler = fill(disk)
            await asyncio.to_thread(full.write_bytes, b"")
            # The program opens the second FIFO when all is written, and reads it until it is closed.
            with await asyncio.to_thread(open, space, "wb"):
                filler.unlink()
            await process.wait()
            pieces = await collect(log, stream=1)
            size = 10 * 20 + len("unfinished") + 40 * 1000 * 25 + len("the end of the loss, and a half line\nkept\n")
            assert sum(len(piece.data) + piece.lost for piece in pieces) == size
            assert sum(piece.lost for piece in pieces) > 0
            lines = joined(pieces).splitlines()
            assert lines[-1] == b"kept"
            # The shim may read the last write only when there is space again.
            whole = (b"unfinishedlost, and cut by nothing", b"lost, and cut by nothing")
            assert set(lines[10:-1]) <= {*whole, b"the end of the loss, and a half line"}

        try:
            asyncio.run(use())
        finally:
            end_all(runtime.directory)

    on_small_disk(root / "disk", 1024, scenario)
