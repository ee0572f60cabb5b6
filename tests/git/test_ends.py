"""The end of git: by itself, by a cancel, by a signal; and that the repository stays intact."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.git import GitWorld, HttpServer, missing_for_http, processes_in
from support.raw import WAIT_S, wait_until

from nexus.git import errors
from nexus.git import process as git_process
from nexus.git.repository import Progress, Repository, clone

needs_http = pytest.mark.skipif(missing_for_http() is not None, reason=str(missing_for_http()))


@pytest.fixture
def world(root: Path) -> Iterator[GitWorld]:
    world = GitWorld(root)
    world.bare("bare.git", world.repository("source"))
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208
    yield world
    assert len(os.listdir("/proc/self/fd")) == before, "a descriptor was left open"  # noqa: PTH208
    wait_until(lambda: not processes_in(root), "the end of what was started")


def push(world: GitWorld, text: str | bytes = "theirs") -> str:
    """One more commit at the remote."""
    commit = world.commit(world.root / "source", "file", text)
    world.git(world.root / "source", "push", "-q")
    return commit


def held(folder: Path) -> bool:
    """Whether a process holds the folder's lock."""
    try:
        fd = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def script(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n" + textwrap.dedent(text))
    path.chmod(0o755)
    return path


def cancelled(
    work: Callable[[], Coroutine[Any, Any, Any]], when: Callable[[], object], then: Callable[[], object]
) -> None:
    """Start the work, cancel it as soon as ``when`` is true, call ``then``, and check that it ends as cancelled."""

    async def run() -> None:
        task = asyncio.ensure_future(work())
        await asyncio.to_thread(wait_until, when, "the middle of the work")
        assert not task.done()
        task.cancel()
        await asyncio.sleep(0)
        await asyncio.to_thread(then)
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())


# During a transfer


@pytest.fixture
def stalling(world: GitWorld) -> Iterator[HttpServer]:
    """A server that stops in the middle of a pack of half a megabyte."""
    push(world, os.urandom(512 * 1024))
    server = HttpServer(world.root)
    server.stall_after = 200 * 1024
    yield server
    server.close()


@needs_http
def test_cancelled_clone_leaves_nothing_and_the_next_one_works(world: GitWorld, stalling: HttpServer) -> None:
    reported: list[Progress] = []
    before = sorted(world.root.iterdir())

    def make() -> Coroutine[Any, Any, Repository]:
        return clone(
            stalling.url("bare.git"), world.root / "a" / "web", progress=reported.append, environment=world.environment
        )

    cancelled(make, lambda: stalling.stalled.is_set() and reported, lambda: None)
    assert sorted(world.root.iterdir()) == before
    assert processes_in(world.root) == []
    stalling.stall_after = None
    assert asyncio.run(asyncio.run(make()).status()).branch == "main"


@needs_http
@pytest.mark.parametrize("limit", ["1", "1000"], ids=["as a pack", "as loose objects"])
def test_cancelled_pull_leaves_the_repository_unchanged(world: GitWorld, stalling: HttpServer, limit: str) -> None:
    first = world.git(world.root / "source", "rev-parse", "HEAD~1")
    path = world.cloned("web", world.root / "bare.git")
    world.git(path, "reset", "-q", "--hard", first)
    world.git(path, "update-ref", "refs/remotes/origin/main", first)
    world.git(path, "reflog", "expire", "--expire=now", "--all")
    world.git(path, "gc", "-q", "--prune=now")
    world.git(path, "config", "fetch.unpackLimit", limit)
    world.git(path, "remote", "set-url", "origin", stalling.url("bare.git"))
    web = Repository(path, environment=world.environment)
    cancelled(web.pull, stalling.stalled.is_set, lambda: None)
    assert list((path / ".git" / "objects").rglob("tmp_*")) == []
    assert list((path / ".git").rglob("*.lock")) == []
    world.git(path, "fsck", "--strict", "--full")
    state = asyncio.run(web.status())
    assert (state.commit, state.dirty) == (first, False)
    assert processes_in(world.root) == []
    stalling.stall_after = None
    assert asyncio.run(web.pull()).commits == 1


@needs_http
def test_folder_of_a_killed_clone_is_ignored_and_removed_later(world: GitWorld, stalling: HttpServer) -> None:
    path = world.root / "web"
    program = f"""
        import asyncio, pathlib, sys
        from nexus.git.repository import clone
        asyncio.run(clone({stalling.url("bare.git")!r}, pathlib.Path({str(path)!r})))
    """
    process = subprocess.Popen([sys.executable, "-c", textwrap.dedent(program)], env=world.environment)
    try:
        assert stalling.stalled.wait(WAIT_S)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait(WAIT_S)
    (left,) = world.root.glob(".web.nexus-clone-*")
    assert not path.exists()
    # Git may outlive its parent as long as it writes nothing.
    asyncio.run(clone(str(world.root / "bare.git"), path, environment=world.environment))
    path.rename(world.root / "first")
    stalling.go_on.set()
    wait_until(lambda: not held(left), "the end of git")
    asyncio.run(clone(str(world.root / "bare.git"), path, environment=world.environment))
    assert list(world.root.glob(".web.nexus-clone-*")) == []


def test_child_of_git_that_ignores_sigterm_is_killed(world: GitWorld) -> None:
    pid_file = world.root / "pid"
    ssh = script(world.root / "bin" / "ssh", f"trap '' TERM; echo $$ > {pid_file}; while :; do sleep 1; done\n")
    world.environment["GIT_SSH_COMMAND"] = str(ssh)
    path = world.cloned("web", world.root / "bare.git")
    world.git(path, "remote", "set-url", "origin", "ssh://example.org/x")
    web = Repository(path, auth="ssh", environment=world.environment)
    cancelled(web.pull, lambda: pid_file.exists() and pid_file.read_text(), lambda: None)
    wait_until(lambda: not Path("/proc", pid_file.read_text().strip()).exists(), "the end of the ssh command")
    assert asyncio.run(web.status()).branch == "main"


def test_locks_of_a_killed_git_are_removed_and_older_ones_stay(
    world: GitWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_process, "TERM_S", 0.05)
    path = world.cloned("web", world.root / "bare.git")
    names = ("index.lock", "refs/heads/main.lock", "objects/pack/tmp_pack_x", "objects/info/tmp_obj_x")
    script(
        world.root / "bin" / "git",
        f"""
        PATH=${{PATH#*:}}
        [ "$1" = fetch ] || exec git "$@"
        trap '' TERM
        for name in {" ".join(names)}; do : > .git/$name; done
        : > {world.root}/ready
        while :; do sleep 1; done
        """,
    )
    world.environment["PATH"] = f"{world.root}/bin:{world.environment['PATH']}"
    old = path / ".git" / "HEAD.lock"
    old.touch()
    cancelled(Repository(path, environment=world.environment).pull, (world.root / "ready").exists, lambda: None)
    assert [name for name in names if (path / ".git" / name).exists()] == []
    assert old.exists()


# During a change of the work tree


def hook(path: Path, name: str, text: str) -> None:
    script(path / ".git" / "hooks" / name, text)


def test_cancelled_change_of_the_work_tree_finishes(world: GitWorld) -> None:
    path = world.cloned("web", world.root / "bare.git")
    commit = push(world)
    go_on, ready = world.root / "go-on", world.root / "ready"
    hook(path, "post-merge", f": > {ready}; until [ -e {go_on} ]; do sleep 0.02; done; echo done > {world.root}/said\n")
    web = Repository(path, environment=world.environment)
    cancelled(web.pull, ready.exists, go_on.touch)
    assert (world.root / "said").read_text() == "done\n"
    state = asyncio.run(web.status())
    assert (state.commit, state.dirty) == (commit, False)


def test_cancelled_change_that_does_not_finish_in_time_is_ended(
    world: GitWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(git_process, "FINISH_S", 0.05)
    path = world.repository("web")
    world.git(path, "branch", "side")
    ready = world.root / "ready"
    hook(path, "post-checkout", f": > {ready}; while :; do sleep 1; done\n")
    web = Repository(path, environment=world.environment)
    cancelled(lambda: web.checkout_branch("side"), ready.exists, lambda: None)
    (path / ".git" / "hooks" / "post-checkout").unlink()
    assert asyncio.run(web.checkout_branch("main")).branch == "main"


def test_repeated_cancels_still_wait_for_the_end_of_git(world: GitWorld) -> None:
    path = world.cloned("web", world.root / "bare.git")
    push(world)
    go_on, ready = world.root / "go-on", world.root / "ready"
    hook(path, "post-merge", f": > {ready}; until [ -e {go_on} ]; do sleep 0.02; done\n")
    web = Repository(path, environment=world.environment)

    async def run() -> None:
        task = asyncio.ensure_future(web.pull())
        await asyncio.to_thread(wait_until, ready.exists, "the hook")
        for _ in range(3):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
            assert not task.done()
        go_on.touch()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(run())
    assert processes_in(path) == []


# Other ends


@pytest.mark.parametrize("escape", ["", "setsid "], ids=["same session", "own session"])
def test_background_process_of_a_hook_does_not_delay_the_result_and_ends_with_git(world: GitWorld, escape: str) -> None:
    path = world.repository("web")
    world.git(path, "branch", "side")
    pid_file = world.root / "pid"
    hook(
        path,
        "post-checkout",
        f"{escape}sh -c 'echo $$ > {pid_file}; exec sleep 1000' &\nwhile [ ! -s {pid_file} ]; do sleep 0.01; done\n",
    )
    assert asyncio.run(Repository(path, environment=world.environment).checkout_branch("side")).branch == "side"
    assert not Path("/proc", pid_file.read_text().strip()).exists()


def test_exception_in_a_progress_receiver_ends_git_and_is_raised(world: GitWorld) -> None:
    def broken(progress: Progress) -> None:
        raise RuntimeError(progress.phase)

    with pytest.raises(RuntimeError, match="objects"):
        asyncio.run(
            clone(f"file://{world.root}/bare.git", world.root / "web", progress=broken, environment=world.environment)
        )
    assert not (world.root / "web").exists()


def test_endless_output_of_git_is_bounded(world: GitWorld) -> None:
    path = world.repository("web")
    script(
        world.root / "bin" / "git",
        """
        head -c 3000000 /dev/zero | tr '\\0' x >&2
        seq 1 20000 >&2
        printf 'Receiving objects: 50%% (1/2)\\033[2J\\r' >&2
        echo 'fatal: \\033[31mlast\\007' >&2
        head -c 30000000 /dev/zero | tr '\\0' x
        exit 9
        """,
    )
    world.environment["PATH"] = f"{world.root}/bin:{world.environment['PATH']}"
    with pytest.raises(errors.GitFailed, match=r"cannot look at .*\?\[31mlast\?$") as raised:
        asyncio.run(Repository(path, environment=world.environment).status())
    assert len(str(raised.value.payload())) < 20_000


def test_git_older_than_2_31_is_refused_before_a_remote_is_contacted(world: GitWorld) -> None:
    path = world.cloned("web", world.root / "bare.git")
    script(
        world.root / "bin" / "git",
        'PATH=${PATH#*:}; if [ "$1" = version ]; then echo git version 2.30.2; else exec git "$@"; fi\n',
    )
    world.environment["PATH"] = f"{world.root}/bin:{world.environment['PATH']}"
    for refused in (
        Repository(path, environment=world.environment).pull(),
        clone(str(world.root / "bare.git"), world.root / "other", environment=world.environment),
    ):
        with pytest.raises(errors.GitMissing, match=r"git 2\.30: 2\.31 or newer"):
            asyncio.run(refused)


def test_git_killed_by_a_signal_is_reported(world: GitWorld) -> None:
    path = world.repository("web")
    script(world.root / "bin" / "git", "kill -9 $$\n")
    world.environment["PATH"] = f"{world.root}/bin:{world.environment['PATH']}"
    with pytest.raises(errors.GitFailed, match="git was ended by signal 9"):
        asyncio.run(Repository(path, environment=world.environment).status())
