"""Nothing that the daemon starts outlives its purpose, and the daemon's private settings reach none of it."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.git import GitWorld
from support.plugins import PluginFolder
from support.raw import RawClient, wait_until
from support.services import ServiceWorld, stat_fields

from nexus.plugins.commands import Extra, ListPlugins
from nexus.runtime.tree import descendants
from nexus.services.commands import GitClone, StartService, StopService
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceHealth, ServiceState

needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")

WORKERS = {
    "setsid": "setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' &",
    "double fork": "(setsid sh -c 'echo $$ >> {pids}; exec sleep 1000' </dev/null >/dev/null 2>&1 &) &",
    "cleared, keeps a pipe": "(setsid env -i /bin/sh -c 'echo $$ >> {pids}; exec sleep 1000' &) &",
}
"""Programs that leave the session, and write their pids."""


@pytest.fixture(params=["native", "python"])
def world(request: pytest.FixtureRequest, root: Path) -> Iterator[ServiceWorld]:
    """A daemon that was not started; it and all processes of its services are ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.environment["NEXUS_RUNTIME_SHIM"] = request.param
        world.daemon.environment["NEXUS_RUNTIME_SCOPES"] = "no"
        yield world


def pids_in(path: Path) -> list[int]:
    return [int(text) for text in path.read_text().split()] if path.exists() else []


def alive(pids: Path) -> list[int]:
    states = {pid: stat_fields(pid)[:1] for pid in pids_in(pids)}
    return [pid for pid, state in states.items() if state and state[0] not in "ZX"]


def script(worker: str, pids: Path, then: str = "exec sleep 1000") -> list[str]:
    """A command that starts a worker, waits until it has written its pid, and goes on."""
    count = f"$(cat {pids} 2>/dev/null | wc -l)"
    begin = f"n={count}; {WORKERS[worker].format(pids=pids)} while [ {count} = $n ]; do sleep 0.01; done; "
    return ["/bin/sh", "-c", begin + then]


def shim_of(world: ServiceWorld, service: Service) -> int:
    """The pid of the shim of a service's present run."""
    assert service.pid is not None
    return int(stat_fields(service.pid)[1])


# Runs


@pytest.mark.slow
@pytest.mark.parametrize("worker", WORKERS)
def test_three_kills_of_the_shim_leave_one_copy_of_each_process(world: ServiceWorld, worker: str) -> None:
    pids = world.root / "pids"
    world.daemon.start()
    world.add(
        "web", script(worker, pids), restart=RestartPolicy.ALWAYS, restart_backoff_ms=10, restart_limit=0,
        start_window_ms=0,
    )  # fmt: skip
    world.call(StartService(service="web"))
    for kills in range(1, 4):
        wait_until(lambda kills=kills: len(pids_in(pids)) == kills, "the worker")
        before = world.wait_for("web", lambda service: service.state is ServiceState.RUNNING, "to run")
        os.kill(shim_of(world, before), signal.SIGKILL)
        world.wait_for("web", lambda service, before=before: service.pid not in (None, before.pid), "to run again")
        assert len(set(alive(pids)) & set(pids_in(pids)[:kills])) == 0, "a process of the killed run was left"
    wait_until(lambda: len(pids_in(pids)) == 4, "the worker")
    assert alive(pids) == pids_in(pids)[-1:]
    world.call(StopService(service="web"))
    assert alive(pids) == []


@pytest.mark.parametrize("worker", WORKERS)
def test_shim_that_was_killed_without_a_daemon_leaves_nothing_to_the_next_run(world: ServiceWorld, worker: str) -> None:
    pids = world.root / "pids"
    world.daemon.start()
    world.add("web", script(worker, pids), restart=RestartPolicy.ALWAYS, restart_backoff_ms=10, start_window_ms=0)
    world.call(StartService(service="web"))
    wait_until(lambda: pids_in(pids), "the worker")
    before = world.wait_for("web", lambda service: service.state is ServiceState.RUNNING, "to run")
    shim = shim_of(world, before)
    world.daemon.kill()
    os.kill(shim, signal.SIGKILL)
    wait_until(lambda: stat_fields(shim)[:1] in ([], ["Z"]), "the end of the shim")
    world.daemon.start()
    world.wait_for("web", lambda service: service.pid not in (None, before.pid), "to run again")
    wait_until(lambda: len(pids_in(pids)) == 2, "the worker")
    assert alive(pids) == pids_in(pids)[-1:]


# Short-lived children


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("then", ["true", "exec sleep 1000"], ids=["ends", "takes too long"])
def test_health_check_that_leaves_a_process_leaves_none_behind(world: ServiceWorld, worker: str, then: str) -> None:
    pids = world.root / "pids"
    world.daemon.start()
    world.add(
        "web", "exec sleep 1000", health_exec=script(worker, pids, then), health_interval_ms=100,
        health_timeout_ms=3000 if then == "true" else 700,
    )  # fmt: skip
    world.call(StartService(service="web"))
    wait_until(lambda: len(pids_in(pids)) >= 3, "three checks")
    assert len(alive(pids)) <= 1, "only the check that runs now may have a process"
    if then == "true":
        world.wait_for("web", lambda service: service.health is ServiceHealth.HEALTHY, "to be healthy")
    world.call(StopService(service="web"))
    assert alive(pids) == []


@pytest.mark.parametrize("worker", WORKERS)
@pytest.mark.parametrize("end", ["kill", "stop"])
def test_check_under_way_ends_with_the_daemon(world: ServiceWorld, worker: str, end: str) -> None:
    pids, own = world.root / "pids", world.root / "own"
    world.daemon.start()
    then = f"echo $$ > {own}; exec sleep 1000"
    world.add("web", "exec sleep 1000", health_exec=script(worker, pids, then), health_timeout_ms=1_000_000)
    world.call(StartService(service="web"))
    wait_until(lambda: pids_in(own), "the check")
    getattr(world.daemon, end)()
    wait_until(lambda: not alive(pids) and not alive(own), "the end of the check")


@pytest.mark.parametrize("worker", ["setsid", "double fork"])
def test_check_whose_shim_was_killed_with_the_daemon_is_ended_by_the_next_one(world: ServiceWorld, worker: str) -> None:
    pids, own = world.root / "pids", world.root / "own"
    world.daemon.start()
    then = f"echo $$ > {own}; exec sleep 1000"
    world.add("web", "exec sleep 1000", health_exec=script(worker, pids, then), health_timeout_ms=1_000_000)
    world.call(StartService(service="web"))
    wait_until(lambda: pids_in(own), "the check")
    shim = int(stat_fields(pids_in(own)[0])[1])
    world.daemon.signal(signal.SIGSTOP)
    os.kill(shim, signal.SIGKILL)
    world.daemon.kill()
    assert alive(pids), "the worker outlives its shim"
    first = pids_in(pids)
    world.daemon.start()
    wait_until(lambda: not set(first) & set(alive(pids)), "the end of the worker")
    world.call(StopService(service="web"))
    assert alive(pids) == []


@needs_git
@pytest.mark.parametrize("worker", WORKERS)
def test_clone_under_way_ends_with_a_killed_daemon(world: ServiceWorld, worker: str) -> None:
    pids, own = world.root / "pids", world.root / "own"
    ssh = world.root / "ssh"
    ssh.write_text("#!/bin/sh\n" + script(worker, pids, f"echo $$ > {own}; exec sleep 1000")[2] + "\n")
    ssh.chmod(0o755)
    world.daemon.environment["GIT_SSH"] = str(ssh)
    world.daemon.start()
    world.add(
        "web", "true", repo_url="ssh://host.invalid/a.git", repo_path=str(world.root / "work"), git_auth_type="ssh"
    )
    with RawClient(world.daemon.socket_path) as client:
        client.begin(GitClone(service="web"))
        wait_until(lambda: pids_in(own), "the clone")
        world.daemon.kill()
    wait_until(lambda: not alive(pids) and not alive(own), "the end of the clone")


def test_processes_of_a_plugin_end_with_a_killed_daemon(world: ServiceWorld) -> None:
    folder = PluginFolder(world.root / "plugins")
    pids = world.root / "pids"
    folder.python(
        "starts",
        f"""
        import subprocess
        subprocess.Popen(["setsid", "sh", "-c", "echo $$ >> {pids}; exec sleep 1000"])

        @hookimpl
        def pre_command():
            pass
        """,
    )
    world.daemon.environment["NEXUS_PLUGINS_DIR"] = str(folder.path)
    world.daemon.start()
    pid = world.call(ListPlugins()).pid
    assert pid is not None
    wait_until(lambda: pids_in(pids), "the plugin's program")
    world.daemon.kill()
    wait_until(lambda: not alive(pids) and not stat_fields(pid), "the end of the plugins' process")


# What is inherited

PRIVATE = {
    "NEXUS_GIT_TOKEN": "s3cret",
    "NEXUS_RUN_ID": "of-an-outer-nexus",
    "NEXUS_SERVICE": "outer",
    "NEXUS_ANYTHING": "x",
    "INVOCATION_ID": "x",
    "MANAGERPID": "1",
    "MEMORY_PRESSURE_WATCH": "/x",
    "SYSTEMD_EXEC_PID": "1",
    "STATE_DIRECTORY": "/x",
}
KEPT = {"NEXUS_CONFIG_DIR", "NEXUS_SOCKET", "KEPT"}
LOOK = "umask > {0}.new; ulimit -n >> {0}.new; env -0 | tr '\\n\\0' ' \\n' >> {0}.new; mv {0}.new {0}"
"""Writes umask, limit of open files and variables of a shell."""


def seen(path: Path) -> tuple[str, int, set[str]]:
    """What LOOK has written: the umask, the limit, and the names of the variables."""
    wait_until(path.exists, path.name)
    umask, limit, *variables = path.read_text().splitlines()
    return umask, int(limit), {variable.partition("=")[0] for variable in variables}


def check_names(names: set[str], own: set[str]) -> None:
    """Refuse private variables of the daemon; ``own`` are those that are made for the child."""
    assert {name for name in names if name.startswith("NEXUS_")} == {"NEXUS_CONFIG_DIR", "NEXUS_SOCKET"} | own
    assert "KEPT" in names
    assert not (names - own) & set(PRIVATE)
    assert "NOTIFY_SOCKET" not in names


@needs_git
@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002, 0o077])
def test_every_child_gets_umask_limit_and_environment_of_the_session(world: ServiceWorld, umask: int) -> None:
    root, git = world.root, GitWorld(world.root)
    source = git.repository("source")
    git.git(source, "branch", "side")
    folder = PluginFolder(root / "plugins")
    folder.python(
        "looks",
        f"""
        import subprocess
        NEXUS_EXTRAS = ("look",)

        @hookimpl
        def extra():
            subprocess.run(["sh", "-c", {LOOK.format(root / "seen-plugin")!r}], check=True)
        """,
    )
    world.daemon.environment |= PRIVATE | {
        "KEPT": "1",
        "NEXUS_CONFIG_DIR": str(root / "config" / "nexus"),
        "NEXUS_SOCKET": str(world.daemon.socket_path),
        "NEXUS_PLUGINS_DIR": str(folder.path),
    }
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    before = os.umask(umask)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limits[0] - 7, limits[1]))
        world.daemon.start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        os.umask(before)
    expected = f"{umask:04o}", limits[0] - 7

    work = root / "some" / "where" / "work"
    world.add(
        "web", LOOK.format(root / "seen-run") + "; exec sleep 1000", health_exec=LOOK.format(root / "seen-check"),
        repo_url=str(source), repo_path=str(work), directory=str(root),
    )  # fmt: skip
    world.call(StartService(service="web", wait=True))
    assert world.cli("service", "git", "clone", "web").code == 0
    hook = work / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\n{LOOK.format(root / 'seen-hook')}\n")
    hook.chmod(0o755)
    assert world.cli("service", "git", "checkout", "web", "side", "--create").code == 0
    with RawClient(world.daemon.socket_path) as client:
        client.call(Extra("look"))

    for name, own in (
        ("run", {"NEXUS_PROJECT", "NEXUS_RUN_ID", "NEXUS_SERVICE"}),
        ("check", {"NEXUS_PROJECT", "NEXUS_RUN_ID", "NEXUS_SERVICE"}),
        ("hook", {"NEXUS_RUN_ID"}),
        ("plugin", {"NEXUS_RUN_ID"}),
    ):
        found_umask, found_limit, names = seen(root / f"seen-{name}")
        assert (found_umask, found_limit) == expected, name
        check_names(names, own)
        assert "of-an-outer-nexus" not in (root / f"seen-{name}").read_text()
        assert "s3cret" not in (root / f"seen-{name}").read_text()
    file = next(path for path in work.iterdir() if path.is_file())
    for path, mode in (
        (file, 0o666),
        (work, 0o777),
        (work / ".git", 0o777),
        (work.parent, 0o777),
        (root / "some", 0o777),
    ):
        assert stat.S_IMODE(path.stat().st_mode) == mode & ~umask, path
    for path in world.state.rglob("*"):
        if not path.is_symlink() and not path.is_socket():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, f"{path} of the daemon is private"
    for pid in descendants(world.daemon.pid):
        assert b"s3cret" not in Path(f"/proc/{pid}/environ").read_bytes()


@needs_git
def test_umask_of_the_record_is_that_of_its_run_checks_and_repository(world: ServiceWorld) -> None:
    root, git = world.root, GitWorld(world.root)
    source = git.repository("source")
    world.daemon.start()
    work = root / "some" / "work"
    options = ["--umask", "007", "--dir", str(root), "--health-exec", LOOK.format(root / "seen-check")]
    world.cli.ok("service", "add", "web", *options, "--repo-url", str(source), "--repo-path", str(work), "--",
                 "/bin/sh", "-c", LOOK.format(root / "seen-run") + "; exec sleep 1000")  # fmt: skip
    assert world.service("web").umask == "007"
    world.call(StartService(service="web", wait=True))
    world.cli.ok("service", "git", "clone", "web")
    assert [seen(root / f"seen-{name}")[0] for name in ("run", "check")] == ["0007", "0007"]
    assert [stat.S_IMODE(path.stat().st_mode) for path in (work.parent, work)] == [0o770, 0o770]
    assert "Umask:" in world.cli.ok("service", "status", "web", "-o", "wide").out
    world.cli.ok("service", "update", "web", "--clear", "umask")
    assert world.service("web").umask is None
    (root / "seen-run").unlink()
    world.cli.ok("service", "restart", "web")
    assert seen(root / "seen-run")[0] == current_umask()


def current_umask() -> str:
    """The umask of this process, in which the daemon was started."""
    mask = os.umask(0)
    os.umask(mask)
    return f"{mask:04o}"
