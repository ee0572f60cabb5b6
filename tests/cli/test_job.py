"""``nexusctl job`` and ``nexusctl group``: words, formats and exit codes."""

from __future__ import annotations

import json
import re
from unicodedata import east_asian_width

import pytest
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


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("run", "give a command: a line for the shell in quotes, or words after --"),
        ("run a b", "got unexpected extra argument (b)"),
        ("run true -- true", "give a command line, or the words of a command after --, not both"),
        ("run true --priority high", "'high' is not a whole number"),
        ("run true --delay soon", "'soon' is not a time such as 500ms, 5s, 2m or 1h"),
        ("run true --retries -1", "-1 is not between 0 and"),
        ("run true --log 0", "0 is not between 1M and"),
        ("run true --after 1:never", "1:never has neither :completed nor :any at its end"),
        (
            f"run true --label {'x' * 300}",
            "cannot accept label: expected 1 to 255 characters, of which none is a control",
        ),
        ("run true --label a\x7fb", "cannot accept label: expected 1 to 255 characters, of which none is a control"),
        ("run true --group bad/name", "cannot accept group: expected 1 to 64 of A-Z a-z 0-9 . _ -, the first a"),
        ("run true --tool bad/tool", "cannot accept tool: expected 1 to 64 of A-Z a-z 0-9 . _ + -, the first a"),
        (
            "run true --tag good --tag b,d",
            "cannot accept tags[1]: expected 1 to 64 of A-Z a-z 0-9 . _ : / -, the first",
        ),
        ("run true --dir", "requires an argument"),
        ("run -t --stdin /dev/null true", "what has a terminal or an open standard input has no other one"),
        ("list --status done", "'done' is not one of 'queued', 'stashed', 'executing'"),
        ("list --limit 0", "0 is less than 1"),
        ("logs", "missing argument 'JOB...'"),
        ("logs 1 --stdout --stderr", "--stdout and --stderr exclude each other"),
        ("logs 1 -f -o json", "-o json prints one document, and followed output has no end: use -o jsonl"),
        ("logs 1 --raw -o json", "--raw goes with the output as it is, not with -o"),
        ("wait 1 --group default", "give the jobs to wait for, or --group, not both"),
        ("wait --timeout never", "'never' is not a number of seconds above 0, nor a time such as 10m"),
        ("cancel", "missing argument 'JOB...'"),
        ("retry", "missing argument 'JOB...'"),
        ("move", "missing argument 'JOB'"),
        ("prune --before yesterday", "'yesterday' is neither a time ago such as 5m nor a time such as"),
        ("add x", "no such command: 'add' (did you mean 'run'?)"),
        ("show 1", "no such command: 'show' (did you mean 'inspect'?)"),
        ("stop 1", "no such command: 'stop' (did you mean 'cancel'?)"),
        ("rm 1", "no such command: 'rm' (did you mean 'delete'?)"),
        ("clean", "no such command: 'clean' (did you mean 'prune'?)"),
        ("enqeue 1", "no such command: 'enqeue' (did you mean 'enqueue'?)"),
    ],
)
def test_usage_error_exits_2_and_says_why(shared: Cli, line: str, sentence: str) -> None:
    code, out, err = shared("job", *line.split())
    assert (code, out) == (2, ""), err
    assert err.startswith("Error: ")
    assert sentence in err


@pytest.mark.parametrize("name", ["99", "#99", "default/99", "x", "0", "-1", "1234567890123456789012", "ffffffff", "é"])
@pytest.mark.parametrize("verb", ["inspect", "logs", "wait", "cancel", "retry", "stash", "enqueue", "start", "move"])
def test_missing_job_exits_4(shared: Cli, verb: str, name: str) -> None:
    assert shared("job", verb, "--", name) == (4, "", f'Error: job "{name}" not found\n')


def test_missing_project_and_empty_name(shared: Cli) -> None:
    code, _out, err = shared("job", "inspect", "nowhere/1")
    assert (code, err.splitlines()[0]) == (4, 'Error: job "nowhere/1" not found')
    code, _out, err = shared("job", "inspect", "")
    assert (code, err.splitlines()[0]) == (2, "Error: cannot accept job: expected at least 1 character"), err
    code, _out, err = shared("job", "inspect", "x" * 300)
    assert (code, err.splitlines()[0]) == (2, "Error: cannot accept job: expected at most 255 characters"), err


def test_job_whose_id_looks_like_a_number_is_found_by_its_number_first(cli: Cli) -> None:
    """A number wins over the beginning of an id; the whole id is never a number."""
    ids = [cli.ok("job", "run", "-o", "json", "true").json["id"] for _ in range(3)]
    for number, id_ in enumerate(ids, 1):
        assert cli.ok("job", "inspect", str(number), "-o", "json").json["id"] == id_
        assert cli.ok("job", "inspect", id_, "-o", "name").out == f"{number}\n"


def test_edit_is_update(cli: Cli) -> None:
    cli.ok("job", "run", "--stash", "true")
    assert cli.ok("job", "edit", "1", "--priority", "3", "--label", "new").out == 'Updated job "1"\n'
    record = cli.ok("job", "inspect", "1", "-o", "json").json
    assert (record["priority"], record["label"]) == (3, "new")
    assert "edit" not in cli.ok("job", "--help").out
    code, _out, err = cli("job", "edit", "1")
    assert (code, err.splitlines()[0][:37]) == (2, "Error: nothing to change: give --comm")
    cli.ok("job", "start", "1")
    cli.ok("job", "wait", "1")
    assert cli("job", "edit", "1", "--priority", "1") == (
        5,
        "",
        "Error: cannot update job 1: it is completed\n  Look at it: nexusctl job inspect 1\n",
    )
    cli.ok("job", "edit", "1", "--label", "kept")


def test_inspect_shows_each_status(cli: Cli) -> None:
    cli.ok("group", "create", "held")
    cli.ok("group", "pause", "held")

    def shown(job: int) -> dict[str, str]:
        lines = cli.ok("job", "inspect", str(job)).lines
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    cli.ok("job", "run", "--group", "held", "--label", "l", "--tag", "t", "--tag", "u", "-t", "--", "echo", "a b")
    cli.ok("job", "run", "--stash", "--retries", "2", "--priority", "7", "--time-limit", "90s", "false")
    cli.ok("job", "run", "--delay", "1h", "true")
    cli.ok("job", "run", "--after", "1:any", "--after", "3", "true")
    cli.ok("job", "run", "exec sleep 1000")
    cli.ok("job", "run", "exit 3")
    queued = shown(1)
    assert {name: queued[name] for name in ("Status", "Command", "Tool", "Label", "Tags", "Group", "Terminal")} == {
        "Status": "queued", "Command": "echo 'a b'", "Tool": "echo", "Label": "l", "Tags": "t u", "Group": "held",
        "Terminal": "yes",
    }  # fmt: skip
    stashed = shown(2)
    assert {name: stashed[name] for name in ("Status", "Priority", "Time limit", "Attempt")} == {
        "Status": "stashed", "Priority": "7", "Time limit": "1 min 30 s", "Attempt": "1 of 3",
    }  # fmt: skip
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", shown(3)["Not before"])
    assert shown(4)["After"] == "1 (any), 3 (completed)"
    wait_until(lambda: "PID" in shown(5), "a process")
    assert shown(5)["Status"] == "executing"
    cli("job", "wait", "6")
    ended = shown(6)
    assert (ended["Status"], ended["Exit code"], ended["Output"]) == ("failed: exited with 3", "3", "0 bytes")
    cli.ok("job", "cancel", "5")
    assert shown(5)["Signal"] in ("15", "SIGTERM")
    assert shown(5)["Status"].startswith("cancelled")
    listed = [line.split()[:2] for line in cli.ok("job", "list", "--no-header").lines]
    assert listed == [["6", "failed"], ["5", "cancelled"], ["4", "waiting"], ["3", "delayed"], ["2", "stashed"],
                      ["1", "queued"]]  # fmt: skip
    both = cli.ok("job", "inspect", "1", "2").out
    assert both.count("\n\nJob:") == 1


def test_paused_group_is_told(cli: Cli) -> None:
    cli.ok("group", "create", "held")
    cli.ok("group", "pause", "held")
    sentence = 'It waits, because the job group "held" is paused. To resume it: nexusctl group resume held\n'
    assert cli("job", "run", "--group", "held", "true") == (0, "Submitted job 1 (queued)\n", f"\n  {sentence}")
    with cli.start("job", "run", "--wait", "--group", "held", "echo out") as process:
        assert process.stderr is not None
        assert process.stderr.readline().decode() == sentence
        cli.ok("group", "resume", "held")
        assert process.communicate(timeout=60)[0] == b"out\n"
    assert cli("job", "run", "--group", "held", "--stash", "true").err == (
        "\n  Put it into the queue: nexusctl job enqueue 3\n"
    )
    assert cli("job", "run", "--group", "held", "-i", "cat").err == "\n  Attach to it: nexusctl job attach 4\n"


def test_wide_characters_take_two_columns(cli: Cli) -> None:
    cli.ok("job", "run", "--stash", "--label", "わたしはガラスを食べられます。それは私を傷つけません。", "true")
    cli.ok("job", "run", "--stash", "--label", "plain", "true")
    cli.ok("job", "run", "--stash", "x" * 200)
    heading, *lines = cli.ok("job", "list", "-o", "wide").lines
    start = heading.index("PRIORITY")

    def columns(text: str) -> int:
        return sum(2 if east_asian_width(character) in "WF" else 1 for character in text)

    assert [columns(line[: line.rindex(" 0        1 ")]) + 1 for line in lines] == [start] * 3
    assert "x" * 49 + "…" in lines[0]
    assert "…" in lines[2]


def test_every_verb_prints_in_every_format(cli: Cli) -> None:
    cli.ok("group", "pause", "default")

    def check(line: str, output: str, numbers: list[int]) -> None:
        result = cli.ok("job", *line.split(), "-o", output)
        if output == "json":
            found = result.json if isinstance(result.json, list) else [result.json]
            assert [one["number"] for one in found] == numbers, line
        elif output == "jsonl":
            assert [json.loads(one)["number"] for one in result.lines] == numbers, line
        else:
            assert result.out == "".join(f"{number}\n" for number in numbers), line

    check("run true", "json", [1])
    check("run true", "jsonl", [2])
    check("run true", "name", [3])
    for output in ("json", "jsonl", "name"):
        check("list", output, [3, 2, 1])
        check("inspect 1 2", output, [1, 2])
        check("inspect 3", output, [3])
        check("stash 1 2", output, [1, 2])
        check("enqueue 1 2", output, [1, 2])
        check("update 1 --priority 2", output, [1])
        check("move 2", output, [2])
    check("cancel 1 2", "json", [1, 2])
    check("retry 1 2", "jsonl", [4, 5])
    check("retry 1 --in-place", "name", [1])
    cli.ok("group", "resume", "default")
    check("wait 1 3 4 5", "json", [1, 3, 4, 5])
    check("delete 1 2 --yes", "json", [1, 2])
    assert cli.ok("job", "prune", "-o", "json").json == {"count": 3}
    assert cli("job", "list", "-o", "json") == (0, "[]\n", "No jobs found.\n")
    assert cli("job", "wait", "-o", "json").out == "[]\n"


def test_logs_are_printed_in_every_format(cli: Cli) -> None:
    cli("job", "run", "--wait", "echo out; sleep 0.1; echo err >&2")
    records = [json.loads(line) for line in cli.ok("job", "logs", "1", "-o", "jsonl").lines]
    assert [(one["stream"], one["text"]) for one in records] == [("stdout", "out\n"), ("stderr", "err\n")]
    assert [one["text"] for one in cli.ok("job", "logs", "1", "-o", "json").json] == ["out\n", "err\n"]
    assert cli.ok("job", "logs", "1", "--stdout").out == "out\n"
    assert cli.ok("job", "logs", "1", "-n", "1").out == "err\n"
    assert cli.ok("job", "logs", "1", "-f").out == "out\nerr\n"
    assert re.fullmatch(
        r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z (out|err)\n){2}", cli.ok("job", "logs", "1", "-t").out
    )
    cli("job", "run", "--wait", "echo two")
    assert cli.ok("job", "logs", "1", "2").out == "1 | out\n1 | err\n2 | two\n"


def test_queue_verbs_refuse_what_has_ended_or_runs(cli: Cli) -> None:
    cli.ok("job", "run", "true")
    cli.ok("job", "wait", "1")
    for verb in ("stash", "enqueue", "start", "move"):
        assert cli("job", verb, "1") == (
            5,
            "",
            f"Error: cannot {verb} job 1: it is completed\n  Look at it: nexusctl job inspect 1\n",
        )
    cli.ok("job", "run", "exec sleep 1000")
    wait_until(lambda: cli.ok("job", "list", "--status", "executing", "-o", "name").out, "a process")
    assert cli("job", "delete", "2", "--yes") == (
        5,
        "",
        "Error: cannot delete job 2: it is executing, cancel it first\n  Cancel it: nexusctl job cancel 2\n",
    )
    assert cli("job", "retry", "2").code == 5
    assert cli.ok("job", "start", "2").out == "Started job 2 (executing)\n"
    assert cli("job", "cancel", "2", "99", "1") == (
        4,
        "Cancelled job 2\nNothing to cancel: job 1 has ended (completed)\n",
        'Error: job "99" not found\n',
    )
    assert cli("job", "wait", "1", "2") == (1, "Job 1 completed\nJob 2 cancelled: cancelled on demand\n", "")


def test_jobs_that_wait_for_others(cli: Cli) -> None:
    cli.ok("group", "pause", "default")
    for after in ((), ("--after", "1"), ("--after", "1:any", "--after", "2:any")):
        cli.ok("job", "run", *after, "exit 3")
    assert cli("job", "delete", "1", "--yes") == (
        5,
        "",
        "Error: cannot delete job 1: jobs 2, 3 wait for it\n  Cancel or delete what waits for it first.\n",
    )
    cli.ok("group", "resume", "default")
    assert cli("job", "wait", "1", "2", "3").code == 1
    assert [line.split()[1] for line in cli.ok("job", "list", "--no-header").lines] == ["failed", "cancelled", "failed"]
    assert cli("job", "run", "--after", "1", "true") == (
        5,
        "",
        "Error: cannot submit the job: job 1, which it is to follow, is failed\n"
        "  To begin it however that one ended: --after 1:any\n",
    )
    cli.ok("job", "run", "--after", "1:any", "true")


def test_wait_ends_with_its_time_limit(cli: Cli) -> None:
    cli.ok("job", "run", "exec sleep 1000")
    for line in (("job", "wait", "--timeout", "200ms"), ("--timeout", "0.2", "job", "wait", "1")):
        code, out, err = cli(*line)
        assert (code, out) == (124, ""), line
        assert err.startswith("Error: cannot finish within 0.2 seconds")


def test_delete_asks_on_a_terminal(cli: Cli) -> None:
    record = cli.ok("job", "run", "--stash", "-o", "json", "true").json
    with cli.terminal("job", "delete", "1") as terminal:
        terminal.wait_for("[y/N]")
        assert f'Delete job "1" ({record["id"]})? [y/N]' in terminal.text
        terminal.type("y\n")
        code, text = terminal.finish()
    assert (code, text.splitlines()[-1]) == (0, 'Deleted job "1"')


def test_colours_are_for_terminals_only(cli: Cli) -> None:
    cli("job", "run", "--wait", "false")
    with cli.terminal("job", "list") as terminal:
        assert "\x1b[31mfailed" in terminal.finish()[1]
    with cli.terminal("job", "list", NO_COLOR="1") as terminal:
        assert "\x1b" not in terminal.finish()[1]
    assert "\x1b" not in cli.ok("job", "list").out
    cli("job", "run", "--wait", "printf '\\033]0;title\\007\\033[31mred\\033[0m'")
    with cli.terminal("job", "logs", "2") as terminal:
        shown = terminal.finish()[1]
    assert "\x1b]0" not in shown
    assert "\x1b[31mred" in shown
    with cli.terminal("job", "run", "--wait", "printf '\\033]0;title\\007x'") as terminal:
        assert "\x1b]0" not in terminal.finish()[1]


def test_output_into_a_closed_pipe_is_not_an_error(cli: Cli) -> None:
    for _ in range(3):
        cli.ok("job", "run", "--stash", "true")
    for line in ("list", "inspect 1 2 3", "list -o json"):
        result = cli.shell(f"nexusctl job {line} | true; echo ${{PIPESTATUS[0]}}")
        assert (result.out in ("0\n", "141\n"), result.err) == (True, ""), line


def test_huge_values_arrive_unchanged(cli: Cli) -> None:
    word = "-" + "ü" * 30_000
    record = cli.ok("job", "run", "--stash", "-o", "json", "--", "echo", word, "--", "").json
    assert record["argv"] == ["echo", word, "--", ""]
    cli.ok("job", "start", "1")
    cli.ok("job", "wait", "1")
    assert cli.ok("job", "logs", "1").out == f"{word} -- \n"
    code, _out, err = cli("job", "run", "--label", "x" * 256, "true")
    assert (code, err.splitlines()[0]) == (
        2,
        "Error: cannot accept label: expected 1 to 255 characters, of which none is a control character",
    ), err


def test_job_run_without_a_daemon_says_how_to_start_it(lonely: Cli) -> None:
    code, out, err = lonely("job", "run", "true")
    assert (code, out) == (3, "")
    assert err.startswith("Error: cannot connect to Nexus daemon at ")
    assert "Start it: " in err
    assert lonely("job", "list").code == 3
