"""Services through the Python client and through nexusctl: each sees the other's changes."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.git import GitWorld

from nexus.client import BlockingClient
from nexus.services.commands import (
    AddDependency,
    AddService,
    CheckoutBranch,
    GetConfig,
    GetRepoStatus,
    GetServiceStatus,
    GitCheckoutCommit,
    GitClone,
    GitListBranches,
    GitLog,
    GitPull,
    ListDependencies,
    ListServices,
    RemoveDependency,
    UpdateConfig,
    UpdateService,
)
from nexus.services.states import DependencyCondition, ServiceState


@pytest.fixture
def program(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A connected client."""
    with BlockingClient(daemon.socket_path, actor="agent-7") as connected:
        yield connected


def test_records_and_dependencies_are_the_same_for_cli_and_client(cli: Cli, program: BlockingClient) -> None:
    db = program.call(AddService("db", run_command=["sleep", "1000"], environment={"A": "1"}, tags=["x"]))
    cli.ok("service", "add", "api", "--run", "exec sleep 1000")
    program.call(AddDependency("api", "db", condition=DependencyCondition.STARTED))
    assert cli.ok("service", "dep", "list", "api", "-o", "name").lines == ["db"]
    cli.ok("service", "start", "api")
    assert [one.name for one in program.call(ListServices(state=ServiceState.RUNNING)).services] == ["api", "db"]
    status = program.call(GetServiceStatus(db.id))
    assert [edge.service for edge in status.dependents] == ["api"]
    cli.ok("service", "stop", "--all")
    assert program.call(UpdateService("db", port=0)).port == 0
    assert program.call(UpdateConfig("db", filename=".env")).filename == ".env"
    assert ".env" in cli.ok("service", "config", "show", "db").out
    assert [(one.name, one.value) for one in program.call(GetConfig("db", reveal=True)).variables] == [("A", "1")]
    assert [edge.dependency for edge in program.call(ListDependencies()).dependencies] == ["db"]
    program.call(RemoveDependency("api", "db"))
    assert cli("service", "dep", "list").err == "No dependencies found.\n"
    assert "agent-7" in cli.ok("events", "--no-follow", "--subject", "db").out


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_repositories_are_the_same_for_cli_and_client(cli: Cli, program: BlockingClient, root: Path) -> None:
    world = GitWorld(root)
    source = world.repository("source", commits=2)
    path = root / "work"
    cli.ok("service", "add", "app", "--repo-url", str(world.bare("bare.git", source)), "--repo-path", str(path))
    with program.stream(GitClone("app")) as stream:
        list(stream)
        assert stream.result.path == str(path)
    newest, oldest = program.call(GitLog("app")).commits
    assert cli.ok("service", "git", "log", "app", "-o", "name").lines == [newest.id, oldest.id]
    assert program.call(CheckoutBranch("app", "more", create=True)).branch == "more"
    assert {branch.name for branch in program.call(GitListBranches("app")).branches} == {"main", "more"}
    assert program.call(GitCheckoutCommit("app", oldest.id)).branch is None
    assert f"Commit:     {oldest.id}" in cli.ok("service", "git", "status", "app").out
    cli.ok("service", "git", "checkout", "app", "main")
    with program.stream(GitPull("app")) as stream:
        list(stream)
        assert stream.result.pulled_commits is None
    assert program.call(GetRepoStatus("app")).commit == newest.id
