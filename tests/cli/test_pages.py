"""The pages of a project on the command line: what they show, at any width."""

from __future__ import annotations

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.cli.pages import sparkline
from nexus.client import BlockingClient
from nexus.ledger.pages.commands import GetAgentPool, GetBoard, GetExecution, GetProjectOverview, GetTaskGraph
from nexus.ledger.pages.records import BoardBy
from nexus.ledger.tasks.commands import CreateTask
from nexus.terminal import columns_of


@pytest.fixture
def plan(daemon: DaemonProcess, cli: Cli) -> Cli:
    """A project with a feature, three tasks of which one waits and one is claimed, and an agent."""
    cli.ok("feature", "create", "Accounts 日本", "--priority", "must")
    cli.ok("task", "create", "Log in", "--feature", "1", "--priority", "1")
    cli.ok("task", "create", "Log out", "--feature", "1", "--depends-on", "1")
    cli.ok("task", "create", "Tidy up")
    cli.ok("agent", "spawn", "ada", "coder")
    cli.ok("task", "claim", "1", "--agent", "ada")
    cli.ok("metric", "record", "token_usage", "1200", "--agent", "ada")
    return cli


def test_overview_counts_what_is_there(plan: Cli) -> None:
    lines = plan.ok("project", "overview").lines
    assert lines[0].startswith("Project:      default (")
    assert lines[1] == "Tasks:        3 (1 in progress, 2 pending)"
    assert "Ready:        1" in lines
    assert "Tokens:       1 200" in lines
    assert next(line for line in lines if line.startswith("Last 24 h:")).endswith("█")
    assert next(line for line in lines if line.startswith("#1 Accounts")).endswith("backlog       0/2 0 %")


@pytest.mark.parametrize("columns", [20, 41, 80, 200])
@pytest.mark.parametrize("by", ["status", "feature"])
def test_board_fits_the_terminal(plan: Cli, by: str, columns: int) -> None:
    lines = plan.ok("project", "board", "--by", by, COLUMNS=str(columns)).lines
    assert max(map(columns_of, lines)) <= columns
    cells = [cell.strip() for line in lines for cell in line.split("|")]
    assert {"#1 Log in", "#2 Log out", "#3 Tidy up"} <= set(cells)


def test_execution_says_who_works_on_what(plan: Cli) -> None:
    text = plan.ok("project", "execution").out
    assert "Working: 1\n  #1 Log in (@ada, " in text
    assert "Ready: 1\n  #3 Tidy up\n" in text


def test_graph_draws_what_waits_below_what_it_waits_for(plan: Cli) -> None:
    assert plan.ok("task", "graph").lines == [
        "#1 Log in (in_progress)",
        "  └ #2 Log out (pending)",
        "#3 Tidy up (pending)",
    ]
    assert "  t1 -> t2;" in plan.ok("task", "graph", "--dot").lines


def test_pool_shows_the_task_of_each_agent(plan: Cli) -> None:
    heading, line = plan.ok("agent", "pool").lines
    assert heading.split()[:4] == ["NAME", "TYPE", "STATUS", "TASK"]
    assert line.split()[:2] == ["ada", "coder"]
    assert "default/1 Log in" in line


def test_watch_draws_again_when_something_changes(plan: Cli, daemon: DaemonProcess) -> None:
    with plan.terminal("project", "execution", "--watch") as terminal:
        terminal.wait_for("#3 Tidy up")
        with BlockingClient(daemon.socket_path) as client:
            client.call(CreateTask("Appeared meanwhile"))
        terminal.wait_for("Appeared meanwhile")


def test_empty_project_has_pages(daemon: DaemonProcess, cli: Cli) -> None:
    assert "Tasks:        none" in cli.ok("project", "overview").lines
    assert cli.ok("project", "board").out == 'Project "default" has no tasks.\n'
    assert cli.ok("task", "graph").out == 'Project "default" has no such tasks.\n'
    assert cli.ok("agent", "pool").err == "No agents found.\n"


def test_pages_are_one_request_each(plan: Cli, daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        assert client.call(GetProjectOverview()).tasks == {"in_progress": 1, "pending": 2}
        assert [column.count for column in client.call(GetBoard(by=BoardBy.FEATURE)).columns] == [2, 1]
        assert [card.agent for card in client.call(GetExecution()).working] == ["ada"]
        assert [card.depends_on for card in client.call(GetTaskGraph()).tasks] == [[], [1], []]
        assert [agent.task_number for agent in client.call(GetAgentPool()).agents] == [1]


def test_sparkline_has_the_height_of_each_value() -> None:
    assert sparkline([0, 1, 4, 8]) == " ▁▄█"
    assert sparkline([0, 0]) == "  "
    assert sparkline([]) == ""
