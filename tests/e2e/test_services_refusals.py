"""Every error about services on the command line: a sentence, a hint, the exit code, and no secret in it."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from support.cli import Result
from support.daemon import short_directory
from support.git import GitWorld
from support.raw import wait_until
from support.services import ServiceWorld

from nexus.services.commands import AddDependency, AddService, StartService
from nexus.services.states import ServiceState

SECRET = "hunter2-of-the-tests"
STAYS_UP = "exec sleep 600"

VETO = """\
from nexus.plugins.api import Veto, hookimpl

NEXUS_PLUGIN_API = 1

@hookimpl
def pre_command(command, fields, origin):
    if command == "StartService" and fields["service"] == "forbidden":
        return Veto("not on a Friday")

@hookimpl
def pre_start_command(service, command, environment):
    if service == "unarmed":
        return Veto("it has no licence")
    return environment
"""


class Refusal(NamedTuple):
    """A command line of ``nexusctl service`` and its error. ``{root}`` and ``{port}`` are replaced by the world's."""

    line: str
    code: int
    sentence: str
    hint: str
    """A part of the hint."""


RECORDS = (
    Refusal(
        "add web --run true",
        5,
        'cannot add service "web": service name "web" already exists',
        "nexusctl service status web",
    ),
    Refusal("status aaaa", 5, 'cannot tell which service "aaaa" means', "more characters of the id"),
    Refusal("add x --run true --health-log (unclosed", 2, "health_log is not a regular expression", "RE2"),
    Refusal("add x --run true --health-log (?=a)b", 2, "health_log is not a regular expression", "RE2"),
    Refusal(
        "add x --run true --health-exec true --health-tcp 5",
        2,
        "health_exec is set, and a service has one health check",
        "Unset health_exec",
    ),
    Refusal("add x --run true --health-tcp 0", 2, "own port, and it has none", "Set a port"),
    Refusal("add x --type oneshot --restart always --run true", 2, "cannot have restart policy always", "on-fail"),
    Refusal("add x --type oneshot --health-exec true --run true", 2, "cannot have a health check", "completed"),
    Refusal(
        "add x --run true --restart-backoff 9s --restart-backoff-max 1s", 2, "is less than restart_backoff_ms", "both"
    ),
    Refusal("add x --run true --git-branch main", 2, "without a repo_url to clone from", "both"),
    Refusal(
        f"add x --run true --repo-url https://me:{SECRET}@example.org/x.git", 2, "holds a password", "git_token_file"
    ),
    Refusal("add x --run true --repo-url ext::sh", 2, 'cannot add service "x": its repo_url cannot be used', ""),
    Refusal("add x --run true --dir / --config-file ..", 2, "configuration file is a directory", "name of the file"),
    Refusal(
        "add x --run true --config-file a --config-file ?", 2, "configuration file is a directory", "name of the file"
    ),
    Refusal(
        "add x --run true --dir / --config-file folder/", 2, "configuration file is a directory", "name of the file"
    ),
    Refusal("add x --run true --depends-on nobody", 4, 'service "nobody" not found', ""),
    Refusal("update web --name idle", 5, 'cannot update service "web": service name "idle" already exists', "Choose"),
    Refusal("update web --clear nonsense", 2, "nonsense cannot be unset", "can be unset: run_command, directory"),
    Refusal("update web --port 5 --clear port", 2, "port is both set and cleared", "Leave out one"),
    Refusal("config set web --clear port", 2, "port cannot be unset", "can be unset: filename, run_command"),
    Refusal("remove listener --yes", 5, "it is running, stop it first", "service remove listener --force"),
    Refusal("remove needed --yes", 5, '"needs" depends on it', "dependency remove needs needed"),
    Refusal("remove needed --yes --force", 5, '"needs" depends on it', "dependency remove needs needed"),
    Refusal("remove idle", 1, "refusing to remove service without confirmation", "service remove idle --yes"),
)

DEPENDENCIES = (
    Refusal(
        "dep add one three", 5, "that would be a cycle: one → three → two → one", "service dependency remove three two"
    ),
    Refusal("dep add one one", 5, "it would depend on itself: one → one", "Give another service"),
    Refusal(
        "dep add two one --condition healthy", 5, "it already does, with other settings", "dependency remove two one"
    ),
    Refusal("dep remove one two", 4, 'cannot remove the dependency of "one" on "two"', "dependency list one"),
    Refusal(
        "dep add tunnelled db-1 --tunnel",
        5,
        'NEXUS_DB_1_HOST and NEXUS_DB_1_PORT of both "db.1" and "db-1"',
        "Rename one",
    ),
    Refusal("update idle --name db_1", 5, 'cannot rename service "idle"', "Rename one"),
    Refusal("stop needed", 5, 'cannot stop service "needed": "needs" needs it', "stop needed --cascade"),
    Refusal("start on-failing", 5, 'its dependency "early" failed: exited with 7', "service status early"),
    Refusal("start on-unchecked", 5, '"web" failed: it has no health check', "service update web"),
    Refusal("start on-portless", 5, '"one" has no port for its tunnel', "service update one --port 0"),
)

STARTS = (
    Refusal("start no-command", 5, "it has no run command", "service update no-command --run"),
    Refusal("start on-foreign-port", 5, "port {port} is in use by python", "Stop that"),
    Refusal("start on-our-port", 5, 'is in use by service "listener"', "service stop listener"),
    Refusal("start no-program", 5, 'cannot start service "no-program": /nowhere/program: program not found', "Build"),
    Refusal("start not-in-path", 5, "program not found in its PATH", "full path"),
    Refusal("start not-executable", 5, "it is not executable", "chmod +x"),
    Refusal("start no-interpreter", 5, "its interpreter /nowhere/interpreter was not found", "Install it"),
    Refusal("start no-format", 5, "neither a program nor a script", "#!/bin/sh"),
    Refusal("start a-folder", 5, "it is a directory", "path of a program"),
    Refusal("start no-directory", 5, '"no-directory": its directory {root}/nowhere does not exist', "Create it"),
    Refusal("start early", 5, 'cannot start service "early": it exited with 7', "service logs early"),
    Refusal("start at-once", 5, "it exited with 0 within its start window of 1000 ms", "service logs at-once"),
    Refusal("start limited-memory", 5, 'cannot start service "limited-memory"', "systemd --user"),
    Refusal("start limited-cpu", 5, 'cannot start service "limited-cpu"', "systemd --user"),
    Refusal("start no-file", 5, "{root}/no.env: there is no such file", "with a ? before it"),
    Refusal("start bad-file", 5, "{root}/bad.env, line 2", "Correct the file"),
    Refusal("start bad-properties", 5, "{root}/bad.properties, line 1", "Correct the file"),
    Refusal(
        "start outside-file",
        5,
        "{root}/inside/out.env is a link of the repository {root}/inside, and leads out of it",
        "declare that: /etc/passwd",
    ),
    Refusal(
        "start needy-file", 5, "{root}/needy.env, line 2: KEY is required and has no value: see the wiki", "Set it"
    ),
    Refusal("config show no-file --resolved", 5, "{root}/no.env: there is no such file", "with a ? before it"),
    Refusal("start web --env A=1", 5, "it is up with another one", "service restart web --env"),
    Refusal("start forbidden", 5, "not on a Friday", "plugin"),
    Refusal("start unarmed", 5, "it has no licence", "plugin"),
    Refusal("start sick --wait", 5, "it is unhealthy: I am ill", "service logs sick"),
)

GIT = (
    Refusal("git status web", 4, 'cannot use the repository of service "web": it has none', "--repo-path PATH"),
    Refusal("git clone web", 2, "it has no repo_url and no repo_path", "--repo-url URL --repo-path PATH"),
    Refusal("git status not-cloned", 4, "not the top of a git repository", "Clone the repository first"),
    Refusal("git log not-cloned", 4, "not the top of a git repository", "Clone the repository first"),
    Refusal("git checkout dirty --commit HEAD", 5, "1 changed and not committed", "git stash"),
    Refusal("git pull dirty", 5, "1 changed and not committed", "git stash"),
    Refusal(
        "git pull diverged", 5, "the branch has commits of its own (1), and so has its upstream (1)", "pull --rebase"
    ),
    Refusal(
        "git pull no-remote", 5, "cannot pull into {root}/alone: the repository has no remote", "remote add origin"
    ),
    Refusal("git pull detached", 5, "{root}/detached: no branch is checked out", "Check out a branch"),
    Refusal("git checkout clean nosuch", 4, "there is no such branch", "create it"),
    Refusal("git checkout clean main --create", 5, "a branch of this name exists", "Check it out"),
    Refusal("git checkout clean --commit deadbeef", 4, 'there is no commit "deadbeef"', "log"),
    Refusal("git clone clean", 5, "cannot clone", ""),
    Refusal("git clone no-such-remote", 4, "there is no repository at", "Check the URL"),
    Refusal("git clone unreachable", 1, "cannot be reached", "network"),
    Refusal("git pull tokenless", 1, "it authenticates with a token, and none was given", "--git-token-file"),
    Refusal("git pull token-for-all", 1, "other users may read it", "chmod 600 {root}/token"),
)


class RefusingWorld(ServiceWorld):
    """A world in which a foreign process listens on a port."""

    foreign_port = 0

    def __enter__(self) -> RefusingWorld:
        return self


@pytest.fixture(scope="module")
def world() -> Iterator[RefusingWorld]:
    """A world with all services, files and repositories that the command lines refer to."""
    root = short_directory()
    try:
        with RefusingWorld(root) as world, socket.socket() as foreign:
            foreign.bind(("127.0.0.1", 0))
            foreign.listen()
            folder = root / "config" / "nexus" / "plugins"
            folder.mkdir(mode=0o700, parents=True)
            (folder / "guard.py").write_text(VETO)
            world.daemon.start()
            make_records(world)
            world.foreign_port = foreign.getsockname()[1]
            make_failing_starts(world)
            make_repositories(world)
            yield world
            assert "Traceback" not in world.daemon.log()
            assert SECRET not in world.daemon.log()
            assert SECRET not in str(world.events())
    finally:
        shutil.rmtree(root)


def make_records(world: ServiceWorld) -> None:
    for name in ("web", "idle", "needed", "one", "two", "three", "forbidden", "unarmed", "tunnelled", "on-portless"):
        world.add(name, STAYS_UP, environment={"TOKEN": SECRET})
    for name in ("db.1", "db-1"):
        world.add(name, STAYS_UP, port=0)
    for number in (1, 2):
        world.add(f"twin-{number}", STAYS_UP, id=f"aaaa000{number}-0000-4000-8000-000000000000")
    world.add("needs", STAYS_UP)
    for service, dependency, fields in (
        ("needs", "needed", {}),
        ("two", "one", {}),
        ("three", "two", {}),
        ("tunnelled", "db.1", {"tunnel_enabled": True}),
        ("tunnelled", "idle", {"tunnel_enabled": True}),
        ("on-portless", "one", {"tunnel_enabled": True}),
    ):
        world.call(AddDependency(service=service, dependency=dependency, **fields))  # type: ignore[arg-type]
    world.call(StartService(service="web"))
    world.call(StartService(service="needs"))


def make_failing_starts(world: RefusingWorld) -> None:
    root = world.root
    files = {"plain": "text", "interpreter": "#!/nowhere/interpreter\n", "format": "hello"}
    for name, text in files.items():
        (root / name).write_text(text)
        (root / name).chmod(0o644 if name == "plain" else 0o755)
    (root / "bad.env").write_text(f"GOOD=1\n={SECRET} is no line\n")
    (root / "bad.properties").write_text(f"password = {SECRET}\\u12\n")
    (root / "inside").mkdir()
    (root / "inside" / "out.env").symlink_to("/etc/passwd")
    world.call(AddService(name="no-command"))
    for name, words in {
        "no-program": ["/nowhere/program", "--password", SECRET],
        "not-in-path": ["no-such-program-anywhere", SECRET],
        "not-executable": [str(root / "plain"), SECRET],
        "no-interpreter": [str(root / "interpreter"), SECRET],
        "no-format": [str(root / "format"), SECRET],
        "a-folder": [str(root), SECRET],
        "early": ["/bin/sh", "-c", "echo one; echo two >&2; exit 7"],
        "at-once": ["true"],
    }.items():
        world.add(name, words, environment={"TOKEN": SECRET})
    listen = (
        "import os, socket, time; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1);"
        " s.bind(('127.0.0.1', int(os.environ['PORT']))); s.listen(); time.sleep(600)"
    )
    world.add("listener", ["python3", "-I", "-S", "-c", listen], port=0, health_tcp=0, health_retries=1000)
    port = world.call(StartService(service="listener", wait=True)).service.active_port
    world.add("on-our-port", STAYS_UP, port=port)
    world.add("on-foreign-port", STAYS_UP, port=world.foreign_port)
    world.add("no-directory", STAYS_UP, directory=str(root / "nowhere"))
    world.add("limited-memory", STAYS_UP, memory_limit_mib=64)
    world.add("limited-cpu", STAYS_UP, cpu_limit_percent=50)
    world.add("no-file", STAYS_UP, directory=str(root), config_filename="no.env")
    world.add("bad-file", STAYS_UP, directory=str(root), config_filename="bad.env")
    world.add(
        "bad-properties", STAYS_UP, directory=str(root), config_filename="bad.properties", config_format="properties"
    )
    world.add("outside-file", STAYS_UP, repo_path=str(root / "inside"), config_filename="out.env")
    (root / "needy.env").write_text(f"TOKEN={SECRET}\nA=$TOKEN${{KEY:?see the wiki}}\n")
    world.add("needy-file", STAYS_UP, directory=str(root), config_filename=["?no.env", "needy.env"])
    world.add("sick", STAYS_UP, health_exec="echo I am ill; exit 1", health_interval_ms=100, health_retries=1)
    world.add("on-failing", STAYS_UP)
    world.call(AddDependency(service="on-failing", dependency="early"))
    world.add("on-unchecked", STAYS_UP)
    world.call(AddDependency(service="on-unchecked", dependency="web", condition="healthy"))  # type: ignore[arg-type]


def make_repositories(world: ServiceWorld) -> None:
    root = world.root
    git = GitWorld(root)
    source = git.repository("source")
    bare = git.bare("bare.git", source)
    for name in ("clean", "dirty", "diverged", "detached"):
        git.cloned(name, bare)
        world.add(name, STAYS_UP, repo_url=str(bare), repo_path=str(root / name))
    (root / "dirty" / "file").write_text("not committed")
    git.commit(root / "diverged", "mine", "1")
    git.commit(source, "theirs", "2")
    git.git(source, "push", "-q", "origin", "HEAD")
    git.git(root / "detached", "checkout", "-q", "--detach")
    alone = git.repository("alone")
    world.add("no-remote", STAYS_UP, repo_path=str(alone))
    world.add("not-cloned", STAYS_UP, repo_url=str(bare), repo_path=str(root / "not-there"))
    world.add("no-such-remote", STAYS_UP, repo_url=str(root / "no.git"), repo_path=str(root / "new-1"))
    world.add("unreachable", STAYS_UP, repo_url="git://127.0.0.1:1/x.git", repo_path=str(root / "new-2"))
    token = root / "token"
    token.write_text(SECRET)
    token.chmod(0o644)
    url = "https://127.0.0.1:1/x.git"
    fields = {"repo_url": url, "git_auth_type": "token"}
    world.add("tokenless", STAYS_UP, repo_path=str(root / "clean"), **fields)
    world.add("token-for-all", STAYS_UP, repo_path=str(root / "clean"), git_token_file=str(token), **fields)


def check_refused(result: Result, refusal: Refusal, sentence: str, hint: str) -> None:
    """An error is one sentence, which says what is impossible, and a hint that is indented by two spaces."""
    first, *more = result.err.splitlines()
    assert first.startswith(("Error: cannot ", "Error: refusing to ")) or first.endswith(" not found"), result
    assert sentence in first, result
    assert result.code == refusal.code, result
    assert result.out == ""
    assert SECRET not in result.err
    assert "Traceback" not in result.err
    assert all(line.startswith("  ") for line in more), result
    hints = [line for line in more if not line.startswith("   ")]
    if first.endswith(" not found"):
        return  # "not found" needs no hint
    assert hints, result
    assert hint in "\n".join(hints), result


@pytest.mark.parametrize("refusal", [*RECORDS, *DEPENDENCIES, *STARTS, *GIT], ids=lambda refusal: refusal.line)
def test_service_error_has_a_sentence_and_a_hint(world: RefusingWorld, refusal: Refusal) -> None:
    values = {"{root}": str(world.root), "{port}": str(world.foreign_port)}
    sentence, hint = refusal.sentence, refusal.hint
    for mark, value in values.items():
        sentence, hint = sentence.replace(mark, value), hint.replace(mark, value)
    words = refusal.line.split()
    check_refused(world.cli("service", *words), refusal, sentence, hint)


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("update web", "nothing to change: give at least one option"),
        ("config set web", "nothing to change: give --file, --format, --run or --clear"),
        ("stop", "select services"),
        ("list --state up", "invalid value for '--state'"),
        ("git checkout clean", "name what to check out"),
        ("add x --run true -- true", "give the command either with --run or after --, not both"),
    ],
)
def test_incomplete_command_line_names_what_is_missing(world: ServiceWorld, line: str, problem: str) -> None:
    result = world.cli("service", *line.split())
    first, *more = result.err.splitlines()
    assert (result.code, result.out) == (2, "")
    assert first.startswith(f"Error: {problem}")
    assert [text for text in more if text.startswith("  See: nexusctl service ") and text.endswith(" --help")]


def test_early_exit_error_shows_the_last_lines_of_output(world: ServiceWorld) -> None:
    result = world.cli("service", "start", "early")
    assert result.err == (
        'Error: cannot start service "early": it exited with 7\n'
        "    one\n"
        "    two\n"
        "  Look at its output: nexusctl service logs early\n"
    )


def test_start_that_a_stop_interrupts_fails_with_a_hint(world: ServiceWorld) -> None:
    world.add("slow", STAYS_UP, health_exec="exit 1", health_retries=1000)
    start = world.cli.start("service", "start", "slow", "--wait")
    try:
        world.wait_for("slow", lambda service: service.state is ServiceState.RUNNING, "to be running")
        world.cli.ok("service", "stop", "slow")
        out, error = start.communicate(timeout=60)
    finally:
        start.kill()
        start.wait()
    assert (start.returncode, out) == (5, b"")
    assert error.startswith(b'Error: cannot start service "slow": ')
    assert b"\n  Start it again: nexusctl service start slow\n" in error


def test_start_beyond_its_timeout_continues_in_the_daemon(world: ServiceWorld) -> None:
    world.add("late", STAYS_UP, start_window_ms=100, health_exec="exit 1", health_retries=1000)
    result = world.cli("--timeout", "0.5", "service", "start", "late", "--wait")
    assert (result.code, result.out) == (124, "")
    first, *more = result.err.splitlines()
    assert first.startswith("Error: cannot finish within 0.5 seconds")
    assert [line for line in more if line.endswith("to see their state: nexusctl service status late")]
    wait_until(lambda: world.service("late").state is ServiceState.RUNNING, "the end of the start window")


def test_refused_commands_change_nothing(world: ServiceWorld) -> None:
    """Has to be the last test of the module."""
    services = world.services()
    assert services["web"].restarts == 0
    assert not services.keys() & {"x"}
    assert {name for name, service in services.items() if service.state is ServiceState.STARTING} == set()
    wait_until(lambda: {"web", "needs", "needed", "listener"} <= set(world.runs()), "processes of all that run")
