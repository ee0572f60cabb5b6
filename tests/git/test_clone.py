"""Clones and pulls from local repositories: their results, their errors, and that a failure leaves nothing behind."""

from __future__ import annotations

import asyncio
import fcntl
import os
from pathlib import Path

import pytest
from support.git import GitWorld

from nexus.git import errors
from nexus.git.repository import Progress, PullResult, Repository, clone


@pytest.fixture
def world(root: Path) -> GitWorld:
    return GitWorld(root)


@pytest.fixture
def bare(world: GitWorld) -> Path:
    """The repository that ``source`` pushes to."""
    return world.bare("bare.git", world.repository("source", commits=2))


def cloned(world: GitWorld, url: Path | str, path: Path, *, branch: str | None = None) -> Repository:
    return asyncio.run(clone(str(url), path, branch=branch, environment=world.environment))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def repository(world: GitWorld, path: Path) -> Repository:
    return Repository(path, environment=world.environment)


# Cloning


def test_clone_is_complete_and_reports_progress(world: GitWorld, bare: Path) -> None:
    reported: list[Progress] = []
    path = world.root / "web"
    web = asyncio.run(clone(f"file://{bare}", path, progress=reported.append, environment=world.environment))
    state = asyncio.run(web.status())
    assert (web.path, state.branch, state.upstream, state.dirty) == (path, "main", "origin/main", False)
    assert (path / "file").read_text() == "2\n"
    receiving = [step for step in reported if step.phase == "receiving objects"]
    assert (receiving[-1].percent, receiving[-1].done, receiving[-1].total) == (100, 6, 6)
    assert names(world.root) == ["bare.git", "home", "source", "web"]


def test_clone_into_an_empty_folder_keeps_its_mode(world: GitWorld, bare: Path) -> None:
    path = world.root / "web"
    path.mkdir(mode=0o700)
    link = world.root / "link"
    link.symlink_to(path)
    cloned(world, bare, link)
    assert (path / "file").exists()
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o700


def test_clone_checks_out_the_requested_branch(world: GitWorld, bare: Path) -> None:
    world.git(world.root / "source", "push", "-q", "origin", "HEAD~1:refs/heads/side")
    web = cloned(world, bare, world.root / "web", branch="side")
    assert asyncio.run(web.status()).branch == "side"
    with pytest.raises(errors.GitUnknownBranch, match="no such branch"):
        cloned(world, bare, world.root / "other", branch="gone")
    with pytest.raises(errors.GitBadName):
        cloned(world, bare, world.root / "other", branch="--upload-pack=touch")


def test_clone_of_an_empty_repository_can_be_pulled_into_later(world: GitWorld) -> None:
    bare = world.root / "bare.git"
    world.git(world.root, "init", "-q", "--bare", str(bare))
    web = cloned(world, bare, world.root / "web")
    assert asyncio.run(web.status()).commit is None
    assert asyncio.run(web.pull()) == PullResult(None, None, 0)
    source = world.repository("source", commits=2)
    world.git(source, "push", "-q", str(bare), "main")
    pulled = asyncio.run(web.pull())
    assert pulled == PullResult(None, world.git(source, "rev-parse", "HEAD"), 2)
    assert (web.path / "file").read_text() == "2\n"


@pytest.mark.parametrize("kind", ["file", "full folder", "dangling link"])
def test_clone_onto_an_existing_path_is_refused(world: GitWorld, bare: Path, kind: str) -> None:
    path = world.root / "web"
    if kind == "file":
        path.write_text("mine")
    elif kind == "full folder":
        path.mkdir()
        (path / "mine").touch()
    else:
        path.symlink_to(world.root / "file-of-mine")
        (world.root / "file-of-mine").write_text("mine")
    with pytest.raises(errors.GitPathTaken, match="cannot clone into"):
        cloned(world, bare, path)
    assert not [name for name in names(world.root) if "nexus-clone" in name]


def test_failed_clone_removes_the_parent_folders_that_it_made(world: GitWorld) -> None:
    before = names(world.root)
    with pytest.raises(errors.GitRemoteNotFound, match="there is no repository at"):
        cloned(world, world.root / "nowhere.git", world.root / "a" / "b" / "web")
    assert names(world.root) == before


def test_clone_removes_folders_of_killed_clones_and_keeps_those_of_running_ones(world: GitWorld, bare: Path) -> None:
    dead, alive, other = (world.root / f".{name}" for name in ("web.nexus-clone-a", "web.nexus-clone-b", "web.other"))
    for folder in (dead, alive, other):
        (folder / "repository").mkdir(parents=True)
    held = os.open(alive, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        cloned(world, bare, world.root / "web")
        assert [folder.exists() for folder in (dead, alive, other)] == [False, True, True]
    finally:
        os.close(held)


def test_second_of_two_concurrent_clones_to_one_path_is_refused(world: GitWorld, bare: Path) -> None:
    async def both() -> list[object]:
        path = world.root / "web"
        two = (clone(str(bare), path, environment=world.environment) for _ in range(2))
        return list(await asyncio.gather(*two, return_exceptions=True))

    first, second = asyncio.run(both())
    assert isinstance(first, Repository)
    assert isinstance(second, errors.GitPathTaken)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("", "empty"),
        ("--upload-pack=touch pwned", "begins with"),
        ("ext::sh -c 'touch pwned'", "runs a program"),
        ("fd::17", "runs a program"),
        ("ftp://example.org/x", "transport 'ftp' is not allowed"),
        ("https:///x", "names no host"),
        ("ssh://-oProxyCommand=touch/x", "names no host"),
        ("-oProxyCommand=touch:x", "begins with"),
        ("git@-oProxyCommand=touch:x", "names no host"),
        ("https://example.org/a\nb", "control characters"),
        ("relative/path", "not absolute"),
        ("~/x", "not absolute"),
        ("https://ada:secret@example.org/x", "password or a token"),
        ("https://ghp_abcdef0123456789@example.org/x", "password or a token"),
        ("https://0123456789abcdef0123456789abcdef@example.org/x", "password or a token"),
        ("ssh://git:secret@example.org/x", "password or a token"),
    ],
)
def test_urls_that_run_programs_or_hold_secrets_are_refused(world: GitWorld, url: str, words: str) -> None:
    with pytest.raises(errors.GitBadUrl, match=words) as raised:
        cloned(world, url, world.root / "web")
    text = f"{raised.value} {raised.value.hint} {raised.value.details}"
    assert "secret" not in text
    assert "0123456789" not in text
    assert "ssh://git:example" not in text
    assert names(world.root) == ["home"]


def test_insteadof_setting_cannot_select_a_transport_that_runs_programs(world: GitWorld) -> None:
    world.settings.write_text(
        world.settings.read_text()
        + '[protocol "ext"]\n\tallow = always\n[url "ext::touch pwned "]\n\tinsteadOf = https://example.org/\n'
    )
    with pytest.raises(errors.GitBadUrl):
        cloned(world, "https://example.org/x", world.root / "web")


def test_clone_into_a_folder_without_write_permission_is_refused(world: GitWorld, bare: Path) -> None:
    if os.geteuid() == 0:
        folder = Path("/proc/1/net")  # not even root makes a folder there
        kinds: tuple[type[Exception], ...] = (errors.GitPermission, errors.GitFailed)
    else:
        folder = world.root / "closed"
        folder.mkdir(mode=0o500)
        kinds = (errors.GitPermission,)
    with pytest.raises(kinds, match="cannot clone into"):
        cloned(world, bare, folder / "web")


# Pulling


def test_pull_fast_forwards_and_returns_both_commits(world: GitWorld, bare: Path) -> None:
    source, path = world.root / "source", world.cloned("web", bare)
    before = world.git(source, "rev-parse", "HEAD")
    for number in range(3):
        after = world.commit(source, "file", f"new {number}")
    world.git(source, "push", "-q")
    reported: list[Progress] = []
    web = repository(world, path)
    assert asyncio.run(web.pull(reported.append)) == PullResult(before, after, 3)
    assert (path / "file").read_text() == "new 2"
    assert {"counting objects", "updating files"} <= {step.phase for step in reported}
    assert asyncio.run(web.pull()) == PullResult(after, after, 0)
    assert "pull: Fast-forward" in world.git(path, "reflog", "-1")


def test_pull_keeps_untracked_files_and_a_branch_that_is_ahead(world: GitWorld, bare: Path) -> None:
    path = world.cloned("web", bare)
    (path / "notes").write_text("mine")
    ahead = world.commit(path, "own", "1")
    assert asyncio.run(repository(world, path).pull()) == PullResult(ahead, ahead, 0)
    assert (path / "notes").read_text() == "mine"


def test_pull_of_a_diverged_branch_is_refused_with_both_counts(world: GitWorld, bare: Path) -> None:
    path = world.cloned("web", bare)
    world.commit(world.root / "source", "file", "theirs")
    world.git(world.root / "source", "push", "-q")
    own = [world.commit(path, "own", text) for text in ("1", "2")][-1]
    with pytest.raises(errors.GitDiverged) as raised:
        asyncio.run(repository(world, path).pull())
    assert raised.value.details == {"ahead": 2, "behind": 1}
    assert world.git(path, "rev-parse", "HEAD") == own


def test_pull_into_a_dirty_tree_or_over_an_untracked_file_is_refused(world: GitWorld, bare: Path) -> None:
    path = world.cloned("web", bare)
    before = world.commit(world.root / "source", "new", "theirs")
    world.git(world.root / "source", "push", "-q")
    web = repository(world, path)
    (path / "file").write_text("mine")
    with pytest.raises(errors.GitDirty, match="1 changed and not committed"):
        asyncio.run(web.pull())
    world.git(path, "checkout", "-q", "file")
    (path / "new").write_text("mine")
    with pytest.raises(errors.GitDirty) as raised:
        asyncio.run(web.pull())
    assert raised.value.details["files"] == ["new"]
    assert (path / "new").read_text() == "mine"
    (path / "new").unlink()
    assert asyncio.run(web.pull()).after == before


def test_pull_without_a_usable_upstream_raises_the_error_of_its_cause(world: GitWorld, bare: Path) -> None:
    path = world.cloned("web", bare)
    web = repository(world, path)

    def refused(error: type[Exception], words: str) -> None:
        with pytest.raises(error, match=words) as raised:
            asyncio.run(web.pull())
        assert raised.value.hint  # type: ignore[attr-defined]

    world.git(path, "checkout", "-q", "--detach")
    refused(errors.GitDetached, "no branch is checked out")
    world.git(path, "checkout", "-q", "-b", "own")
    refused(errors.GitNoUpstream, 'branch "own" has no upstream branch')
    world.git(path, "checkout", "-q", "main")
    world.git(path, "config", "branch.main.remote", "elsewhere")
    refused(errors.GitNoRemote, 'has no remote "elsewhere"')
    world.git(path, "config", "branch.main.remote", "origin")
    world.git(bare, "branch", "-m", "main", "trunk")
    refused(errors.GitUpstreamGone, 'no branch "main" any more')
    bare.rename(world.root / "moved.git")
    refused(errors.GitRemoteNotFound, "there is no repository at")
    world.git(path, "remote", "remove", "origin")
    refused(errors.GitNoRemote, "has no remote")


def test_pull_from_a_local_upstream_branch(world: GitWorld) -> None:
    path = world.repository("web", commits=2)
    world.git(path, "checkout", "-q", "-b", "side", "HEAD~1")
    world.git(path, "branch", "-q", "--set-upstream-to", "main")
    assert asyncio.run(repository(world, path).pull()).commits == 1


def test_pull_ignores_settings_to_merge_or_rebase(world: GitWorld, bare: Path) -> None:
    path = world.cloned("web", bare)
    for key, value in (("pull.rebase", "true"), ("merge.ff", "false"), ("branch.main.mergeOptions", "--no-ff")):
        world.git(path, "config", key, value)
    after = world.commit(world.root / "source", "file", "theirs")
    world.git(world.root / "source", "push", "-q")
    assert asyncio.run(repository(world, path).pull()).after == after
    assert world.git(path, "rev-parse", "HEAD") == after
