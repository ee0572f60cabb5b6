"""Hints as a person meets them: a shell runs the lines that are printed, and they lead to the same daemon and files."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from nexus_protocol.errors import FailedPrecondition
from support.cli import Cli, Result
from support.daemon import DaemonProcess
from support.git import GitWorld

from nexus.cli.main import print_error
from nexus.cli.output import hint, set_address
from nexus.client.errors import ConnectError
from nexus.hints import joined

Make = Callable[..., DaemonProcess]


@pytest.fixture
def address(root: Path) -> str:
    return str(root / "it's; my" / "a socket")


@pytest.fixture
def far(make_daemon: Make, root: Path, address: str) -> Cli:
    """nexusctl, whose environment leads to no daemon; one listens at ``address``."""
    Path(address).parent.mkdir(mode=0o700)
    make_daemon("--socket", address, "--db", str(root / "far.db")).start()
    return Cli(DaemonProcess(root).environment)


def run_hint(cli: Cli, said: Result, begin: str) -> Result:
    """Run the command line of the hint that begins with some words, as a shell does."""
    (line,) = [line.strip() for line in said.err.splitlines() if line.strip().startswith(begin)]
    done = cli.shell(line[len(begin) :].lstrip())
    assert done.code == 0, (line, done)
    return done


def test_commands_of_a_daemon_on_another_host_run_there(capsys: pytest.CaptureFixture[str]) -> None:
    told = (
        "Connect once by hand: ssh -p 42922 me@127.0.0.1\nAsk; if so, remove the old one: ssh-keygen -R '[::1]:22'\n"
        "ssh asks there."
    )
    set_address(None, None, None, "ssh://you@far:2222")
    try:
        print_error(FailedPrecondition("it failed", hint=told))
        print_error(ConnectError("it failed", "To see how ssh gets there: ssh far true"))
    finally:
        set_address(None, None)
    assert capsys.readouterr().err.splitlines() == [
        "Error: it failed",
        "  Connect once by hand: ssh -t -l you -p 2222 far ssh -p 42922 me@127.0.0.1",
        "  Ask; if so, remove the old one: ssh -t -l you -p 2222 far " + shlex.quote("ssh-keygen -R '[::1]:22'"),
        "  ssh asks there.",
        "Error: it failed",
        "  To see how ssh gets there: ssh far true",
    ]
    print_error(FailedPrecondition("it failed", hint="Connect once by hand: ssh me@there"))
    assert capsys.readouterr().err.splitlines()[-1] == "  Connect once by hand: ssh me@there"


def test_hints_lead_to_the_daemon_of_the_command_line(far: Cli, address: str) -> None:
    made = far.ok("--socket", address, "vm", "create", "box")
    assert run_hint(far, made, "Inspect it:").lines[0] == "Name:    box"
    refused = far("vm", "delete", "box", "--socket", address)
    assert refused.code == 1
    assert run_hint(far, refused, "Run with --yes to skip confirmation:").out == 'Deleted VM "box"\n'
    added = far.ok("service", "add", "web", "--run", "exec sleep 1000", f"--socket={address}")
    run_hint(far, added, "Start it:")
    taken = far("--socket", address, "service", "add", "web")
    assert taken.code == 5
    assert "running" in run_hint(far, taken, "Choose another name, or look at it:").out
    updated = far.ok("--socket", address, "service", "update", "web", "--env", "A=1")
    run_hint(far, updated, "It keeps running with the old values; to restart it:")
    stop = far("--socket", address, "daemon", "stop")
    assert stop.err.splitlines()[-1] == f"  nexusctl --socket {shlex.quote(address)} service stop --all -A"
    stopped = far("--socket", address, "daemon", "status")
    assert stopped.err == f"\n  Start it: nexusctl --socket {shlex.quote(address)} daemon start\n"
    assert far("--socket", address, "status").err.endswith(stopped.err)


def test_configuration_of_the_command_line_is_repeated_too(far: Cli, root: Path, address: str) -> None:
    config = root / "my config.toml"
    config.write_text(f'[client]\nsocket = "{address}"\n')
    made = far.ok("--config", str(config), "vm", "create", "box")
    assert made.err == f"\n  Inspect it: nexusctl --config '{config}' vm inspect box\n"
    run_hint(far, made, "Inspect it:")
    # Without an option the environment leads to the same daemon again, and nothing is repeated.
    assert far.ok("vm", "create", "box2", NEXUS_SOCKET=address).err == "\n  Inspect it: nexusctl vm inspect box2\n"


def test_hint_of_a_second_daemon_leads_to_the_first(far: Cli, make_daemon: Make, root: Path, address: str) -> None:
    _code, output = make_daemon("--socket", str(root / "b"), "--db", str(root / "far.db")).run_to_failure()
    (line,) = [line for line in output.splitlines() if "It listens on" in line]
    assert line == f"  It listens on {address}: nexusctl --socket {shlex.quote(address)} status"
    run_hint(far, Result(1, "", output), f"It listens on {address}:")


def test_commands_of_git_name_the_repository(cli: Cli, root: Path) -> None:
    world = GitWorld(root)
    path = world.repository("it's a repo")
    cli.ok("service", "add", "web", "--repo-path", str(path))
    pulled = cli("service", "git", "pull", "web")
    assert pulled.code == 5
    (line,) = [line.strip() for line in pulled.err.splitlines() if "Add it:" in line]
    assert cli.shell(line.removeprefix("Add it: ")).code == 0
    assert world.git(path, "remote").strip() == "origin"
    (path / "file").write_text("changed")
    world.git(path, "branch", "other")
    dirty = cli("service", "git", "checkout", "web", "other")
    assert dirty.code == 5
    (stash, state) = [line.strip() for line in dirty.err.splitlines() if line.startswith("  ")][-2:]
    assert stash == f"Commit the changes, or git stash them: git -C {shlex.quote(str(path))} stash"
    assert state == "See its state: nexusctl service git status web"
    run_hint(cli, dirty, "See its state:")
    world.git(path, "config", "user.name", "me")
    world.git(path, "config", "user.email", "me@localhost")
    run_hint(cli, dirty, "Commit the changes, or git stash them:")
    cli.ok("service", "git", "checkout", "web", "other")


def test_token_file_that_others_can_read_is_restricted_by_the_command_of_the_hint(cli: Cli, root: Path) -> None:
    token = root / "my 'token"
    token.write_text("abc")
    token.chmod(0o644)
    world = GitWorld(root)
    path = world.repository("web")
    cli.ok(
        *("service", "add", "web", "--repo-path", str(path), "--repo-url", "https://localhost:1/x.git"),
        *("--git-auth-type", "token", "--git-token-file", str(token)),
    )
    run_hint(cli, cli("service", "git", "pull", "web"), "Restrict its permissions:")
    assert token.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("address", [(), ("/a b", None)])
def test_hint_after_a_hint_has_lines_of_its_own(
    capsys: pytest.CaptureFixture[str], address: tuple[str, str | None]
) -> None:
    set_address(*(address or (None, None)))
    try:
        error = FailedPrecondition("cannot go on", hint=joined("First.", "Look: nexusctl status; nexusctl doctor"))
        error.hint = joined(error.hint, "Then: nexusctl status")
        print_error(error)
        hint("One\nTwo: nexusctl status")
    finally:
        set_address(None, None)
    program = "nexusctl --socket '/a b'" if address else "nexusctl"
    assert capsys.readouterr().err == (
        f"Error: cannot go on\n  First.\n  Look: {program} status; {program} doctor\n  Then: {program} status\n"
        f"\n  One\n  Two: {program} status\n"
    )
