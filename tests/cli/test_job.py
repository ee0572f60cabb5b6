"""``nexusctl job`` and ``nexusctl group``: words, formats and exit codes."""

from __future__ import annotations

import re

from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import wait_until


def test_submitted_job_is_listed_and_inspected(daemon: DaemonProcess, cli: Cli) -> None:
    done = cli.ok("job", "run", "echo out; echo err >&2; exit 3", "--label", "greeting", "--tag", "a")
    assert done.out == "Submitted job 1 (queued)\n"
    assert done.err == "\n  Follow its output: nexusctl job logs -f 1\n"
    assert cli("job", "wait", "1") == (1, "Job 1 failed: exited with 3\n", "")
    heading, line = cli.ok("job", "list").lines
    assert heading.split() == ["JOB", "STATUS", "GROUP", "EXIT", "TIME", "COMMAND"]
    assert re.fullmatch(r"1     failed     default  3     \d+ ms +greeting", line), line
    shown = cli.ok("job", "inspect", "1").out
    for text in ("Status:    failed: exited with 3", "Command:   echo out; echo err >&2; exit 3", "Tags:      a"):
        assert text in shown
    record = cli.ok("job", "inspect", "#1", "-o", "json").json
    assert (record["stdout"], record["stderr"], record["exit_code"]) == ("out\n", "err\n", 3)
    assert cli.ok("job", "list", "-o", "name", "--status", "failed").out == "1\n"
    assert "stdout" not in cli.ok("job", "list", "-o", "json").json[0]
    assert cli.ok("job", "logs", "1", "--stderr").out == "err\n"


def test_waited_job_gives_its_streams_and_its_code(daemon: DaemonProcess, cli: Cli) -> None:
    assert cli("job", "run", "--wait", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")
    assert cli("job", "run", "--wait", "kill -9 $$").code == 137
    missing = cli("job", "run", "--wait", "--", "/no/such/program")
    assert (missing.code, missing.out) == (125, "")
    assert missing.err == "Error: job 3 failed: /no/such/program: program not found\n"


def test_key_submits_a_repeated_line_once(daemon: DaemonProcess, cli: Cli) -> None:
    for _ in range(3):
        assert cli.ok("--key", "nightly-7", "job", "run", "--", "true").out.startswith("Submitted job 1 (")
    other = cli("--key", "nightly-7", "job", "run", "--", "false")
    assert other.code == 5
    assert "another request" in other.err
    assert cli.ok("job", "list", "-o", "name").out == "1\n"


def test_usage_of_run(daemon: DaemonProcess, cli: Cli) -> None:
    for words in (
        ("job", "run"),
        ("job", "run", "true", "--", "true"),
        ("job", "run", "--wait", "-o", "json", "true"),
        ("job", "run", "--stdin", "/no/such/file", "true"),
        ("job", "run", "--after", "x:never", "true"),
    ):
        assert cli(*words).code == 2, words
    assert cli("job", "run", "--after", "99", "true").code == 4
    assert cli("job", "run", "--group", "none", "true").code == 4
    assert cli.ok("job", "list").err == "No jobs found.\n"


def test_queue_is_changed_by_its_verbs(daemon: DaemonProcess, cli: Cli) -> None:
    assert cli.ok("group", "create", "held", "--slots", "1").out == 'Created job group "held" (slots: 1)\n'
    assert cli.ok("group", "pause", "held").out == 'Paused job group "held"\n'
    for _ in range(3):
        cli.ok("job", "run", "--group", "held", "--", "true")
    assert cli.ok("job", "stash", "1").out == "Stashed job 1\n"
    assert cli("job", "stash", "9").code == 4
    assert cli.ok("job", "move", "3").out == "Moved job 3\n"
    assert cli.ok("job", "update", "2", "--priority", "4").out == 'Updated job "2"\n'
    assert cli.ok("job", "start", "3").out.startswith("Started job 3 (")
    wait_until(lambda: cli.ok("job", "list", "--status", "completed", "-o", "name").out == "3\n", "the end of job 3")
    assert cli.ok("job", "enqueue", "1").out == "Queued job 1\n"
    listed = cli.ok("group", "list").lines
    assert [line.split()[0] for line in listed] == ["NAME", "default", "held"]
    assert listed[2].split()[1:] == ["1", "2", "0", "paused"]
    assert cli("group", "delete", "held", "--yes").code == 5
    assert cli.ok("job", "cancel", "1", "2").out == "Cancelled job 1\nCancelled job 2\n"
    assert cli("job", "cancel", "3").out == "Nothing to cancel: job 3 has ended (completed)\n"
    assert cli.ok("group", "resume", "held").out == 'Resumed job group "held"\n'
    assert cli.ok("job", "retry", "1").out == "Queued job 4 (attempt 2)\n"
    cli.ok("job", "wait")
    assert cli.ok("job", "prune", "--successful").out == "Deleted 2 jobs that had ended\n"
    assert cli.ok("job", "delete", "1", "2", "--yes").out == 'Deleted job "1"\nDeleted job "2"\n'
    assert cli.ok("group", "delete", "held", "--yes").out == 'Deleted job group "held"\n'


def test_words_of_other_tools_are_explained(daemon: DaemonProcess, cli: Cli) -> None:
    for word, meant in (("add", "run"), ("kill", "cancel"), ("ls", "list"), ("restart", "retry"), ("output", "logs")):
        assert f"did you mean '{meant}'" in cli("job", word).err
