"""Terminals from the outside: programs that nexusctl is attached to, in terminals of their own and in tmux."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.cli import Cli, Terminal
from support.daemon import DaemonProcess
from support.jobs import Jobs
from support.raw import wait_until
from support.tmux import Tmux

from nexus.client.aio import Client, Stream
from nexus.client.blocking import BlockingClient
from nexus.jobs.commands import AttachJob, SendJobInput
from nexus.jobs.records import Job
from nexus.jobs.states import JobStatus
from nexus.records.processes import AttachmentLost, InputUnavailable, TerminalEnd, TerminalOutput
from nexus.services.commands import AttachService, SendServiceInput

FULL_SCREEN = [
    sys.executable,
    "-I",
    "-c",
    """
import os, signal, sys, termios, tty
def show(*_):
    size = os.get_terminal_size()
    os.write(1, f"\\x1b[H\\x1b[2Jsize {size.lines}x{size.columns}.".encode())
before = termios.tcgetattr(0)
tty.setraw(0)
signal.signal(signal.SIGWINCH, show)
os.write(1, b"\\x1b[?1049h\\x1b[?25l\\x1b[?1000h\\x1b[>4;2m")
show()
while (key := os.read(0, 1)) != b"q":
    os.write(1, b"key " + key.hex().encode() + b".")
os.write(1, b"\\x1b[?1000l\\x1b[?25h\\x1b[?1049l")
termios.tcsetattr(0, termios.TCSADRAIN, before)
sys.exit(7)
""",
]
"""Has the alternate screen, hides the cursor, tells the size and each key, and exits with 7 after a q."""

COUNT = [
    sys.executable,
    "-I",
    "-c",
    """
import hashlib, os, sys, tty
tty.setraw(0)
os.write(1, b"ready.")
left, seen = int(sys.argv[1]), hashlib.sha256()
while left:
    data = os.read(0, 65536)
    seen.update(data)
    left -= len(data)
print(seen.hexdigest(), end=".")
""",
]


@pytest.fixture
def jobs(daemon: DaemonProcess) -> Iterator[Jobs]:
    jobs = Jobs(daemon)
    yield jobs
    jobs.close()


@pytest.fixture
def cli(daemon: DaemonProcess) -> Cli:
    return Cli(daemon.environment)


@pytest.fixture
def attach(cli: Cli) -> Iterator[Callable[..., Terminal]]:
    """Attaches a terminal to a job or a service."""
    with contextlib.ExitStack() as stack:

        def attached(to: Job | str, *, rows: int = 24, columns: int = 80, **environment: str) -> Terminal:
            name = to if isinstance(to, str) else str(to.number)
            terminal = cli.terminal("attach", name, rows=rows, columns=columns, **environment)
            return stack.enter_context(terminal)

        yield attached


def given_back(terminal: Terminal) -> None:
    """Checks that a terminal is as it was before a program had it."""
    assert terminal.is_as_before()
    shown = terminal.seen
    for on, off in ((b"\x1b[?1049h", b"\x1b[?1049l"), (b"\x1b[?25l", b"\x1b[?25h"), (b"\x1b[?1000h", b"\x1b[?1000l")):
        assert shown.rfind(off) > shown.rfind(on), off
    assert shown.rfind(b"\x1b[>4;0m") > shown.rfind(b"\x1b[>4;2m")


def test_smallest_terminal_gives_the_size_and_leaves_it_when_it_goes(
    jobs: Jobs, attach: Callable[..., Terminal]
) -> None:
    job = jobs.submit(FULL_SCREEN, tty=True)
    first = attach(job, rows=24, columns=80)
    first.wait_for("size 24x80.")
    second = attach(job, rows=20, columns=100)
    first.wait_for("size 20x80.")
    second.wait_for("size 20x80.")
    second.resize(30, 60)
    first.wait_for("size 24x60.")
    first.type("x")
    second.wait_for("key 78.")
    second.type("\x1d")
    code, text = second.finish()
    assert code == 0
    assert text.endswith(
        f"\nDetached from job {job.number}, which goes on.\n\n  Attach again: nexusctl job attach {job.number}\n"
    )
    given_back(second)
    first.forget()
    first.wait_for("size 24x80.")
    first.type("q")
    assert first.finish()[0] == 7
    assert first.is_as_before()
    assert jobs.ended(job).exit_code == 7


def test_killed_terminal_leaves_the_program_and_its_size_to_the_others(
    jobs: Jobs, attach: Callable[..., Terminal]
) -> None:
    job = jobs.submit(FULL_SCREEN, tty=True)
    first, second = attach(job, rows=24, columns=80), attach(job, rows=10, columns=40)
    first.wait_for("size 10x40.")
    first.forget()
    second.signal(signal.SIGKILL)
    first.wait_for("size 24x80.")
    first.type("x")
    first.wait_for("key 78.")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_signal_that_ends_nexusctl_leaves_a_sane_terminal(
    jobs: Jobs, attach: Callable[..., Terminal], number: signal.Signals
) -> None:
    terminal = attach(jobs.submit(FULL_SCREEN, tty=True))
    terminal.wait_for("size 24x80.")
    terminal.signal(number)
    assert terminal.finish()[0] == -number
    given_back(terminal)


def test_size_is_that_of_the_terminal_and_not_of_variables(jobs: Jobs, attach: Callable[..., Terminal]) -> None:
    terminal = attach(jobs.submit(FULL_SCREEN, tty=True), rows=33, columns=99, LINES="5", COLUMNS="7")
    terminal.wait_for("size 33x99.")
    terminal.resize(34, 98)
    terminal.wait_for("size 34x98.")


@pytest.mark.slow
def test_attached_terminals_go_on_with_the_next_daemon(
    jobs: Jobs, daemon: DaemonProcess, attach: Callable[..., Terminal]
) -> None:
    job = jobs.submit(FULL_SCREEN, tty=True)
    first, second = attach(job, rows=24, columns=80), attach(job, rows=20, columns=100)
    first.wait_for("size 20x80.")
    second.wait_for("size 20x80.")
    daemon.kill()
    first.type("a")  # while there is no daemon
    second.resize(22, 70)
    for terminal in (first, second):
        terminal.forget()
    jobs.begin_anew()
    first.wait_for("key 61.")
    second.wait_for("key 61.")
    first.wait_for("size 22x70.")
    first.type("q")
    assert first.finish()[0] == second.finish()[0] == 7
    assert first.is_as_before()
    assert second.is_as_before()


def test_detaching_needs_no_daemon(jobs: Jobs, daemon: DaemonProcess, attach: Callable[..., Terminal]) -> None:
    terminal = attach(jobs.submit(FULL_SCREEN, tty=True))
    terminal.wait_for("size 24x80.")
    daemon.kill()
    terminal.type("\x1d")
    code, text = terminal.finish()
    assert (code, "Detached from job 1" in text) == (0, True)
    given_back(terminal)
    daemon.start()


def test_detaching_does_not_wait_for_a_program_that_takes_no_input(jobs: Jobs, attach: Callable[..., Terminal]) -> None:
    job = jobs.submit(["sh", "-c", "stty raw -echo; echo ready; exec sleep 1000"], tty=True)
    terminal = attach(job)
    terminal.wait_for("ready")
    terminal.type(b"x" * 600_000)
    terminal.type("\x1d")
    assert terminal.finish()[0] == 0
    assert terminal.is_as_before()


@pytest.mark.slow
def test_client_that_does_not_read_holds_up_neither_the_program_nor_others(
    jobs: Jobs, attach: Callable[..., Terminal]
) -> None:
    flood = "stty -echo; echo ready; read go; head -c 30000000 /dev/zero | tr '\\0' 'x'; echo; echo over; read last"
    job = jobs.submit(["sh", "-c", flood], tty=True)
    stopped, other = attach(job), attach(job)
    stopped.wait_for("ready")
    other.wait_for("ready")
    stopped.signal(signal.SIGSTOP)
    other.type("\n")
    wait_until(lambda: jobs.output(job, lines=1) == b"over\r\n", "the end of the flood")
    other.wait_for("over")
    stopped.signal(signal.SIGCONT)
    stopped.wait_for("over")
    stopped.type("\n")
    assert stopped.finish()[0] == other.finish()[0] == 0


def test_paste_of_a_mebibyte_arrives_whole(jobs: Jobs, attach: Callable[..., Terminal]) -> None:
    import hashlib

    data = bytes(byte for byte in range(256) if byte != 0x1D) * 4112  # every byte but the one that detaches
    terminal = attach(jobs.submit([*COUNT, str(len(data))], tty=True))
    terminal.wait_for("ready.")
    terminal.type(data)
    terminal.wait_for(hashlib.sha256(data).hexdigest() + ".")
    assert terminal.finish()[0] == 0


def test_every_byte_of_the_output_reaches_the_terminal(jobs: Jobs, attach: Callable[..., Terminal]) -> None:
    data = bytes(range(256)) + b"\x1b]0;title\x07\x1b[31mred\x1b[0m\xff\xfe\x00"
    script = f"import os, tty; tty.setraw(0); os.read(0, 1); os.write(1, {data!r} + b'over')"
    terminal = attach(jobs.submit([sys.executable, "-I", "-c", script], tty=True))
    terminal.wait_for("detaches.")
    terminal.type("x")
    terminal.wait_for("over")
    assert data + b"over" in terminal.seen


def test_program_that_ends_while_one_types(jobs: Jobs, attach: Callable[..., Terminal]) -> None:
    job = jobs.submit("read line; exit 3", tty=True)
    terminal = attach(job)
    terminal.wait_for("detaches.")
    terminal.type("one\n" + "two\n" * 1000)
    assert terminal.finish()[0] == 3
    assert terminal.is_as_before()


def test_attaching_to_what_is_queued_waits(jobs: Jobs, cli: Cli) -> None:
    jobs.pause("default")
    job = jobs.submit("echo hello; read x", tty=True)
    with cli.terminal("attach", str(job.number)) as terminal:
        terminal.wait_for(f"Waiting until job {job.number} begins; Ctrl-C ends this.\n")
        jobs.resume("default")
        terminal.wait_for("hello")
        assert f"Job {job.number}. Ctrl-] detaches.\n" in terminal.text
        terminal.type("\n")
        assert terminal.finish()[0] == 0
    jobs.pause("default")
    job = jobs.submit("read x", tty=True)
    with cli.terminal("attach", str(job.number)) as terminal:
        terminal.wait_for("Waiting")
        terminal.type("\x03")
        code, text = terminal.finish()
    assert code == 130
    assert text.endswith(f"Interrupted.\n  Job {job.number} goes on.\n  Cancel it: nexusctl job cancel {job.number}\n")


def test_attaching_to_what_has_ended_says_so(jobs: Jobs, cli: Cli) -> None:
    job = jobs.ended(jobs.submit("exit 4", tty=True))
    sentence = (
        f"Error: cannot attach to job 1: it has ended (failed)\n  Look at its output: nexusctl job logs {job.number}\n"
    )
    assert cli("attach", "1") == (5, "", sentence)
    assert cli("job", "attach", "#1") == (5, "", sentence)
    sentence = sentence.replace("attach to", "send input to")
    assert cli("send", "1", "x") == (5, "", sentence)
    assert cli("job", "send", "1", "x") == (5, "", sentence)


def test_pipes_carry_every_byte_both_ways(jobs: Jobs, cli: Cli, root: Path) -> None:
    job = jobs.submit(["cat"], stdin_open=True)
    data = bytes(range(256)) * 5000 + b"\x1d\xff\x00\x1b[31m"
    (root / "input").write_bytes(data)
    program = [sys.executable, "-m", "nexus.cli.main", "attach", str(job.number)]
    with (root / "input").open("rb") as file:  # a regular file, which epoll does not take
        done = subprocess.run(program, env=cli.environment, stdin=file, capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == data
    job = jobs.submit(["sh", "-c", "cat; echo error >&2; exit 3"], stdin_open=True)
    done = subprocess.run(
        [*program[:-1], str(job.number)],
        env=cli.environment,
        input=b"x\n",
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout, done.stderr) == (3, b"x\n", b"error\n")


def test_line_into_a_pipe_and_no_input_at_all(jobs: Jobs, cli: Cli) -> None:
    one, two = (jobs.submit(["cat"], stdin_open=True) for _ in range(2))
    assert cli.shell(f"echo x | nexusctl attach {one.number}") == (0, "x\n", "")
    assert cli.shell(f"nexusctl attach {two.number} </dev/null") == (0, "", "")
    three = jobs.submit("echo ready; read x; echo got $x", stdin_open=True)
    program = ["sh", "-c", f"exec nexusctl attach {three.number} <&-"]
    with subprocess.Popen(program, env=cli.environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        cli.ok("send", str(three.number), "x")
        assert process.communicate(timeout=60)[0] == "got x\n"
    assert process.returncode == 0


def test_open_input_on_a_terminal_is_typed_in_lines(jobs: Jobs, cli: Cli) -> None:
    job = jobs.submit(["cat"], stdin_open=True)
    with cli.terminal("attach", str(job.number)) as terminal:
        terminal.wait_for(f"Job {job.number}. Ctrl-D ends its input, Ctrl-C detaches.\n")
        terminal.type("one\n")
        terminal.wait_for("one\none\n")
        terminal.type("\x03")
        assert terminal.finish()[0] == 130
    assert jobs.get(job).status is JobStatus.EXECUTING
    with cli.terminal("attach", str(job.number)) as terminal:
        terminal.wait_for("detaches.")
        terminal.type("\x04")
        assert terminal.finish()[0] == 0


def test_run_on_a_terminal_shows_the_output_of_a_program_that_ends_at_once(cli: Cli) -> None:
    for code in range(4):
        with cli.terminal("job", "run", "-it", "--", "sh", "-c", f"echo hello; exit {code}") as terminal:
            ended, text = terminal.finish()
        assert (ended, text.count("hello")) == (code, 1), text


def test_hang_up_of_a_terminal_does_not_end_the_program(jobs: Jobs, cli: Cli) -> None:
    """A window that is closed hangs up; the program goes on and gets no end of its input."""
    job = jobs.submit("echo ready; read line; echo got $line; read line", tty=True)
    with cli.terminal("attach", str(job.number)) as terminal:
        terminal.wait_for("ready")
        pid = terminal.pid
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the end of nexusctl")
    assert jobs.get(job).status is JobStatus.EXECUTING
    cli.ok("send", str(job.number), "text")
    wait_until(lambda: b"got text" in jobs.output(job), "the answer")


# In tmux


@pytest.fixture
def tmux(root: Path, cli: Cli) -> Iterator[Tmux]:
    tmux = Tmux(root, cli)
    yield tmux
    tmux.close()


def lines(screen: list[str]) -> list[str]:
    return [line for line in screen if line]


@pytest.mark.slow
@pytest.mark.parametrize("program", ["less", "vim"])
def test_full_screen_program_in_two_terminals_over_a_restart(
    jobs: Jobs, daemon: DaemonProcess, tmux: Tmux, root: Path, program: str
) -> None:
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    (root / "text").write_text("".join(f"line {number}\n" for number in range(1, 501)))
    words = (
        [program, str(root / "text")] if program == "less" else ["vim", "-u", "NONE", "-N", "-n", str(root / "text")]
    )
    job = jobs.submit(words, tty=True, environment={**daemon.environment, "TERM": "screen-256color"})
    tmux.open("one", 24, 80, "attach", str(job.number))
    tmux.shows("one", "line 1")
    tmux.open("two", 12, 40, "attach", str(job.number))
    tmux.shows("two", "line 11")
    wait_until(lambda: lines(tmux.screen("one"))[-1] != "line 23", "the smaller size in the larger terminal")
    tmux.keys("one", "/", "line 250", "Enter")
    tmux.shows("two", "line 250")
    tmux.shows("one", "line 250")
    daemon.kill()
    jobs.begin_anew()

    def is_at_the_end() -> bool:
        tmux.keys("one", "G")  # programs drop what was typed when their size changes, as it does now
        return any("line 500" in line for line in tmux.screen("two"))

    wait_until(is_at_the_end, "the end of the text")
    tmux.shows("one", "line 500")
    tmux.keys("two", "C-]")
    tmux.shows("two", "exit code 0")
    assert (tmux.fact("two", "alternate_on"), tmux.fact("two", "cursor_flag")) == ("0", "1")
    assert any(f"Detached from job {job.number}" in line for line in tmux.screen("two"))
    wait_until(lambda: len(lines(tmux.screen("one"))) > 12, "more rows than the smaller terminal has")
    tmux.run("kill-session", "-t", "one")
    assert jobs.get(job).status is JobStatus.EXECUTING
    tmux.open("three", 24, 80, "attach", str(job.number))
    tmux.shows("three", "line 500")
    tmux.keys("three", *(["q"] if program == "less" else [":q!", "Enter"]))
    tmux.shows("three", "exit code 0")
    assert jobs.ended(job).exit_code == 0


# Services


TOML = """
project = "shop"

[services.console]
run = "echo ready; while read -r line; do echo \\"got $line\\"; done; exit 3"
tty = true
restart = "no"

[services.filter]
run = ["cat"]
stdin = "open"
restart = "no"

[services.plain]
run = "exec sleep 1000"
"""


NO_INPUT = (
    'Error: cannot attach to service "plain": it was started without a terminal and without an open standard input\n'
    "  Give it a terminal: nexusctl service update shop/plain --tty\n"
    "  Restart it: nexusctl service restart shop/plain\n"
)


def test_services_with_a_terminal_and_an_open_input(daemon: DaemonProcess, root: Path) -> None:
    folder = root / "shop"
    folder.mkdir()
    (folder / "nexus.toml").write_text(TOML)
    cli = Cli(daemon.environment, folder)
    cli.ok("apply", "--yes")
    exported = cli.ok("export").out
    services = tomllib.loads(exported)["services"]
    assert {name: (one.get("tty"), one.get("stdin")) for name, one in services.items()} == {
        "console": (True, None),
        "filter": (None, "open"),
        "plain": (None, None),
    }
    (folder / "nexus.toml").write_text(exported)
    assert "Nothing to change" in cli.ok("apply", "--dry-run").out
    assert re.search(r"^Terminal: +yes$", cli.ok("service", "status", "console").out, re.MULTILINE)
    assert re.search(r"^Input: +open$", cli.ok("service", "status", "filter").out, re.MULTILINE)
    assert cli.ok("service", "status", "console", "-o", "json").json["service"]["tty"] is True

    with cli.terminal("attach", "console") as terminal:
        terminal.wait_for('Service "console". Ctrl-] detaches.\n')
        terminal.wait_for("ready")
        terminal.type("hello\n")
        terminal.wait_for("got hello")
        terminal.type("\x1d")
        code, text = terminal.finish()
    assert code == 0
    assert text.endswith(
        '\nDetached from service "console", which goes on.\n\n  Attach again: nexusctl attach shop/console\n'
    ), text
    assert cli.ok("send", "console", "sent") == (0, "", "")
    wait_until(lambda: "got sent" in cli.ok("service", "logs", "console").out, "the answer")
    assert Cli(daemon.environment).ok("send", "shop/console", "again") == (0, "", "")

    assert cli.shell("echo x | nexusctl attach filter") == (0, "x\n", "")
    assert cli("attach", "plain") == (
        5,
        "",
        NO_INPUT,
    )
    cli.ok("service", "stop", "plain")
    assert cli("send", "plain", "x") == (
        5,
        "",
        'Error: cannot send input to service "plain": it is stopped\n  Start it: nexusctl service start shop/plain\n',
    )
    cli.ok("service", "update", "shop/plain", "--tty")
    cli.ok("service", "start", "shop/plain")
    cli.ok("send", "plain", "x")


# The clients


@pytest.mark.parametrize("kind", ["job", "service"])
def test_blocking_client_attaches_types_and_resizes(jobs: Jobs, cli: Cli, daemon: DaemonProcess, kind: str) -> None:
    if kind == "job":
        job = jobs.running(jobs.submit(FULL_SCREEN, tty=True))
        attach, send = AttachJob(job.id, rows=30, columns=90), SendJobInput(job.id, data=b"yz")
    else:
        cli.ok("service", "add", "screen", "--tty", "--restart", "no", "--start", "--", *FULL_SCREEN)
        attach, send = AttachService("screen", rows=30, columns=90), SendServiceInput("screen", data=b"yz")
    clients = [BlockingClient(str(daemon.socket_path)) for _ in range(2)]
    with clients[0] as client, clients[1] as other, client.stream(attach) as stream:
        items = iter(stream)
        assert next(items).terminal is True
        seen = b""

        def until(word: bytes) -> None:
            nonlocal seen
            while word not in seen:
                seen += next(items).data

        until(b"size 30x90.")
        stream.send(b"x")
        until(b"key 78.")
        other.call(send)
        until(b"key 7a.")
        stream.send(control={"rows": 12, "columns": 34})
        until(b"size 12x34.")
        stream.send(b"q")
        for item in items:
            seen += item.data
        assert seen.endswith(b"\x1b[?1049l")
        stream.result  # noqa: B018 - the stream has ended as it should


@pytest.mark.parametrize("control", [{"rows": 0, "columns": 1}, {"rows": 1}, {"rows": "1", "columns": 1}, {"x": 1}])
def test_malformed_control_is_refused_and_the_program_goes_on(
    jobs: Jobs, daemon: DaemonProcess, control: dict[str, object]
) -> None:
    job = jobs.running(jobs.submit(FULL_SCREEN, tty=True))
    with BlockingClient(str(daemon.socket_path)) as client:
        with client.stream(AttachJob(job.id)) as stream:
            while b"size" not in next(iter(stream)).data:
                pass
            stream.send(control=control)
            with pytest.raises(Exception, match="cannot take"):
                list(stream)
        client.call(SendJobInput(job.id, data=b"q"))
    assert jobs.ended(job).exit_code == 7


def test_async_client_sends_more_than_its_credit_and_reads_all(jobs: Jobs, daemon: DaemonProcess) -> None:
    job = jobs.running(jobs.submit(["cat"], stdin_open=True))
    data = os.urandom(3_000_000)

    async def use() -> bytes:
        seen = bytearray()

        async def read(stream: Stream[TerminalOutput, TerminalEnd]) -> None:
            async for item in stream:
                seen.extend(item.data)

        async with (
            asyncio.timeout(60),
            Client(str(daemon.socket_path)) as client,
            client.stream(AttachJob(job.id)) as stream,
        ):
            reading = asyncio.create_task(read(stream))
            await stream.send(data)
            await stream.send(eof=True)
            await reading
        return bytes(seen)

    assert asyncio.run(use()) == data
    assert jobs.ended(job).status is JobStatus.COMPLETED


def test_async_client_types_into_a_service_until_its_end(cli: Cli, daemon: DaemonProcess) -> None:
    cli.ok("service", "add", "filter", "--stdin", "open", "--restart", "no", "--start", "--", "cat")

    async def use() -> None:
        async with asyncio.timeout(60), Client(str(daemon.socket_path)) as client:
            async with client.stream(AttachService("filter")) as stream:
                await client.call(SendServiceInput("filter", data=b"one\n"))
                await client.call(SendServiceInput("filter", data=b"two\n", eof=True))
                assert b"".join([item.data async for item in stream]) == b"one\ntwo\n"
            with pytest.raises(InputUnavailable, match="cannot send input to"):
                await client.call(SendServiceInput("filter", data=b"late"))

    asyncio.run(use())


@pytest.mark.parametrize("fields", [{"stdin_open": True}, {"tty": True}])
def test_input_that_is_sent_one_after_the_other_keeps_its_order(jobs: Jobs, fields: dict[str, bool]) -> None:
    job = jobs.running(jobs.submit("stty -echo 2>/dev/null; echo ready; cat", **fields))
    wait_until(lambda: b"ready" in jobs.output(job), "the program")
    for number in range(200):
        jobs.client.call(SendJobInput(job.id, data=b"%d\n" % number))
    jobs.client.call(SendJobInput(job.id, eof=True))
    assert jobs.ended(job).status is JobStatus.COMPLETED
    assert jobs.output(job).split() == [b"ready", *(b"%d" % number for number in range(200))]


def test_client_that_does_not_read_is_told_that_it_was_dropped(jobs: Jobs, daemon: DaemonProcess) -> None:
    job = jobs.running(jobs.submit("read x; head -c 30000000 /dev/zero; read x", stdin_open=True))
    with BlockingClient(str(daemon.socket_path)) as client, client.stream(AttachJob(job.id)) as stream:
        assert next(iter(stream)).terminal is False
        jobs.client.call(SendJobInput(job.id, data=b"\n"))
        wait_until(lambda: sum(len(piece.data) for piece in jobs.pieces(job)) > 10_000_000, "the output")
        with pytest.raises(AttachmentLost, match=f"cannot attach to job {job.number}"):
            list(stream)
    assert json.loads(cli_output(daemon, job))["status"] == "executing"


def cli_output(daemon: DaemonProcess, job: Job) -> str:
    return Cli(daemon.environment).ok("job", "inspect", str(job.number), "-o", "json").out
