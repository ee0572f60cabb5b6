"""``nexusctl project pause``, ``resume``, ``complete`` and ``fail``."""

from __future__ import annotations

from support.cli import Cli
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.projects.commands import CompleteProject, FailProject, GetProject, PauseProject, ResumeProject


def test_projects_are_moved(cli: Cli) -> None:
    for name in ("shop", "bank"):
        assert cli("project", "create", name).code == 0
    assert cli("project", "pause", "shop", "bank", "--reason", "waits").lines == [
        'Paused project "shop"',
        'Paused project "bank"',
    ]
    refused = cli("project", "pause", "shop")
    assert refused.code == 5
    assert 'cannot pause project "shop": it is paused, which allows resume, complete, fail' in refused.err
    assert "nexusctl project resume shop" in refused.err
    assert cli("project", "resume", "shop").out == 'Resumed project "shop"\n'
    assert cli("project", "complete", "shop").out == 'Completed project "shop"\n'
    assert cli("project", "fail", "bank", "-o", "json").json["status"] == "failed"
    assert cli("project", "list", "--status", "completed", "-o", "name").out == "shop\n"


def test_commands_move_what_the_verbs_do(cli: Cli, daemon: DaemonProcess) -> None:
    assert cli("project", "create", "mill").code == 0
    with BlockingClient(daemon.socket_path) as client:
        for command, status in (
            (PauseProject("mill"), "paused"),
            (ResumeProject("mill"), "in_progress"),
            (CompleteProject("mill"), "completed"),
            (ResumeProject("mill"), "in_progress"),
            (FailProject("mill"), "failed"),
        ):
            client.call(command)
            assert client.call(GetProject("mill")).status == status
