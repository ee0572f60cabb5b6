"""``nexusctl agent``: agents are spawned, listed, shown, changed, moved and deleted."""

from __future__ import annotations

from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
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
from nexus.ledger.states import AgentType


def test_agents_are_managed(cli: Cli) -> None:
    made = cli("agent", "spawn", "ada", "coder", "--temperature", "0.5", "--tool", "git", "--tool", "sh")
    assert made.out == 'Spawned agent "ada" (coder, anthropic/claude-sonnet-4)\n'
    assert "nexusctl agent inspect ada" in made.err
    assert cli("agent", "spawn", "bo", "tester", "-o", "name").out == "bo\n"
    assert cli("agent", "spawn", "cy", "tester", "--temperature", "nan").code == 2
    shown = cli("agent", "inspect", "ada").out
    assert "git, sh" in shown
    assert "0.5" in shown
    assert cli("agent", "update", "ada", "--model", "claude-opus-4", "--model-provider", "anthropic").code == 0
    assert cli("agent", "pause", "ada", "bo", "--reason", "lunch").lines == [
        'Paused agent "ada"',
        'Paused agent "bo"',
    ]
    assert cli("agent", "list", "--status", "paused", "-o", "name").lines == ["ada", "bo"]
    assert cli("agent", "resume", "ada").out == 'Resumed agent "ada"\n'
    assert cli("agent", "fail", "ada", "no answer").out == 'Agent "ada" is in error\n'
    assert cli("agent", "terminate", "ada", "--reason", "old").out == 'Terminated agent "ada"\n'
    refused = cli("agent", "resume", "ada")
    assert refused.code == 5
    assert 'cannot resume agent "ada": it is terminated, which allows nothing more' in refused.err
    assert cli("agent", "delete", "-y", "ada", "bo").lines == ['Deleted agent "ada"', 'Deleted agent "bo"']
    assert "(did you mean 'spawn'?)" in cli("agent", "create", "x").err


def test_commands_do_what_the_verbs_do(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateAgent("ada", AgentType.CODER))
        client.call(UpdateAgent("ada", max_tokens=5))
        client.call(PauseAgent("ada"))
        client.call(ResumeAgent("ada"))
        client.call(ReportAgentError("ada", "x"))
        client.call(TerminateAgent("ada"))
        assert client.call(ListAgents()).agents == [client.call(GetAgent("ada"))]
        client.call(DeleteAgent("ada"))
