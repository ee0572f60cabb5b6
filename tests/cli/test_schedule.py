"""``nexusctl schedule``: how schedules are created from a command line, listed, shown, changed and removed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.raw import wait_until


@pytest.fixture
def cli(shared: Cli) -> Iterator[Cli]:
    """nexusctl beside a daemon whose schedules are deleted after the test."""
    yield shared
    names = shared("-p", "default", "schedule", "list", "-o", "name").out.split()
    if names:
        shared("schedule", "delete", "-y", *names)


def create(cli: Cli, *arguments: str, name: str = "backup", **environment: str) -> None:
    done = cli("schedule", "create", name, "--cron", "0 0 1 1 *", *arguments, **environment)
    assert done.code == 0, done.err


def test_create_says_when_it_begins_and_how_to_run_it_now(cli: Cli) -> None:
    done = cli("schedule", "create", "backup", "--cron", "30 2 * * *", "--timezone", "Europe/Berlin", "--", "ls", "-l")
    assert re.fullmatch(r'Created schedule "backup" \(next: \d{4}-\d\d-\d\d 0[23]:[03]0:00 CES?T\)\n', done.out)
    assert done.err == "\n  Run it now: nexusctl schedule trigger backup\n"
    done = cli("schedule", "create", "poll", "--every", "90m", "--run", "git fetch && make", TZ="UTC")
    assert re.fullmatch(r'Created schedule "poll" \(next: [-\d]+ [:\d]+ UTC\)\n', done.out)
    assert cli("schedule", "create", "named", "--every", "1h", "-o", "name", "--", "ls").out == "named\n"


def test_the_command_is_a_line_or_words(cli: Cli, root: Path) -> None:
    create(cli, "--run", "a && b")
    create(cli, "--", "./x", "--all", "a b", name="words")
    line, words = cli("schedule", "inspect", "backup", "words", "-o", "json").json
    assert (line["command"], line.get("argv"), line["tool"]) == ("a && b", None, "bash")
    assert (words["command"], words["argv"], words["tool"]) == ("./x --all 'a b'", ["./x", "--all", "a b"], "x")
    assert line["directory"] == str(Path.cwd())
    create(cli, "--dir", str(root), "--", "ls", name="elsewhere")
    assert cli("schedule", "inspect", "elsewhere", "-o", "json").json["directory"] == str(root)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["--cron", "@daily"], "give the command: --run LINE, or words after --"),
        (["--cron", "@daily", "--run", "a", "--", "b"], "give the command either with --run or after --, not both"),
        (["--", "a"], "give either --cron TIME or --every TIME"),
        (["--cron", "@daily", "--every", "5m", "--", "a"], "give either --cron TIME or --every TIME"),
        (["--every", "5", "--every", "50ms", "--", "a"], "50ms is not between 100 ms and 315360000000 ms"),
        (["--cron", "0 0 31 2 *", "--", "a"], 'cannot create schedule "x": the day of "0 0 31 2 *" never comes'),
        (["--cron", "@reboot", "--", "a"], 'cannot create schedule "x": @reboot is no time'),
        (["--cron", "@daily", "--timezone", "Berlin", "--", "a"], "Did you mean Europe/Berlin?"),
    ],
)
def test_what_cannot_be_is_refused(cli: Cli, arguments: list[str], problem: str) -> None:
    done = cli("schedule", "create", "x", *arguments)
    assert (done.code, done.out) == (2, "")
    assert problem in done.err


def test_the_list_and_the_details(cli: Cli) -> None:
    create(cli, "--timezone", "Asia/Tokyo", "--env", "TOKEN=s3cret", "--tag", "night", "--", "ls")
    cli("schedule", "create", "poll", "--every", "1d2h3m", "--", "ls")
    cli("schedule", "pause", "poll")
    listed = [re.split(" {2,}", line.strip()) for line in cli("schedule", "list").lines]
    assert listed[0] == ["NAME", "WHEN", "NEXT", "LAST", "JOB", "STATE"]
    assert listed[1][:2] == ["backup", "0 0 1 1 *"]
    assert re.fullmatch(r"\d{4}-12-31 15:00:00 UTC", listed[1][2])
    assert listed[1][3:] == ["-", "-", "active"]
    assert listed[2] == ["poll", "every 1d2h3m", "-", "-", "-", "paused"]
    assert cli("schedule", "list", "--tag", "night", "-o", "name").out == "backup\n"
    shown = cli("schedule", "inspect", "backup").out
    assert re.search(r"Next: +\d{4}-01-01 00:00:00 JST\n(Then: +\d{4}-01-01 00:00:00 JST\n){4}", shown)
    assert re.search(r"Variables: +TOKEN\n", shown)
    assert "s3cret" not in shown
    assert re.search(r"Variables: +TOKEN=s3cret\n", cli("schedule", "inspect", "backup", "--reveal").out)
    assert cli("schedule", "list", "--tag", "none").err == "No schedules found.\n"


def test_trigger_runs_it_in_the_environment_of_its_creation(cli: Cli, root: Path) -> None:
    out = root / "out"
    create(cli, "--env", "B=2", "--run", f'printf "$A-$B" > {out}', A="1", B="0")
    done = cli("schedule", "trigger", "backup")
    found = re.fullmatch(r"Submitted job (\d+)\n", done.out)
    assert found is not None
    wait_until(lambda: out.exists() and out.read_text() == "1-2", "the output of the job")
    again = cli("schedule", "trigger", "backup", "-o", "json").json
    assert again["number"] == int(found[1]) + 1
    assert cli("schedule", "list", "-o", "json").json[0]["last_job_number"] == again["number"]
    assert cli("schedule", "trigger", "backup", "gone").code == 4
    assert cli("job", "wait").code in (0, 1)  # they write into the folder of the test


def test_update_changes_what_is_given(cli: Cli) -> None:
    create(cli, "--label", "x", "--", "ls")
    assert cli("schedule", "update", "backup", "--every", "2h", "--clear", "label", "--", "ps", "aux").out == (
        'Updated schedule "backup"\n'
    )
    found = cli("schedule", "inspect", "backup", "-o", "json").json
    assert (found.get("cron"), found["every_ms"], found.get("label"), found["argv"]) == (
        *(None, 7_200_000, None),
        ["ps", "aux"],
    )
    before = found["revision"]
    assert cli("schedule", "update", "backup", "--take-env", NEW="1").code == 0
    assert cli("schedule", "inspect", "backup", "-o", "json").json["revision"] == before + 1
    assert "nothing to change" in cli("schedule", "update", "backup").err
    assert cli("schedule", "update", "gone", "--every", "2h").code == 4


def test_pause_resume_and_delete(cli: Cli) -> None:
    create(cli, "--", "ls")
    create(cli, "--", "ls", name="other")
    assert cli("schedule", "pause", "backup", "other").lines == [
        'Paused schedule "backup"',
        'Paused schedule "other"',
    ]
    assert cli("schedule", "resume", "backup").out.startswith('Resumed schedule "backup" (next: ')
    states = {one["name"]: one["paused"] for one in cli("schedule", "list", "-o", "json").json}
    assert states == {"backup": False, "other": True}
    refused = cli("schedule", "delete", "backup")
    assert refused.code == 1
    assert "nexusctl schedule delete backup --yes" in refused.err
    assert cli("schedule", "delete", "-y", "backup", "other").out == (
        'Deleted schedule "backup"\nDeleted schedule "other"\n'
    )


@pytest.mark.parametrize(
    ("word", "verb"), [("add", "create"), ("rm", "delete"), ("run", "trigger"), ("stop", "pause"), ("ls", "list")]
)
def test_other_words_lead_to_the_verbs(cli: Cli, word: str, verb: str) -> None:
    assert f"(did you mean '{verb}'?)" in cli("schedule", word).err


def test_names_are_completed(cli: Cli) -> None:
    create(cli, "--", "ls")

    asked = {"COMP_WORDS": "nexusctl schedule trigger b", "COMP_CWORD": "3", "_NEXUSCTL_COMPLETE": "bash_complete"}
    assert cli(**asked).out == "plain,backup\n"
