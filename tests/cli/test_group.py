"""``nexusctl group``: every verb with its words and exit codes."""

from __future__ import annotations

import json

import pytest
from support.cli import Cli


def test_group_is_created_listed_inspected_changed_and_deleted(cli: Cli) -> None:
    assert cli("group", "create", "builds", "--slots", "2") == (
        0,
        'Created job group "builds" (slots: 2)\n',
        "\n  Inspect it: nexusctl group inspect builds\n",
    )
    assert cli("group", "create", "builds") == (
        5,
        "",
        'Error: cannot create job group "builds": job group name "builds" already exists\n'
        "  Choose another name, or look at it: nexusctl group inspect builds\n",
    )
    heading, *lines = cli.ok("group", "list").lines
    assert heading.split() == ["NAME", "SLOTS", "QUEUED", "EXECUTING", "STATE"]
    assert [line.split() for line in lines] == [
        ["builds", "2", "0", "0", "active"],
        ["default", "one", "per", "core", "0", "0", "active"],
    ]
    assert cli.ok("group", "update", "builds", "--slots", "3").out == 'Updated job group "builds"\n'
    assert "Slots:   3\n" in cli.ok("group", "inspect", "builds").out
    cli.ok("group", "update", "builds", "--clear", "slots")
    assert "Slots:   one per core\n" in cli.ok("group", "inspect", "builds").out
    assert cli.ok("group", "pause", "builds", "default").out == (
        'Paused job group "builds"\nPaused job group "default"\n'
    )
    assert cli.ok("group", "pause", "builds").out == 'Paused job group "builds"\n'
    assert "State:   paused\n" in cli.ok("group", "inspect", "builds").out
    assert cli.ok("group", "resume", "builds", "-o", "json").json["paused"] is False
    assert cli("group", "delete", "builds") == (
        1,
        "",
        "Error: refusing to delete job group without confirmation\n"
        "  Run with --yes to skip confirmation: nexusctl group delete builds --yes\n",
    )
    assert cli.ok("group", "delete", "builds", "--yes").out == 'Deleted job group "builds"\n'


def test_group_with_jobs_cannot_be_deleted(cli: Cli) -> None:
    cli.ok("group", "create", "held")
    cli.ok("group", "pause", "held")
    cli.ok("job", "run", "--group", "held", "true")
    assert cli("group", "delete", "held", "--yes") == (
        5,
        "",
        'Error: cannot delete job group "held": 1 job of it has not ended\n'
        "  See them: nexusctl -A job list --group held\n",
    )
    assert cli.ok("-A", "job", "list", "--group", "held", "-o", "name").out == "default/1\n"


def test_default_group_stays(shared: Cli) -> None:
    for line in ("delete default --yes", "update default --name other"):
        code, out, err = shared("group", *line.split())
        assert (code, out) == (5, "")
        assert err.endswith('job group "default": it always exists under this name\n')


@pytest.mark.parametrize(
    "line", ["inspect gone", "update gone --slots 1", "delete gone --yes", "pause gone", "resume gone"]
)
def test_missing_group_exits_4(shared: Cli, line: str) -> None:
    assert shared("group", *line.split()) == (4, "", 'Error: job group "gone" not found\n')


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("create", "missing argument 'GROUP'"),
        ("create a b", "got unexpected extra argument (b)"),
        ("create a --slots 0", "0 is not between 1 and 10000"),
        ("create a --slots many", "'many' is not a whole number"),
        ("create bad/name", "cannot accept name: expected 1 to 64 of A-Z a-z 0-9 . _ -"),
        ("update default", "nothing to change: give --name, --slots or --clear"),
        ("update default --clear name", "name"),
        ("pause", "missing argument 'GROUP...'"),
        ("rm a", "no such command: 'rm' (did you mean 'delete'?)"),
        ("add a", "no such command: 'add' (did you mean 'create'?)"),
        ("ls", "no such command: 'ls' (did you mean 'list'?)"),
        ("stop a", "no such command: 'stop' (did you mean 'pause'?)"),
        ("start a", "no such command: 'start' (did you mean 'resume'?)"),
        ("paus a", "no such command: 'paus' (did you mean 'pause'?)"),
    ],
)
def test_group_usage_error_exits_2_and_says_why(shared: Cli, line: str, sentence: str) -> None:
    code, out, err = shared("group", *line.split())
    assert (code, out) == (2, ""), err
    assert err.startswith("Error: ")
    assert sentence in err


def test_group_prints_in_every_format(cli: Cli) -> None:
    cli.ok("group", "create", "builds", "--slots", "1", "-o", "json")
    for output in ("json", "jsonl"):
        names = [one["name"] for one in map(json.loads, cli.ok("group", "list", "-o", "jsonl").lines)]
        assert names == ["builds", "default"], output
    assert [one["name"] for one in cli.ok("group", "list", "-o", "json").json] == ["builds", "default"]
    assert cli.ok("group", "list", "-o", "name").out == "builds\ndefault\n"
    assert cli.ok("group", "list", "--limit", "1", "-o", "name").out == "builds\n"
    assert cli.ok("group", "list", "--no-header").lines[0].split()[0] == "builds"
    assert cli.ok("group", "list", "-o", "wide").lines[0].split()[-2:] == ["FROM", "ID"]
    assert cli.ok("group", "pause", "builds", "-o", "name").out == "builds\n"
    assert json.loads(cli.ok("group", "resume", "builds", "-o", "jsonl").out)["name"] == "builds"
    assert cli.ok("group", "inspect", "builds", "-o", "json").json["slots"] == 1


def test_groups_are_completed(cli: Cli) -> None:
    cli.ok("group", "create", "builds")

    def completed(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(["nexusctl", *words]), "COMP_CWORD": str(len(words))}
        return sorted(line.partition(",")[2] for line in cli.ok(**asked, _NEXUSCTL_COMPLETE="bash_complete").lines)

    assert completed("group", "pause", "") == ["builds", "default"]
    assert completed("group", "inspect", "b") == ["builds"]
    assert completed("job", "run", "--group", "b") == ["builds"]
    assert completed("job", "list", "--group", "d") == ["default"]
    assert completed("group", "re") == ["resume"]
