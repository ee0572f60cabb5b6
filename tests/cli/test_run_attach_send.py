"""``nexusctl run``, ``attach`` and ``send``, and what ``job run`` passes on: words, exit codes, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support.cli import Cli, Result
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.raw import wait_until

PROGRAM = [sys.executable, "-m", "nexus.cli.main"]


@pytest.fixture
def api(cli: Cli, root: Path) -> Cli:
    """nexusctl beside a daemon with a service."""
    cli.ok("service", "add", "api", "--dir", str(root), "--env", "STAGE=test", "--run", "exec sleep 1000")
    return cli


def run_bytes(cli: Cli, *arguments: str, input: bytes = b"", **environment: bytes) -> tuple[int, bytes, bytes]:
    """Run nexusctl with bytes for its input and its environment."""
    variables = {name.encode(): value.encode() for name, value in cli.environment.items()}
    variables |= {name.encode(): value for name, value in environment.items()}
    done = subprocess.run(
        [*PROGRAM, *arguments], env=variables, input=input, capture_output=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def is_waiting(pid: int) -> bool:
    """Whether a process sleeps and has a connection."""
    try:
        links = [os.readlink(entry.path) for entry in os.scandir(f"/proc/{pid}/fd")]  # noqa: PTH115
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state == "S" and any(link.startswith("socket:") for link in links)


def interrupted(cli: Cli, *arguments: str, after: bytes = b"") -> Result:
    """Run nexusctl, and press Ctrl-C once it has printed a line, or waits while a job runs."""
    with cli.start(*arguments) as process:
        assert process.stdout is not None
        if after:
            assert process.stdout.readline() == after
        else:
            listed = ("-A", "job", "list", "-o", "name", "--status", "executing")
            wait_until(lambda: cli.ok(*listed).out and is_waiting(process.pid), "a request that waits")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    return Result(process.returncode, (after + out).decode(), err.decode())


# One-offs of a service


def test_one_off_has_the_environment_and_directory_of_its_service(api: Cli, root: Path) -> None:
    line = ("run", "api", "--", "sh", "-c", 'echo "$STAGE $ONE in $PWD"; echo error >&2; exit 9')
    assert api(*line, STAGE="shell") == (9, f"test  in {root}\n", "error\n")
    assert api("run", "api", "-e", "ONE=1", "--dir", "/", 'echo "$STAGE $ONE in $PWD"') == (0, "test 1 in /\n", "")
    record = api.ok("job", "inspect", "1", "-o", "json").json
    assert record["service_id"] == api.ok("service", "status", "api", "-o", "json").json["service"]["id"]
    assert (record["status"], record["exit_code"]) == ("failed", 9)


def test_detached_one_off_is_a_job(api: Cli) -> None:
    assert api("run", "-d", "api", "true") == (
        0,
        "Submitted job 1 (queued)\n",
        "\n  Follow its output: nexusctl job logs -f 1\n",
    )
    assert api.ok("run", "-d", "api", "-o", "name", "true").out == "2\n"
    assert api.ok("run", "-d", "api", "-o", "json", "true").json["number"] == 3


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("run", "missing argument 'SERVICE'"),
        ("run api", "give a command: a line for the shell in quotes, or words after --"),
        ("run api x -- y", "give a command line, or the words of a command after --, not both"),
        ("run api x y", "got unexpected extra argument (y)"),
        ("run api -o json true", "-o goes with -d: the output of what is followed is that of the command"),
        ("run -i api cat", "-i goes with -t, or with a job that is not waited for"),
        ("run api --stdin /no/such cat", "cannot read /no/such: no such file"),
        ("run api --delay 5s true", "no such option '--delay'"),
        ("attach", "missing argument 'JOB|SERVICE'"),
        ("send", "missing argument 'JOB|SERVICE'"),
        ("send api", "give a text to send, - for standard input, or --eof"),
        ("--key k attach api", "cannot accept --key with nexusctl attach"),
        ("-A run api true", "cannot accept -A with nexusctl run: it is for lists and events"),
    ],
)
def test_usage_error_exits_2_and_says_why(api: Cli, line: str, sentence: str) -> None:
    code, out, err = api(*line.split())
    assert (code, out) == (2, ""), err
    assert sentence in err


def test_own_failure_exits_125(api: Cli, lonely: Cli) -> None:
    assert api("run", "gone", "true") == (125, "", 'Error: service "gone" not found\n')
    assert api("job", "run", "--wait", "--after", "99", "true") == (125, "", 'Error: job "99" not found\n')
    assert api("job", "run", "--wait", "--dir", "/no/such", "true") == (
        125,
        "",
        "Error: job 1 failed: its directory /no/such does not exist\n",
    )
    lone = Cli(lonely.environment | {"NEXUS_SOCKET": str(Path(lonely.environment["HOME"]) / "no.sock")})
    for line in (("run", "api", "true"), ("job", "run", "--wait", "true")):
        code, out, err = lone(*line)
        assert (code, out) == (125, "")
        assert err.startswith("Error: cannot connect to Nexus daemon at ")
        assert "Start it: " in err
    assert lone("job", "run", "true").code == 3
    assert lone("attach", "1").code == 3


def test_command_that_a_signal_ends_exits_as_in_a_shell(api: Cli) -> None:
    assert api("run", "api", "kill -9 $$") == (137, "", "Error: job 1 failed: killed by SIGKILL\n")
    code, _out, err = api("job", "run", "--wait", "--time-limit", "200ms", "exec sleep 100")
    assert (code, err) == (143, "Error: job 2 failed: it ran longer than its time limit of 0.2 s\n")


def test_interrupt_cancels_a_one_off(api: Cli) -> None:
    result = interrupted(api, "run", "api", "--", "sleep", "1000")
    assert result == (130, "", "Interrupted.\n  Job 1 was cancelled.\n")
    assert api.ok("job", "inspect", "1", "-o", "json").json["status"] == "cancelled"


def test_interrupt_leaves_a_job_that_is_waited_for(cli: Cli) -> None:
    result = interrupted(cli, "job", "run", "--wait", "echo out; exec sleep 1000", after=b"out\n")
    assert result.code == 130
    assert result.err == "Interrupted.\n  Job 1 goes on.\n  Cancel it: nexusctl job cancel 1\n"
    assert interrupted(cli, "job", "wait") == (
        130,
        "",
        "Interrupted.\n  the request was cancelled\n  The jobs go on.\n",
    )
    assert interrupted(cli, "job", "logs", "-f", "1", after=b"out\n") == (130, "out\n", "")
    assert cli.ok("job", "inspect", "1", "-o", "json").json["status"] == "executing"


def test_one_off_whose_reader_has_gone_is_cancelled(api: Cli) -> None:
    script = "nexusctl run api -- yes | head -n 1; echo ${PIPESTATUS[0]}"
    result = api.shell(script)
    assert (result.code, result.out) == (0, "y\n141\n")
    assert api.ok("job", "inspect", "1", "-o", "json").json["status"] == "cancelled"
    assert api.shell(
        "nexusctl job run --wait -- sh -c 'yes | head -n 100000' | head -n 1; echo ${PIPESTATUS[0]}"
    ).out in (
        "y\n141\n",
        "y\n0\n",
    )


def test_output_that_is_not_whole_is_a_failure(api: Cli) -> None:
    # 40 MB of lines with a log of 1 MiB: what was deleted before it was read is missing.
    code, out, err = api("run", "--log", "1M", "api", "sleep 1; yes | head -c 40000000; sleep 1")
    assert code == 125 or len(out) == 40_000_000
    assert code == 0 or err.splitlines()[-2].startswith("Error: the output is not whole: ")


def test_end_of_output_without_line_ends_is_shown(cli: Cli) -> None:
    # One line, of which the reader has missed the beginning.
    code, out, _err = cli("job", "run", "--wait", "--log", "1M", "head -c 40000000 /dev/zero; echo end; sleep 0.2")
    assert out.endswith("\0end\n")
    assert len(out) >= 500_000
    assert code == 125 or len(out) == 40_000_004


def test_output_that_was_deleted_before_it_was_followed_is_told(cli: Cli) -> None:
    cli.ok("job", "run", "--log", "1M", "yes | head -c 8000000; read line", "-i")
    wait_until(lambda: len(cli.ok("job", "logs", "1", "--lines", "10").out) == 20, "output")
    with cli.start("job", "logs", "-f", "1") as process:
        assert process.stderr is not None
        assert process.stderr.readline().decode().endswith(" bytes were dropped here …\n")
        cli.ok("send", "1", "x")
        process.communicate(timeout=60)


# Standard input and environment


def test_standard_input_is_empty_a_file_or_that_of_nexusctl(api: Cli, root: Path) -> None:
    (root / "file").write_bytes(b"\xff\xfe\x00text")
    assert run_bytes(api, "run", "api", "--", "cat", input=b"unread") == (0, b"", b"")
    assert run_bytes(api, "run", "--stdin", "-", "api", "--", "cat", input=b"\x00\xff\n") == (0, b"\x00\xff\n", b"")
    line = ("job", "run", "--wait", "--stdin")
    assert run_bytes(api, *line, str(root / "file"), "--", "cat") == (0, b"\xff\xfe\x00text", b"")
    assert run_bytes(api, *line, "-", "--", "wc", "-c", input=b"x" * 1024 * 1024) == (0, b"1048576\n", b"")
    code, out, err = run_bytes(api, *line, "-", "--", "wc", "-c", input=b"x" * (1024 * 1024 + 1))
    assert (code, out) == (2, b"")
    assert err.startswith(b"Error: the standard input is larger than 1 MiB: give a file, with --stdin FILE\n")
    code, out, err = run_bytes(api, *line, str(root), "--", "cat")
    assert (code, out) == (125, b"")
    assert b"Is a directory" in err


def test_environment_of_the_caller_is_passed_on_but_what_is_not_text(cli: Cli) -> None:
    line = ("job", "run", "--wait", 'echo "$ONE,${BAD-unset},$GIVEN,${LC_ALL-unset}"')
    assert run_bytes(cli, *line, ONE="ü".encode(), BAD=b"\xff") == (0, "ü,unset,,C.UTF-8\n".encode(), b"")
    assert run_bytes(cli, *line, "-e", "GIVEN=a=b", "--clean-env", ONE=b"1") == (0, b",unset,a=b,C.UTF-8\n", b"")
    code, _out, err = cli("job", "run", "-e", "=x", "true")
    assert (code, "expected NAME=VALUE" in err) == (2, True)
    code, _out, err = cli("job", "run", "-e", "NOT_SET_ANYWHERE", "true")
    assert (code, "NOT_SET_ANYWHERE has no value" in err) == (2, True)


def test_working_directory_that_cannot_be_named(cli: Cli, root: Path) -> None:
    (root / "gone").mkdir()
    odd = os.fsencode(root) + b"/\xff"
    os.mkdir(odd)  # noqa: PTH102
    script = "cd '{0}/gone' && rmdir '{0}/gone' && nexusctl -p default job run {1} true"
    assert cli.shell(script.format(root, "")).err.startswith(
        "Error: cannot tell the working directory: it was deleted;"
    )
    (root / "gone").mkdir()
    assert cli.shell(script.format(root, "--dir /")).out == "Submitted job 1 (queued)\n"
    done = subprocess.run(
        [*PROGRAM, "job", "run", "true"], cwd=odd, env=cli.environment, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr[:67]) == (
        2,
        b"Error: cannot use the working directory: its path is not UTF-8; giv",
    )


def test_full_disk_refuses_a_job_in_a_sentence(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        cli = Cli(daemon.environment)
        cli.ok("job", "run", "--wait", "true")
        filler = fill(disk)
        line = ("job", "run", "--label", "x" * 200, "x" * 30_000)
        refusal = wait_until(lambda: (done := cli(*line)).code and done, "a refusal")
        assert (refusal.code, refusal.out) == (1, "")
        assert refusal.err.startswith("Error: cannot ")
        assert "the disk is full" in refusal.err
        assert "Traceback" not in refusal.err
        followed = cli(*line, "--wait")
        assert (followed.code, followed.out, followed.err) == (125, "", refusal.err)
        assert cli("job", "list", "--status", "completed", "-o", "name") == (0, "1\n", "")
        filler.unlink()
        wait_until(lambda: cli("job", "run", "--wait", "echo out").out == "out\n", "a job that runs")

    on_small_disk(daemon.root / "state", 4 * 1024, running(daemon, use))


# Attach and send


def test_neither_job_nor_service(api: Cli) -> None:
    for line in ("attach gone", "send gone x"):
        assert api(*line.split()) == (4, "", 'Error: job or service "gone" not found\n')
    for line in ("attach 7", "attach #7", "send 7 x", "job attach 7", "job send 7 x"):
        assert api(*line.split()) == (4, "", f'Error: job "{"#7" if "#" in line else "7"}" not found\n')


def test_job_without_input_says_where_its_output_is(cli: Cli) -> None:
    cli.ok("job", "run", "exec sleep 1000")
    hint = (
        ": it was submitted without a terminal and without an open input\n  Look at its output: nexusctl job logs 1\n"
    )
    for line in ("attach 1", "job attach 1", "attach default/1"):
        assert cli(*line.split()) == (5, "", f"Error: cannot attach to job 1{hint}")
    for line in ("send 1 x", "job send 1 x", "send 1 --eof"):
        assert cli(*line.split()) == (5, "", f"Error: cannot send input to job 1{hint}")


def test_job_is_found_by_number_project_and_id(cli: Cli) -> None:
    record = cli.ok("job", "run", "-i", "-o", "json", "--", "cat").json
    wait_until(lambda: cli.ok("job", "list", "--status", "executing", "-o", "name").out, "a process")
    for number, name in enumerate(("1", "#1", "default/1", record["id"], record["id"][:8])):
        assert cli("send", name, f"line {number}") == (0, "", ""), name
    assert cli("job", "send", "1", "last", "--no-newline", "--eof") == (0, "", "")
    assert cli("job", "wait", "1") == (0, "Job 1 completed\n", "")
    assert cli.ok("job", "logs", "1").out == "line 0\nline 1\nline 2\nline 3\nline 4\nlast"


def test_standard_input_is_sent_byte_for_byte(cli: Cli) -> None:
    cli.ok("job", "run", "-i", "--", "od", "-An", "-c")
    wait_until(lambda: cli.ok("job", "list", "--status", "executing", "-o", "name").out, "a process")
    assert run_bytes(cli, "send", "1", "-", "--eof", input=b"\x00\xff\x1b") == (0, b"", b"")
    cli.ok("job", "wait", "1")
    assert cli.ok("job", "logs", "1").out.split() == ["\\0", "377", "033"]
    code, _out, err = run_bytes(cli, "send", "1", "-", input=b"x" * (256 * 1024 + 1))
    assert (code, b"larger than 256 KiB" in err) == (2, True)


def test_folder_without_a_project_says_how_to_make_it(cli: Cli, root: Path) -> None:
    (root / "shop").mkdir()
    (root / "shop" / "nexus.toml").write_text('project = "shop"\n')
    inside = Cli(cli.environment, root / "shop")
    hint = (
        "  Make it from the folder's nexus.toml: nexusctl apply\n"
        "  Or name another project: -p PROJECT, such as -p default\n"
    )
    sentence = f"Error: cannot submit the job: no project has the folder {root}/shop\n{hint}"
    assert inside("job", "run", "true") == (4, "", sentence)
    assert inside("job", "run", "--wait", "true") == (125, "", sentence)
    code, out, err = inside("job", "list")
    assert (code, out) == (0, "")
    assert err.startswith("No jobs found.\n")
    assert err.endswith(hint)
    assert inside("job", "inspect", "1").code == 4
    inside.ok("apply", "--yes")
    assert inside("job", "run", "true") == (
        0,
        'Submitted job 1 (queued) of project "shop"\n',
        "\n  Follow its output: nexusctl job logs -f shop/1\n",
    )
    assert cli("job", "wait", "shop/1") == (0, "Job 1 completed\n", "")
    assert cli("-p", "shop", "job", "logs", "1") == (0, "", "")
    assert cli.ok("-A", "job", "list", "-o", "name").out == "shop/1\n"
    assert cli("job", "logs", "1").code == 4


def test_jobs_and_services_are_completed(api: Cli, daemon: DaemonProcess) -> None:
    for _ in range(12):
        api.ok("job", "run", "true")

    def completed(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(["nexusctl", *words]), "COMP_CWORD": str(len(words))}
        lines = api.ok(**asked, _NEXUSCTL_COMPLETE="bash_complete").lines
        return sorted(line.partition(",")[2] for line in lines if line)

    assert completed("job", "inspect", "1") == ["1", "10", "11", "12"]
    assert completed("job", "wait", "12", "1") == ["1", "10", "11", "12"]
    assert completed("job", "run", "--after", "1") == ["1", "10", "11", "12"]
    assert completed("job", "move", "--before", "9") == ["9"]
    assert completed("run", "a") == ["api"]
    for _ in range(2):
        api.ok("job", "run", "-i", "cat")
    wait_until(lambda: len(api.ok("job", "list", "--status", "executing", "-o", "name").lines) == 2, "processes")
    assert completed("attach", "") == completed("send", "") == ["13", "14", "api"]
    assert completed("job", "cl") == []
    assert completed("job", "ca") == ["cancel"]
    daemon.stop()
    assert completed("job", "inspect", "") == []
