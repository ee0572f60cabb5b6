"""``nexusctl agent``: the agents that claim tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, called, format_time, hint
from nexus.cli.records import (
    Noun,
    make_delete,
    make_inspect,
    make_list,
    make_switch,
    make_update,
    name_of,
    names_starting,
)
from nexus.cli.result import Result
from nexus.cli.verbs import NounGroup, Values, completers, for_each, verb
from nexus.hints import command_line
from nexus.ledger.agents.commands import (
    CreateAgent,
    DeleteAgent,
    GetAgent,
    ListAgents,
    PauseAgent,
    ReportAgentError,
    ResumeAgent,
    TerminateAgent,
    UpdateAgent,
)
from nexus.ledger.agents.records import Agent, AgentPage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["agent"]

_AGENT = Noun("agent", "agents", "agent", AgentPage.agents)


def _model(agent: Agent) -> str:
    return f"{agent.model_provider}/{agent.model_name}"


_COLUMNS: tuple[Column[Agent], ...] = (
    Column("NAME", lambda agent: agent.name, 16),
    Column("TYPE", lambda agent: agent.type, 9),
    Column("STATUS", lambda agent: agent.status, 10),
    Column("MODEL", _model, 26),
    Column("TASK", lambda agent: called(agent, agent.current_task_id), 20),
    Column("ACTIVE", lambda agent: format_time(agent.last_activity_at), wide=True),
    Column("TOKENS", lambda agent: agent.tokens_used, wide=True),
    Column("COMPLETED", lambda agent: agent.tasks_completed, wide=True),
    Column("FAILED", lambda agent: agent.tasks_failed, wide=True),
    Column("REASON", lambda agent: agent.reason, wide=True),
    Column("ID", lambda agent: agent.id, wide=True),
)


def _lines(agent: Agent) -> list[tuple[str, object]]:
    return [
        ("Name", agent.name),
        ("ID", agent.id),
        ("Type", agent.type),
        ("Status", agent.status),
        ("Reason", agent.reason),
        ("Model", _model(agent)),
        ("Temperature", f"{agent.temperature:g}"),
        ("Max tokens", agent.max_tokens),
        ("System prompt", agent.system_prompt),
        ("Tools", ", ".join(agent.tools) or None),
        ("Tags", ", ".join(agent.tags) or None),
        ("Task", called(agent, agent.current_task_id)),
        ("Worktree", agent.worktree_path),
        ("Branch", agent.branch_name),
        ("Tokens used", agent.tokens_used),
        ("Tasks", f"{agent.tasks_completed} completed, {agent.tasks_failed} failed"),
        ("Spawned", format_time(agent.spawned_at)),
        ("Active", format_time(agent.last_activity_at)),
        ("Terminated", format_time(agent.terminated_at)),
        ("Termination", agent.termination_reason),
    ]


def _make_spawn() -> click.Command:
    def sentence(agent: Agent) -> None:
        click.echo(f'Spawned agent "{agent.name}" ({agent.type}, {_model(agent)})')
        hint(f"Inspect it: {command_line('nexusctl', 'agent', 'inspect', agent.name)}")

    def run(app: App, values: Values, out: Printer) -> None:
        out.one(app.fetch(values.build(CreateAgent)), name=name_of, sentence=sentence)

    return verb(CreateAgent, run, help=_SPAWN_HELP)


_SPAWN_HELP = """Spawn an agent: an idle one that can claim tasks of any project. No process begins by this.

\b
    nexusctl agent spawn ada coder --model claude-sonnet-4 --tool git
"""


def _make_move(command: type[Any], done: str) -> click.Command:
    """A verb that moves each named agent, with the options of the command."""

    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[Agent]] = []
        code = for_each(
            values.every("agent", str), lambda name: found.append(app.fetch(values.build(command, agent=name)))
        )
        for result in found:
            out.one(result, name=name_of, sentence=lambda one: click.echo(f'{done} agent "{one.name}"'))
        return code

    return verb(command, run, variadic=True)


def _make_fail() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        result = app.fetch(values.build(ReportAgentError))
        out.one(result, name=name_of, sentence=lambda one: click.echo(f'Agent "{one.name}" is in error'))

    return verb(ReportAgentError, run)


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListAgents(limit=10_000), _AGENT, incomplete)


completers["agent"] = _complete


def _make_pool() -> click.Command:
    from nexus.cli.pages import make_pool

    return make_pool()


agent = NounGroup(
    "agent",
    "Manage the agents that claim tasks.",
    {
        "spawn": ("Spawn an agent.", _make_spawn),
        "list": ("List agents.", lambda: make_list(ListAgents, _AGENT, _COLUMNS)),
        "pool": ("Show the agents with their current tasks.", _make_pool),
        "inspect": ("Show agent details.", lambda: make_inspect(GetAgent, _AGENT, _lines)),
        "update": ("Change the configuration of an agent.", lambda: make_update(UpdateAgent, _AGENT)),
        "pause": ("Pause agents: they claim no task.", lambda: _make_move(PauseAgent, "Paused")),
        "resume": ("Let agents go on.", lambda: make_switch(ResumeAgent, _AGENT, "Resumed")),
        "fail": ("Report that an agent failed.", _make_fail),
        "terminate": ("Terminate agents for good.", lambda: _make_move(TerminateAgent, "Terminated")),
        "delete": ("Delete agents that hold no lease.", lambda: make_delete(GetAgent, DeleteAgent, _AGENT)),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info", "status"), " (did you mean 'inspect'?)"),
        **dict.fromkeys(("ls", "pool"), " (did you mean 'list'?)"),
        **dict.fromkeys(("create", "add", "new", "start"), " (did you mean 'spawn'?)"),
        **dict.fromkeys(("kill", "stop", "end"), " (did you mean 'terminate'?)"),
        **dict.fromkeys(("edit", "rename", "set"), " (did you mean 'update'?)"),
        "error": " (did you mean 'fail'?)",
    },
)
