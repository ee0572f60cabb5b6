"""``nexusctl events``: its output, and how following ends."""

from __future__ import annotations

import json
import re
import signal
import subprocess

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess


def next_line(process: subprocess.Popen[bytes]) -> str:
    """The next line that a running nexusctl prints."""
    assert process.stdout is not None
    return process.stdout.readline().decode()


def test_events_table_shows_kind_time_subject_and_actor(cli: Cli) -> None:
    cli.ok("vm", "create", "a", "--actor", "agent-7")
    heading, row = cli.ok("events", "--no-follow").lines
    assert heading == "SEQ      TIME                    KIND                       SUBJECT                  BY"
    pattern = r"1        \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC vm\.created {17}a {24}agent-7"
    assert re.fullmatch(pattern, row)


def test_events_wide_adds_pid_and_detail(cli: Cli) -> None:
    cli.ok("vm", "create", "a", "--actor", "agent-7")
    events = cli.ok("events", "--no-follow", "-o", "json").json
    heading, row = cli.ok("events", "--no-follow", "-o", "wide").lines
    assert heading.split()[-3:] == ["OP", "PID", "DETAIL"]
    assert row[heading.index("BY") :].split()[:3] == ["agent-7", str(events[0]["operation"]), str(events[0]["pid"])]
    assert json.loads(row[heading.index("DETAIL") :]) == events[0]["detail"]


def test_events_columns_stay_aligned_for_the_longest_kind(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    backup = cli.ok("db", "backup", "-o", "name").out.strip()
    daemon.stop()
    cli.ok("db", "restore", backup, "--yes")
    daemon.start()
    heading, *rows = cli.ok("events", "--no-follow").lines
    assert [row[heading.index("KIND") :].split()[0] for row in rows] == ["vm.created", "database.restored"]
    assert all(row[heading.index("SUBJECT") - 1] == " " != row[heading.index("SUBJECT")] for row in rows)


def test_events_filters_select_by_number_kind_and_subject(cli: Cli) -> None:
    for name in ("a", "b"):
        cli.ok("vm", "create", name)
    cli.ok("vm", "delete", "a", "--yes")

    def seqs(*options: str) -> list[str]:
        return cli.ok("events", "--no-follow", "-o", "name", *options).lines

    assert seqs() == ["1", "2", "3"]
    assert seqs("--after", "1") == ["2", "3"]
    assert seqs("--kind", "vm.d*") == ["3"]
    assert seqs("--kind", "vm.d*", "--kind", "vm.created") == ["1", "2", "3"]
    assert seqs("--subject", "a") == ["1", "3"]
    assert cli("events", "--no-follow", "--kind", "none") == (0, "", "No events found.\n")


@pytest.mark.parametrize("output", ["table", "jsonl", "name"])
def test_events_follow_prints_each_event_when_it_happens(cli: Cli, output: str) -> None:
    following = cli.start("events", "-o", output, "--no-header")
    for number, name in enumerate(("a", "b"), start=1):
        cli.ok("vm", "create", name)
        line = next_line(following)
        seq = json.loads(line)["seq"] if output == "jsonl" else int(line.split()[0])
        assert seq == number
    following.send_signal(signal.SIGINT)
    _out, err = following.communicate(timeout=30)
    assert following.returncode == 130, err.decode()
    option = "" if output == "table" else f" -o {output}"
    assert err.decode() == f"\n  Continue from here: nexusctl events{option} --after 2\nInterrupted.\n"


def test_events_follow_ends_with_a_resume_hint_when_the_daemon_stops(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    following = cli.start("events", "-o", "name")
    assert next_line(following) == "1\n"
    daemon.stop()
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out) == (3, b"")
    assert err.decode() == (
        "\n  Continue from here: nexusctl events -o name --after 1\nError: the daemon is stopping\n"
    )
    daemon.start()
    cli.ok("vm", "create", "b")
    assert cli.ok("events", "--no-follow", "--after", "1", "-o", "name").out == "2\n"


def test_events_resume_hint_repeats_the_filters(cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    following = cli.start("events", "--kind", "vm.*", "--subject", "a", "-o", "jsonl")
    next_line(following)
    following.send_signal(signal.SIGINT)
    _out, err = following.communicate(timeout=30)
    assert err.decode().splitlines()[1] == (
        "  Continue from here: nexusctl events --kind 'vm.*' --subject a -o jsonl --after 1"
    )


def test_events_after_an_unknown_number_exits_5(cli: Cli) -> None:
    code, out, err = cli("events", "--after", "99", "--no-follow")
    assert (code, out) == (5, "")
    assert err.startswith("Error: cannot resume after event 99")


def test_events_follow_ends_when_stdout_is_closed_without_new_events(cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    process = cli.start("events", "-o", "jsonl")
    assert process.stdout is not None
    assert process.stderr is not None
    with process:
        assert "vm.created" in next_line(process)
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""
