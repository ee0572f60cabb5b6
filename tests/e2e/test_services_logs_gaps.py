"""``service logs`` behind a program that writes faster than it reads, and over the end of the daemon."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import WAIT_S, connect, wait_until
from support.services import ServiceWorld

from nexus.records.processes import LogStream
from nexus.runtime import LogCursor
from nexus.runtime.segments import list_segments
from nexus.services.commands import GetServiceStdout, RemoveService, StartService
from nexus.services.errors import ServiceCursorInvalid
from nexus.services.states import ServiceType

LINE = re.compile(rb"(out|err) (\d{9}) (x*)\n")
GAP = re.compile(r"… (\d+) bytes? (?:was|were) dropped here …")

WRITER = """
import os, select, sys
streams, size, go = sys.argv[1].split(","), int(sys.argv[2]), sys.argv[3]
def write(number, data):
    while data:
        data = data[os.write(number, data):]
def lines(name, first, count):
    return b"".join(b"%s %09d %s\\n" % (name, n, b"x" * size) for n in range(first, first + count))
first = 0
at_once = max(1, 65000 // (size + 15))
write(1, b"begin\\n")
open(go + ".begin").close()
while not os.path.exists(go):
    for stream in streams:
        write(1 if stream == "out" else 2, lines(stream.encode(), first, at_once))
    first += at_once
for stream in streams:
    write(1 if stream == "out" else 2, b"the end\\n")
open(go + ".total", "w").write(str(len(lines(b"out", 0, 1)) * first + len("the end\\n")))
select.select([], [], [])
"""
"""Writes numbered lines of a size to each stream as fast as it can until a file exists, then the last line to each.

Before that it writes a line, and waits until a test opens a FIFO."""


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    with ServiceWorld(root) as world:
        world.daemon.start()
        yield world


def add_writer(world: ServiceWorld, name: str, streams: str = "out", size: int = 40, *, start: bool = True) -> Path:
    """Add a service that writes until the file exists whose path is returned."""
    go = world.root / f"{name}.go"
    command = [sys.executable, "-I", "-S", "-c", WRITER, streams, str(size), str(go)]
    world.add(name, command, log_limit_mib=1)
    os.mkfifo(f"{go}.begin")
    world.call(StartService(service=name))
    if start:
        begin(go)
    return go


def begin(go: Path) -> None:
    """Let a writer begin."""
    with open(f"{go}.begin", "wb"):
        pass


def deleted(world: ServiceWorld, name: str) -> int:
    """How many segments of a service's log were deleted, 128 KiB each."""
    (folder,) = world.state.rglob(f"service-{world.service(name).id}/log")
    return min(list_segments(folder), default=0)


class Reader(threading.Thread):
    """Reads a pipe to its end, so that the program at the other end never waits."""

    def __init__(self, pipe: object) -> None:
        super().__init__(daemon=True)
        self.data = b""
        self._pipe = pipe
        self.start()

    def run(self) -> None:
        while part := os.read(self._pipe.fileno(), 1 << 20):  # type: ignore[attr-defined]
            self.data += part


def interrupted(process: subprocess.Popen[bytes], *readers: Reader) -> None:
    process.send_signal(signal.SIGINT)
    code = process.wait(WAIT_S)
    for reader in readers:
        reader.join(WAIT_S)
    assert code == 130, [reader.data[-1000:] for reader in readers]


def numbers_of(data: bytes, name: bytes, size: int) -> list[int]:
    """The numbers of the lines of one stream, each of which must be whole."""
    found = []
    for line in data.splitlines(keepends=True):
        if line in (b"begin\n", b"the end\n"):
            continue
        match = LINE.fullmatch(line)
        assert match is not None, line[:200]
        assert len(match[3]) == size, line[:200]
        if match[1] == name:
            found.append(int(match[2]))
    return found


@pytest.mark.parametrize(("streams", "size"), [("out", 40), ("out,err", 40), ("out,err", 100_000)])
def test_follower_behind_a_fast_writer_prints_whole_lines_and_the_size_of_each_gap(
    world: ServiceWorld, streams: str, size: int
) -> None:
    process_options = ("service", "logs", "fast", "-f", "--lines", "all")
    go = add_writer(world, "fast", streams, size, start=False)
    with world.cli.start(*process_options) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = Reader(process.stderr)
        assert process.stdout.readline() == b"begin\n"
        # Nothing reads the output until the writer has gone round its log, so the follower is overtaken.
        begin(go)
        wait_until(lambda: deleted(world, "fast") > 200, "more to be deleted than all buffers on the way hold")
        out = Reader(process.stdout)
        wait_until(lambda: out.data.count(b"\n") > 100, "some lines")
        go.touch()
        count = len(streams.split(","))
        wait_until(lambda: out.data.count(b"the end\n") == count, "the last line of each stream")
        interrupted(process, out, errors)
    for name in streams.split(","):
        numbers = numbers_of(out.data, name.encode(), size)
        assert numbers == sorted(set(numbers))
    gaps = [int(gap) for gap in GAP.findall(errors.data.decode())]
    assert len(gaps) == errors.data.count(b"\n") > 0
    total = int((world.root / "fast.go.total").read_text()) * count + len("begin\n")
    assert len("begin\n") + len(out.data) + sum(gaps) == total


def test_read_without_follow_ends_behind_a_fast_writer(world: ServiceWorld) -> None:
    go = add_writer(world, "fast", "out,err")
    wait_until(lambda: deleted(world, "fast"), "the first segment to be deleted")
    for options in ((), ("--lines", "1000"), ("--since", "1h"), ("--stderr",)):
        process = world.cli.start("service", "logs", "fast", *options)
        out, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 0, (options, err.decode())
        # The log may have ended within the last line of each stream.
        whole = b"".join(line for line in out.splitlines(keepends=True) if LINE.fullmatch(line))
        assert len(out.splitlines()) - len(whole.splitlines()) <= 2
        assert all(GAP.fullmatch(line) for line in err.decode().splitlines())
        for name in (b"out", b"err"):
            numbers = numbers_of(whole, name, 40)
            assert numbers == sorted(set(numbers))
        assert whole or err, "what the writer deleted before it was read is marked"
    go.touch()


@pytest.mark.parametrize("names", [("one",), ("one", "two")])
def test_follower_waits_for_the_daemon_and_loses_and_repeats_nothing(
    world: ServiceWorld, names: tuple[str, ...]
) -> None:
    for name in names:
        world.puppet(name)
        world.call(StartService(service=name))
        world.order(name, "say before")
    with world.cli.start("service", "logs", *names, "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = Reader(process.stdout), Reader(process.stderr)
        expected = ["before"]

        def has_all() -> bool:
            return out.data.count(b"\n") >= len(expected) * len(names)

        wait_until(has_all, "the first lines")
        for ending in ("killed", "stopped", "killed"):
            told = err.data.count(b"\n")
            world.daemon.kill() if ending == "killed" else world.daemon.stop()
            wait_until(lambda told=told: err.data.count(b"\n") > told, "the note that it waits")  # type: ignore[misc]
            for word in ("while it was", f"{ending} and"):
                expected.append(word)
                for name in names:
                    world.order(name, f"say {word}")
            world.daemon.start()
            wait_until(has_all, f"the lines from while the daemon was {ending}")
            expected.append("again")
            for name in names:
                world.order(name, "say again")
            wait_until(has_all, "the line of the next daemon")
        interrupted(process, out, err)
    lines = out.data.decode().splitlines()
    for name in names:
        mine = [line.partition(" | ")[2] for line in lines if line.startswith(f"{name:<3} |")] if names[1:] else lines
        assert mine == expected
    assert len(err.data.splitlines()) == 3
    assert all(b"Waiting" in line for line in err.data.splitlines())


def test_follower_that_has_printed_nothing_yet_loses_nothing_either(world: ServiceWorld) -> None:
    for name in ("quiet", "loud"):
        world.puppet(name)
        world.call(StartService(service=name))
        world.order(name, "say old")
        wait_until(lambda name=name: world.output(name) == b"old\n", "the first line")  # type: ignore[misc]
    with world.cli.start("service", "logs", "quiet", "loud", "-f", "--lines", "0") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        out, err = Reader(process.stdout), Reader(process.stderr)

        def is_followed() -> bool:
            world.order("loud", "say once more")
            return b"once more" in out.data

        wait_until(is_followed, "the line of the other service")
        world.daemon.kill()
        wait_until(lambda: b"Waiting" in err.data, "the note that it waits")
        world.order("quiet", "say new")
        world.daemon.start()
        wait_until(lambda: b"quiet | new\n" in out.data, "the new line")
        interrupted(process, out, err)
    assert b"old" not in out.data
    assert out.data.count(b"new") == 1


def test_follower_ends_when_the_service_is_removed_while_it_waits_for_the_daemon(world: ServiceWorld) -> None:
    world.add("gone", "echo up", type=ServiceType.ONESHOT)
    world.call(StartService(service="gone", wait=True))
    with world.cli.start("service", "logs", "gone", "-f") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGSTOP)  # so that the next daemon can remove it before the follower is there
        world.daemon.kill()
        world.daemon.start()
        with connect(world.daemon) as client:
            client.call(RemoveService(service="gone"))
        process.send_signal(signal.SIGCONT)
        out, err = process.communicate(timeout=WAIT_S)
        assert (process.returncode, out) == (0, b""), err.decode()


def test_follower_ends_on_ctrl_c_and_with_its_reader_while_it_waits_for_the_daemon(world: ServiceWorld) -> None:
    world.add("up", "echo up", type=ServiceType.ONESHOT)
    world.call(StartService(service="up", wait=True))
    command = ("service", "logs", "up", "-f")
    with world.cli.start(*command) as interrupted_one, world.cli.start(*command) as closed_one:
        for process in (interrupted_one, closed_one):
            assert process.stdout is not None
            assert process.stdout.readline() == b"up\n"
        world.daemon.kill()
        for process in (interrupted_one, closed_one):
            assert process.stderr is not None
            assert b"Waiting" in process.stderr.readline()
        interrupted_one.send_signal(signal.SIGINT)
        assert interrupted_one.wait(WAIT_S) == 130
        assert closed_one.stdout is not None
        closed_one.stdout.close()
        assert closed_one.wait(WAIT_S) == 141


def test_first_connection_is_not_waited_for(world: ServiceWorld) -> None:
    world.daemon.kill()
    assert world.cli("service", "logs", "none", "-f").code == 3


def test_lines_of_streams_and_runs_are_not_glued_on_the_command_line(world: ServiceWorld) -> None:
    world.add("parts", "printf out; printf err >&2; exit 0", type=ServiceType.ONESHOT)
    for _ in range(2):
        world.call(StartService(service="parts", wait=True))
    process = world.cli.start("service", "logs", "parts")
    out, err = process.communicate(timeout=WAIT_S)
    assert sorted(out.split(b"\n")) == [b"err", b"err", b"out", b"out"]
    assert err == b""
    process = world.cli.start("service", "logs", "parts", "--stdout")
    assert process.communicate(timeout=WAIT_S)[0] == b"out\nout"


def test_cursor_of_each_piece_continues_after_it_over_a_restart_of_the_daemon(world: ServiceWorld) -> None:
    script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; printf half; exit 0"
    world.add("both", script, type=ServiceType.ONESHOT)
    for _ in range(2):
        world.call(StartService(service="both", wait=True))
    pieces = world.pieces("both", mark_start=True)
    assert not pieces[0].data
    world.daemon.kill()
    world.daemon.start()
    wait_until(lambda: world.daemon.socket_path.exists(), "the daemon")
    for number, piece in enumerate(pieces):
        again = world.pieces("both", cursor=piece.cursor)
        for stream in LogStream:
            expected = b"".join(each.data for each in pieces[number + 1 :] if each.stream is stream)
            assert b"".join(each.data for each in again if each.stream is stream) == expected
    for bad in ("", "x", pieces[-1].cursor.replace(".", ".9", 1), "1.2.3"):
        with pytest.raises(ServiceCursorInvalid) as caught:
            world.pieces("both", cursor=bad)
        assert caught.value.details == {"service": "both"}
        assert caught.value.hint


def test_gap_is_a_field_of_a_record_in_json_and_the_cursor_is_one(world: ServiceWorld) -> None:
    go = add_writer(world, "fast", start=False)
    with world.client() as client:
        with client.stream(GetServiceStdout(service="fast", mark_start=True, follow=True)) as stream:
            cursor = next(iter(stream)).cursor
        begin(go)
        wait_until(lambda: deleted(world, "fast"), "the first segment to be deleted")
        go.touch()
        wait_until(lambda: world.output("fast").endswith(b"the end\n"), "the end")
        pieces = world.pieces("fast", cursor=cursor)
    gaps = [piece.dropped_bytes for piece in pieces if piece.dropped_bytes]
    total = int((world.root / "fast.go.total").read_text()) + len("begin\n")
    assert sum(gaps) + sum(len(piece.data) for piece in pieces) == total - LogCursor.parse(cursor).offsets[0]
    assert gaps
    records = [json.loads(line) for line in world.cli.ok("service", "logs", "fast", "-o", "jsonl").lines]
    assert {record["dropped_bytes"] for record in records} == {0}
    assert all(record["cursor"] for record in records)
