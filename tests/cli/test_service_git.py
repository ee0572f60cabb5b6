"""``service git``: clone, status, log, checkout and pull, and tokens that are never on a command line."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cli import Cli
from support.git import GitWorld, HttpServer, missing_for_http

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


@pytest.fixture
def world(root: Path) -> GitWorld:
    return GitWorld(root)


def test_git_verbs_clone_inspect_check_out_and_pull(cli: Cli, world: GitWorld, root: Path) -> None:
    source = world.repository("source", commits=2)
    bare = world.bare("bare.git", source)
    path = root / "work"
    cli.ok("service", "add", "app", "--repo-url", str(bare), "--repo-path", str(path))
    code, _out, err = cli("service", "git", "status", "app")
    assert code == 4
    assert "Clone the repository first" in err
    assert err.endswith("  Clone it: nexusctl service git clone app\n")
    branch = world.git(source, "branch", "--show-current").strip()
    assert cli.ok("service", "git", "clone", "app").out == f'Cloned to {path} (branch "{branch}")\n'
    head = world.git(source, "rev-parse", "HEAD").strip()
    status = cli.ok("service", "git", "status", "app").out
    assert f"Repository: {path}\nBranch:     {branch}\nCommit:     {head}\n" in status
    assert f"Upstream:   origin/{branch} (up to date)\n" in status
    assert "Changes:    none\n" in status
    heading, first, second = cli.ok("service", "git", "log", "app").lines
    assert heading.split() == ["COMMIT", "TIME", "AUTHOR", "SUBJECT"]
    assert first.startswith(head[:12])
    assert cli.ok("service", "git", "log", "app", "--limit", "1", "-o", "name").lines == [head]
    assert cli.ok("service", "git", "checkout", "app", "more", "--create").out == (
        f'Checked out branch "more" ({head[:12]})\n'
    )
    names = cli.ok("service", "git", "branches", "app", "-o", "name").lines
    assert sorted(names) == sorted([branch, "more"])
    older = second.split()[0]
    assert (
        cli.ok("service", "git", "checkout", "app", "--commit", older).out == f"Checked out commit {older}, detached\n"
    )
    cli.ok("service", "git", "checkout", "app", branch)
    assert cli.ok("service", "git", "pull", "app").out == f"Already up to date ({head[:12]})\n"
    newer = world.commit(source, "new", "new")
    world.git(source, "push", "--quiet", str(bare), f"HEAD:{branch}")
    assert cli.ok("service", "git", "pull", "app").out == f"Pulled 1 commit ({head[:12]}..{newer.strip()[:12]})\n"
    for words, hint in (("nowhere", "branches app"), ("--commit=nothing", "log app")):
        code, _out, err = cli("service", "git", "checkout", "app", words)
        assert code == 4
        assert f"  List them: nexusctl service git {hint}\n" in err
    (path / "new").write_text("changed here")
    assert "Changes:    1 changed\n" in cli.ok("service", "git", "status", "app").out
    code, out, err = cli("service", "git", "checkout", "app", "--commit", older)
    assert (code, out) == (5, "")
    assert err.startswith("Error: cannot ")
    assert err.endswith("  See its state: nexusctl service git status app\n")


def test_clone_shows_progress_on_a_terminal_and_clears_it(cli: Cli, world: GitWorld, root: Path) -> None:
    bare = world.bare("bare.git", world.repository("source"))
    cli.ok("service", "add", "app", "--repo-url", str(bare), "--repo-path", str(root / "work"))
    with cli.terminal("service", "git", "clone", "app") as terminal:
        code, text = terminal.finish()
    assert code == 0
    assert "\r" in text, "no progress was shown"
    last = text.rstrip("\n").rpartition("\r")[2]
    assert last.startswith("Cloned to ")
    assert cli("service", "git", "clone", "app").err.startswith("Error: cannot ")


@pytest.fixture
def server(root: Path) -> Iterator[HttpServer]:
    """Serves a repository on loopback to clients with the token ``t0ken``."""
    reason = missing_for_http()
    if reason is not None:
        pytest.skip(reason)
    world = GitWorld(root)
    world.bare("served.git", world.repository("origin"))
    server = HttpServer(root, token="t0ken")
    yield server
    server.close()


def test_token_is_read_from_a_file_or_a_variable_and_never_shown(cli: Cli, server: HttpServer, root: Path) -> None:
    url = server.url("served.git")
    cli.ok("service", "add", "app", "--repo-url", url, "--repo-path", str(root / "a"), "--git-auth-type", "token")
    code, _out, err = cli("service", "git", "clone", "app", NEXUS_GIT_TOKEN="wr0ng")
    assert code == 1
    assert "wr0ng" not in err
    (root / "token").write_text("t0ken\n")
    assert cli.ok("service", "git", "clone", "app", "--token-file", str(root / "token")).out.startswith("Cloned to ")
    assert cli.ok("service", "git", "pull", "app", NEXUS_GIT_TOKEN="t0ken").out.startswith("Already up to date")
    assert "t0ken" not in cli.ok("events", "--no-follow", "-o", "wide").out
    assert "t0ken" not in (root / "a" / ".git" / "config").read_text()
    (root / "token").write_text("two words\n")
    code, _out, err = cli("service", "git", "pull", "app", "--token-file", str(root / "token"))
    assert code == 2
    assert "expected one token on one line" in err
    assert "words" not in err


def test_token_is_not_sent_to_another_host_than_that_of_the_record(cli: Cli, server: HttpServer, root: Path) -> None:
    other = HttpServer(root, token="t0ken")
    try:
        url = server.url("served.git")
        cli.ok("service", "add", "app", "--repo-url", url, "--repo-path", str(root / "a"), "--git-auth-type", "token")
        cli.ok("service", "git", "clone", "app", NEXUS_GIT_TOKEN="t0ken")
        config = root / "a" / ".git" / "config"
        config.write_text(config.read_text().replace(url, other.url("served.git")))
        code, _out, err = cli("service", "git", "pull", "app", NEXUS_GIT_TOKEN="t0ken")
        assert code == 1
        assert f"the remote is at {other.url('')[:-1]}, and the token is for {server.url('')[:-1]}" in err
        assert "repo_url" in err
        assert not other.authorizations
        cli.ok("service", "update", "app", "--repo-url", other.url("served.git"))
        assert cli.ok("service", "git", "pull", "app", NEXUS_GIT_TOKEN="t0ken").out.startswith("Already up to date")
    finally:
        other.close()


def test_submodules_are_cloned_unless_asked_otherwise_and_missing_ones_are_told(
    cli: Cli, world: GitWorld, root: Path
) -> None:
    inner, source = world.repository("inner"), world.repository("source")
    world.git(source, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "lib")
    world.git(source, "commit", "-q", "-m", "lib")
    bare = world.bare("bare.git", source)
    for name, option, told in (("all", [], ""), ("bare", ["--no-submodules"], "Submodules: not initialised: lib\n")):
        cli.ok("service", "add", name, "--repo-url", str(bare), "--repo-path", str(root / name))
        cli.ok("service", "git", "clone", name, *option)
        assert (root / name / "lib" / "file").exists() == (not option)
        status = cli.ok("service", "git", "status", name)
        assert told in status.out
        assert ("Submodules" in status.out) == bool(told)
        shown = cli.ok("service", "git", "status", name, "-o", "json").json
        assert shown.get("uninitialized_submodules", []) == (["lib"] if option else [])
