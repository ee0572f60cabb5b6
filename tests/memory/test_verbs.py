"""The verbs of continue points and episodes, and what verbs of tasks and pages say of continue points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.states import AgentType
from nexus.ledger.tasks.commands import CreateTask


@pytest.fixture
def cli(daemon: DaemonProcess) -> Cli:
    """nexusctl beside a daemon that has a task and an agent."""
    with BlockingClient(daemon.socket_path) as nexus:
        nexus.call(CreateTask("Log in"))
        nexus.call(CreateAgent("ada", AgentType.CODER))
    return Cli(daemon.environment)


def claimed(cli: Cli, *options: str) -> tuple[str, str]:
    """The lease that a claim of the task prints, and what it says."""
    got = cli.ok("task", "claim", "1", "--agent", "ada", *options)
    return got.out.strip().removeprefix("export NEXUS_LEASE="), got.err


def test_work_is_saved_and_resumed(cli: Cli) -> None:
    lease, said = claimed(cli, "--worktree", "/srv/one", "--branch", "one")
    assert "continue point" not in said
    words = ["--action", "wrote the\nform", "--file", "form.py", "--line", "12", "--function", "submit"]
    steps = ["--next", "test it", "--next", "tidy up"]
    saved = cli.ok("task", "save", *words, *steps, NEXUS_LEASE=lease)
    assert saved.out == "Saved continue point 1 of task 1\n"
    for shown in (cli.ok("task", "resume", NEXUS_LEASE=lease), cli.ok("task", "resume", "1")):
        assert shown.err == ""
        lines = shown.lines
        assert lines[0] == 'Task 1 "Log in" is in progress, agent "ada".'
        assert [line.split(":", 1)[0] for line in lines[1:]] == [
            "Last action", "At", "Next step 1", "Next step 2", "Saved", "Worktree", "Branch",
        ]  # fmt: skip
        assert "form.py:12, in submit" in shown.out
        assert lines[1] == "Last action: wrote the form"
        assert lines[-2:] == ["Worktree:    /srv/one", "Branch:      one"]
    found = cli.ok("task", "resume", "1", "-o", "json").json
    assert (found["worktree_path"], found["continue_point"]["next_steps"]) == ("/srv/one", ["test it", "tidy up"])
    assert "continue point 1" in cli.ok("project", "execution").out
    refused = cli("task", "save", "1", "--action", "meddled")
    assert (refused.code != 0, "holds it under lease" in refused.err) == (True, True)
    cli.ok("lease", "revoke", lease.partition(":")[0])
    stale = cli("task", "save", "--action", "too late", NEXUS_LEASE=lease)
    assert (stale.code != 0, "it is revoked" in stale.err) == (True, True)
    why = cli.ok("task", "why", "1").lines
    assert why[0] == "Task 1 is ready: an agent can claim it."
    assert why[1].startswith("Its newest continue point is 1, ")
    assert why[1].endswith(" ago: wrote the form (form.py:12, in submit)")
    _lease, said = claimed(cli)
    assert "wrote the form (form.py:12, in submit)" in said
    assert "nexusctl task resume 1" in said


def test_without_a_continue_point_resume_says_how_to_save_one(cli: Cli) -> None:
    shown = cli.ok("task", "resume", "1")
    assert shown.out == 'Task 1 "Log in" is pending.\n'
    assert "nexusctl task save 1 --action TEXT" in shown.err
    assert cli("task", "save", "1").code == 2
    nothing = cli("task", "save", "--action", "x")
    assert (nothing.code != 0, "no task is named" in nothing.err) == (True, True)


def test_continue_points_are_listed_shown_and_deleted(cli: Cli) -> None:
    for action in ("planned", "wrote"):
        cli.ok("task", "save", "1", "--action", action)
    assert cli.ok("continue-point", "list", "--task", "1", "-o", "name").lines == ["2", "1"]
    heading, newest, _other = cli.ok("cp", "list").lines
    assert heading.split() == ["NUMBER", "TASK", "SAVED", "AGENT", "LAST", "ACTION"]
    assert newest.split()[:2] == ["2", "1"]
    assert "Last action: planned" in " ".join(cli.ok("cp", "inspect", "1").out.split())
    assert cli.ok("cp", "delete", "1", "--yes").out == 'Deleted continue point "1"\n'
    assert "task save" in cli("cp", "create").err


def test_episodes_are_created_listed_shown_changed_and_deleted(cli: Cli, root: Path) -> None:
    vector = root / "vector.json"
    vector.write_text("[1, 0.5]")
    words = ["--tag", "pool", "--task", "1", "--context", "file=pool.py", "--embedding", str(vector)]
    made = cli.ok("episode", "create", "error_fix", "The pool was exhausted.", *words)
    assert made.out == 'Created episode "1" (error_fix)\n'
    assert cli("episode", "create", "decision", "-", input="We use\none pool.\n").code == 0
    heading, second, first = cli.ok("episodes", "list").lines
    assert heading.split() == ["NUMBER", "TYPE", "IMPORTANCE", "USED", "TASK", "AGENT", "TEXT"]
    assert second.split() == ["2", "decision", "1", "0", "-", "-", "We", "use", "one", "pool."]
    assert first.split()[:6] == ["1", "error_fix", "1", "0", "1", "-"]
    assert "Embedding" not in cli.ok("episode", "inspect", "1").out
    shown = " ".join(cli.ok("episode", "inspect", "1", "--embedding").out.split())
    assert "Embedding: 1 0.5 Used: 2" in shown
    assert 'Context: {"file": "pool.py"}' in shown
    assert cli.ok("episode", "inspect", "2").lines[-3:] == ["", "We use", "one pool."]
    vector.write_text(json.dumps([0.25, 1]))
    assert cli.ok("episode", "update", "1", "--embedding", str(vector), "--importance", "3").out == (
        'Updated episode "1"\n'
    )
    assert cli.ok("episode", "inspect", "1", "--embedding", "-o", "json").json["embedding"] == [0.25, 1]
    assert cli("episode", "update", "1").code == 2
    vector.write_text('{"a": 1}')
    assert "no list of numbers" in cli("episode", "update", "1", "--embedding", str(vector)).err
    assert cli.ok("search", "exhausted", "-o", "name").lines == ["default/1"]
    assert cli.ok("episode", "delete", "2", "--yes").out == 'Deleted episode "2"\n'


def test_prune_tells_what_it_would_delete_and_deletes_it(cli: Cli) -> None:
    for importance in ("0.1", "0.9"):
        cli.ok("episode", "create", "research", f"it is {importance}", "--importance", importance)
    asked = cli.ok("episode", "prune", "--below", "0.5", "--dry-run")
    assert [line.split()[0] for line in asked.lines[1:]] == ["1"]
    assert "would be pruned" in asked.err
    assert cli.ok("episode", "prune", "--below", "0.5").out == "Pruned 1 episode\n"
    assert cli.ok("episode", "prune", "--keep", "5", "--unused", "30").out == "Pruned 0 episodes\n"
    assert cli.ok("episode", "list", "-o", "name").lines == ["2"]
    assert "no condition was given" in cli("episode", "prune").err
