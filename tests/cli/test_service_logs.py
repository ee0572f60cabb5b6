"""``service logs``: bytes and records, of one service and of several, with and without following."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import pytest
from support.cli import Cli
from support.raw import wait_until

from nexus.cli.units import parse_since

BYTES = b"a\xff\x1b[31mb\nerr\nno newline"


def serve(cli: Cli, name: str, script: str) -> None:
    """Start a service that runs a Python script and then sleeps."""
    cli.ok(
        "service", "add", name, "--start", "--", sys.executable, "-c", f"import os, time\n{script}\ntime.sleep(1000)"
    )


def out_of(cli: Cli, *arguments: str) -> bytes:
    process = cli.start("service", "logs", *arguments)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    return out


@pytest.fixture
def written(cli: Cli) -> Cli:
    """nexusctl beside a service that has written bytes that are not UTF-8 text to both of its streams."""
    serve(cli, "a", r"os.write(1, b'a\xff\x1b[31mb\n'); os.write(2, b'err\n'); os.write(1, b'no newline')")
    wait_until(lambda: len(out_of(cli, "a")) == len(BYTES), "the output")
    return cli


def test_logs_to_a_pipe_have_every_byte_of_both_streams(written: Cli) -> None:
    out = out_of(written, "a")
    assert sorted(out.split(b"\n")) == sorted(BYTES.split(b"\n"))
    assert out_of(written, "a", "--stderr") == b"err\n"
    assert out_of(written, "a", "--stdout") == b"a\xff\x1b[31mb\nno newline"
    assert out_of(written, "a", "--stdout", "--lines", "1") == b"no newline"
    assert out_of(written, "a", "--lines", "0") == b""
    assert out_of(written, "a", "--since", "1h") == out
    assert out_of(written, "a", "--since", "2100-01-01") == b""


def test_logs_as_json_are_records(written: Cli) -> None:
    records = [json.loads(line) for line in out_of(written, "a", "-o", "jsonl").splitlines()]
    assert {record["service"] for record in records} == {"a"}
    text = "".join(record["text"] for record in records if record["stream"] == "stdout")
    assert text == "a\ufffd\x1b[31mb\nno newline"
    assert all(record["at"] > 1_600_000_000_000 for record in records)
    assert json.loads(out_of(written, "a", "-o", "json")) == records


def test_logs_prefix_lines_with_times_and_names(written: Cli) -> None:
    serve(written, "long-name", r"os.write(1, b'x\n\ny')")
    wait_until(lambda: out_of(written, "long-name").endswith(b"y"), "the output")
    stamped = out_of(written, "a", "--stderr", "--timestamps").decode()
    assert stamped[4] == stamped[7] == "-"
    assert stamped[10] == "T"
    assert stamped[23:] == "Z err\n"
    both = out_of(written, "a", "long-name", "--stdout").split(b"\n")
    assert both == [
        b"a         | a\xff\x1b[31mb",
        b"a         | no newline",
        b"long-name | x",
        b"long-name | ",
        b"long-name | y",
    ]


def test_logs_on_a_terminal_show_100_lines_and_end_the_last_one(cli: Cli) -> None:
    serve(cli, "a", "print('\\n'.join(map(str, range(1, 301))), end='', flush=True)")
    wait_until(lambda: out_of(cli, "a").endswith(b"300"), "the output")
    with cli.terminal("service", "logs", "a") as terminal:
        code, text = terminal.finish()
    assert code == 0
    assert text.endswith("299\n300\n")
    assert text.startswith("201\n")
    with cli.terminal("service", "logs", "a", "--lines", "all") as terminal:
        assert terminal.finish()[1].startswith("1\n2\n")


def test_logs_follow_continues_across_a_restart_and_ends_quietly_on_ctrl_c(cli: Cli, root: Path) -> None:
    cli.ok("service", "add", "a", "--run", "echo run; exec sleep 1000", "--start")
    with cli.terminal("service", "logs", "a", "-f") as terminal:
        terminal.wait_for("run\n")
        cli.ok("service", "restart", "a")
        terminal.wait_for("run\nrun\n")
        terminal.interrupt()
        code, text = terminal.finish()
    assert code == 130
    assert text.replace("^C", "") == "run\nrun\n"


def test_logs_follow_several_services(cli: Cli, root: Path) -> None:
    fifo = root / "fifo"
    os.mkfifo(fifo)
    serve(cli, "a", "print('a is up', flush=True)")
    serve(cli, "bb", f"print('b is up', flush=True)\nprint(open({str(fifo)!r}).read(), end='', flush=True)")
    with cli.terminal("service", "logs", "a", "bb", "-f") as terminal:
        terminal.wait_for("a  | a is up\n")
        terminal.wait_for("bb | b is up\n")
        fifo.write_text("late\n")
        terminal.wait_for("bb | late\n")
        terminal.interrupt()
        assert terminal.finish()[0] == 130


def test_logs_follow_ends_when_the_service_is_removed(cli: Cli) -> None:
    serve(cli, "a", "print('up', flush=True)")
    process = cli.start("service", "logs", "a", "-f")
    assert process.stdout is not None
    assert process.stdout.readline() == b"up\n"
    cli.ok("service", "remove", "a", "--force", "--yes")
    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0


def test_logs_follow_waits_for_a_daemon_that_stops_and_continues(cli: Cli, root: Path) -> None:
    fifo = root / "fifo"
    os.mkfifo(fifo)
    cli.ok("service", "add", "a", "--run", f"echo up; cat {fifo}; exec sleep 1000", "--start")
    process = cli.start("service", "logs", "a", "-f")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == b"up\n"
    cli.ok("daemon", "stop")
    assert b"Waiting for it to run again; Ctrl-C ends this." in process.stderr.readline()
    fifo.write_text("while no daemon ran\n")
    cli.ok("daemon", "start")
    try:
        assert process.stdout.readline() == b"while no daemon ran\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60) == (b"", b"")
        assert process.returncode == 130
    finally:
        cli.ok("daemon", "stop")  # it is detached, so the fixture does not know it


def test_logs_into_a_closed_pipe_are_not_an_error(cli: Cli) -> None:
    serve(cli, "a", "print('x' * 99 + '\\n' * 1 * 1, end='') or os.write(1, (b'y' * 99 + b'\\n') * 20000)")
    wait_until(lambda: len(out_of(cli, "a", "--lines", "15000")) >= 1_500_000, "the output")
    result = cli.shell("nexusctl service logs a | head -n 1; echo ${PIPESTATUS[0]}")
    assert result.lines[-1] == str(128 + signal.SIGPIPE)
    assert result.err == ""


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("5m", 1_700_000_000_000 - 300_000),
        ("1.5s", 1_700_000_000_000 - 1500),
        ("1970-01-01 00:00:10", 10_000),
        ("1970-01-01 00:00:10 UTC", 10_000),
        ("1970-01-01T00:00:10.500Z", 10_500),
        ("1970-01-01T01:00:10+01:00", 10_000),
        ("1970-01-02", 86_400_000),
        ("1960-01-01", 0),
    ],
)
def test_logs_since_accepts_durations_and_times(text: str, at: int) -> None:
    assert parse_since(text, 1_700_000_000_000) == at


@pytest.mark.parametrize("options", [(), ("-o", "jsonl"), ("--timestamps",)])
def test_logs_follow_ends_when_stdout_is_closed_without_new_output(cli: Cli, options: tuple[str, ...]) -> None:
    serve(cli, "a", "print('up', flush=True)")
    process = cli.start("service", "logs", "a", "-f", *options)
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert b"up" in process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
