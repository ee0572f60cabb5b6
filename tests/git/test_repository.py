"""Local repositories: status, log, branches, checkout, and what is refused so that no work is lost."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest
from support.git import GitWorld

from nexus.git import errors
from nexus.git.repository import Repository


@pytest.fixture
def world(root: Path) -> GitWorld:
    return GitWorld(root)


def repository(world: GitWorld, path: Path) -> Repository:
    return Repository(path, environment=world.environment)


# Status


def test_status_before_the_first_commit_has_a_branch_and_no_commit(world: GitWorld) -> None:
    state = asyncio.run(repository(world, world.repository("web", commits=0)).status())
    assert (state.branch, state.commit, state.upstream, state.ahead, state.dirty) == ("main", None, None, None, False)


def test_status_counts_what_is_staged_changed_and_untracked(world: GitWorld) -> None:
    path = world.repository("web")
    world.commit(path, "other", "x")
    (path / "other").write_text("changed")
    (path / "file").write_text("staged")
    world.git(path, "add", "file")
    (path / "file").write_text("staged, then changed")
    (path / "new\nfile with 'quotes'").write_text("x")
    (path / "new").mkdir()
    (path / "new" / "a").write_text("x")
    (path / "new" / "b").write_text("x")
    state = asyncio.run(repository(world, path).status())
    assert (state.staged, state.changed, state.untracked, state.conflicted, state.dirty) == (1, 2, 2, 0, True)


def test_untracked_files_alone_do_not_make_a_repository_dirty(world: GitWorld) -> None:
    path = world.repository("web")
    (path / "new").write_text("x")
    state = asyncio.run(repository(world, path).status())
    assert (state.dirty, state.untracked) == (False, 1)


def test_submodule_at_another_commit_is_reported_and_blocks_nothing(world: GitWorld) -> None:
    inner, path = world.repository("inner"), world.repository("web")
    world.git(path, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner), "inner")
    world.git(path, "commit", "-q", "-m", "inner")
    world.commit(path / "inner", "file", "2")
    web = repository(world, path)
    state = asyncio.run(web.status())
    assert (state.changed, state.dirty) == (1, False)
    assert asyncio.run(web.checkout_commit("HEAD~1")).branch is None


def test_status_has_the_upstream_and_both_counts(world: GitWorld) -> None:
    source = world.repository("source", commits=2)
    bare = world.bare("bare.git", source)
    path = world.cloned("web", bare)
    world.commit(source, "file", "3")
    world.git(source, "push", "-q")
    world.commit(path, "own", "1")
    world.git(path, "fetch", "-q")
    state = asyncio.run(repository(world, path).status())
    assert (state.upstream, state.ahead, state.behind, state.remote_url) == ("origin/main", 1, 1, str(bare))


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://ada:secret@example.org/x.git", "https://***@example.org/x.git"),
        ("https://ghp_0123456789@example.org/x.git", "https://***@example.org/x.git"),
        ("ssh://git:secret@example.org/x.git", "ssh://git:***@example.org/x.git"),
        ("ssh://git@example.org/x.git", "ssh://git@example.org/x.git"),
        ("git@example.org:x.git", "git@example.org:x.git"),
    ],
)
def test_status_shows_the_remote_without_credentials(world: GitWorld, url: str, shown: str) -> None:
    path = world.repository("web")
    world.git(path, "remote", "add", "origin", url)
    assert asyncio.run(repository(world, path).status()).remote_url == shown


def test_status_names_an_unfinished_merge_and_its_conflicts(world: GitWorld) -> None:
    path = world.repository("web", commits=2)
    world.git(path, "checkout", "-q", "-b", "side", "HEAD~1")
    world.commit(path, "file", "side")
    merge = ["merge", "-q", "main"]
    with pytest.raises(AssertionError):
        world.git(path, *merge)
    web = repository(world, path)
    state = asyncio.run(web.status())
    assert (state.in_progress, state.conflicted, state.dirty) == ("merge", 1, True)
    for refused in (web.checkout_branch("main"), web.checkout_branch("x", create=True), web.checkout_commit("main")):
        with pytest.raises(errors.GitInProgress, match="a merge is not finished"):
            asyncio.run(refused)


def test_linked_work_tree_is_a_repository(world: GitWorld) -> None:
    path = world.repository("web")
    world.git(path, "worktree", "add", "-q", "../linked", "-b", "side")
    linked = repository(world, world.root / "linked")
    assert asyncio.run(linked.status()).branch == "side"
    with pytest.raises(errors.GitBranchElsewhere, match="cannot check out the branch"):
        asyncio.run(linked.checkout_branch("main"))


@pytest.mark.parametrize("kind", ["absent", "empty", "inside another", "broken", "bare"])
def test_path_that_is_not_the_top_of_a_work_tree_is_refused(world: GitWorld, kind: str) -> None:
    outer = world.repository("outer")
    path = outer / "inner"
    if kind == "bare":
        world.git(outer, "init", "-q", "--bare", "inner")
    elif kind != "absent":
        path.mkdir()
    if kind == "broken":
        (path / ".git").mkdir()
    web = repository(world, path)
    for refused in (web.status(), web.log(), web.branches(), web.pull(), web.checkout_branch("main")):
        with pytest.raises(errors.GitNotARepository, match=r"cannot .* not "):
            asyncio.run(refused)


def test_repository_of_another_user_is_refused_with_a_hint(world: GitWorld) -> None:
    path = world.repository("web")
    git = world.root / "bin" / "git"
    git.parent.mkdir()
    git.write_text('#!/bin/sh\nPATH=${PATH#*:}\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec git "$@"\n')
    git.chmod(0o755)
    world.environment["PATH"] = f"{git.parent}:{os.environ.get('PATH', os.defpath)}"
    for refused in (repository(world, path).status(), repository(world, path).log()):
        with pytest.raises(errors.GitNotOwned) as raised:
            asyncio.run(refused)
        assert raised.value.hint is not None
        assert f"safe.directory {path}" in raised.value.hint


def test_missing_git_program_raises_git_missing(world: GitWorld) -> None:
    path = world.repository("web")
    world.environment["PATH"] = str(world.root / "home")
    with pytest.raises(errors.GitMissing, match="cannot run git"):
        asyncio.run(repository(world, path).status())


def test_environment_variables_that_point_to_another_repository_are_dropped(world: GitWorld) -> None:
    path = world.repository("web")
    other = world.repository("other", commits=3)
    world.environment |= {
        "GIT_DIR": str(other / ".git"),
        "GIT_WORK_TREE": str(other),
        "GIT_INDEX_FILE": str(other / ".git" / "index"),
        "GIT_TRACE": str(world.root / "trace"),
    }
    assert len(asyncio.run(repository(world, path).log())) == 1
    assert not (world.root / "trace").exists()


# The log


def test_log_lists_commits_newest_first_with_author_time_and_refs(world: GitWorld) -> None:
    path = world.repository("web", commits=3)
    world.git(path, "tag", "v1", "HEAD~1")
    first, second, third = asyncio.run(repository(world, path).log())
    assert [commit.subject for commit in (first, second, third)] == ["commit 3", "commit 2", "commit 1"]
    assert first.id == world.git(path, "rev-parse", "HEAD")
    assert (first.author_name, first.author_email, first.refs) == ("Ada", "ada@example.org", ["HEAD", "main"])
    assert (second.refs, third.refs) == (["tag: v1"], [])
    assert abs(first.at - time.time() * 1000) < 3_600_000


def test_log_honours_limit_skip_and_revision(world: GitWorld) -> None:
    web = repository(world, world.repository("web", commits=5))

    def subjects(*arguments: int | str, **options: int) -> list[str]:
        return [commit.subject for commit in asyncio.run(web.log(*arguments, **options))]  # type: ignore[arg-type]

    assert subjects(2) == ["commit 5", "commit 4"]
    assert subjects(2, skip=2) == ["commit 3", "commit 2"]
    assert subjects(20, "HEAD~3") == ["commit 2", "commit 1"]
    assert subjects(0) == []


def test_log_before_the_first_commit_is_empty(world: GitWorld) -> None:
    assert asyncio.run(repository(world, world.repository("web", commits=0)).log()) == []


@pytest.mark.parametrize("revision", ["gone", "HEAD~100", "main:file", "0" * 40])
def test_log_of_an_unknown_revision_is_refused(world: GitWorld, revision: str) -> None:
    with pytest.raises(errors.GitUnknownCommit, match="there is no commit"):
        asyncio.run(repository(world, world.repository("web")).log(revision=revision))


@pytest.mark.parametrize("revision", ["", "--all", "-1", "--output=/etc/passwd", "a b", "a\nb", "a\0b", "x" * 2000])
def test_revision_that_looks_like_an_option_is_refused(world: GitWorld, revision: str) -> None:
    web = repository(world, world.repository("web"))
    with pytest.raises(errors.GitBadName):
        asyncio.run(web.log(revision=revision))
    with pytest.raises(errors.GitBadName):
        asyncio.run(web.checkout_commit(revision))


def test_log_copes_with_any_bytes_and_user_settings(world: GitWorld) -> None:
    path = world.repository("web")
    message = path.parent / "message"
    message.write_bytes(b"caf\xe9 \x1b[31m\x07 \xff" + b"x" * 5000 + b"\n\nbody\0")
    world.git(path, "config", "log.showSignature", "true")
    world.git(path, "config", "color.ui", "always")
    world.git(path, "config", "format.pretty", "fuller")
    tree = world.git(path, "rev-parse", "HEAD^{tree}")
    head = world.git(path, "rev-parse", "HEAD")
    raw = f"tree {tree}\nparent {head}\nauthor  <> 99999999999999999 +0000\ncommitter A <a> 1 +0000\n\n".encode()
    made = world.git(
        path, "hash-object", "-t", "commit", "-w", "--stdin", "--literally", stdin=raw + b"a\xe9\x1b[2Jz" * 900
    )
    world.git(path, "update-ref", "refs/heads/main", made)
    world.git(path, "commit", "-q", "--allow-empty", "--cleanup=verbatim", "-m", "  \n\nlate subject\nmore\n\nbody")
    late, odd, first = asyncio.run(repository(world, path).log())
    assert late.subject == "late subject more"
    assert len(odd.subject) == 1000
    assert odd.subject.startswith("a\ufffd\x1b[2Jz")
    assert first.subject == "commit 1"


def test_log_of_a_long_history_is_bounded(world: GitWorld) -> None:
    path = world.repository("web", commits=0)
    commits = b"".join(
        b"commit refs/heads/main\ncommitter A <a@b> %d +0000\ndata 2\nc\n\n" % (1_700_000_000 + number)
        for number in range(10_200)
    )
    world.git(path, "fast-import", "--quiet", stdin=commits)
    web = repository(world, path)
    assert len(asyncio.run(web.log())) == 20
    found = asyncio.run(web.log(1_000_000))
    assert len(found) == 10_000
    assert found[0].at == (1_700_000_000 + 10_199) * 1000
    assert len(asyncio.run(web.log(1000, skip=10_000))) == 200


# Branches


def test_branches_are_listed_with_their_upstreams(world: GitWorld) -> None:
    source = world.repository("source", commits=2)
    world.git(source, "branch", "side", "HEAD~1")
    bare = world.bare("bare.git", source)
    path = world.cloned("web", bare)
    world.git(path, "branch", "-q", "local")
    world.git(path, "branch", "-q", "orphan", "--track", "origin/side")
    world.git(path, "update-ref", "-d", "refs/remotes/origin/side")
    world.commit(path, "own", "1")
    web = repository(world, path)
    local, main, orphan = asyncio.run(web.branches())
    assert (local.name, local.current, local.upstream, local.ahead) == ("local", False, None, None)
    assert (main.name, main.current, main.upstream, main.ahead, main.behind) == ("main", True, "origin/main", 1, 0)
    assert (orphan.upstream, orphan.ahead, orphan.behind) == ("origin/side", None, None)
    remote = [branch for branch in asyncio.run(web.branches(remote=True)) if branch.remote]
    assert [(branch.name, branch.commit) for branch in remote] == [
        ("origin/main", world.git(bare, "rev-parse", "main"))
    ]


# Checking out branches


def test_checkout_of_a_branch_keeps_untracked_files(world: GitWorld) -> None:
    path = world.repository("web", commits=2)
    world.git(path, "branch", "side", "HEAD~1")
    (path / "notes").write_text("mine")
    state = asyncio.run(repository(world, path).checkout_branch("side"))
    assert (state.branch, (path / "file").read_text(), (path / "notes").read_text()) == ("side", "1\n", "mine")


def test_checkout_of_a_remote_branch_makes_a_local_one_that_follows_it(world: GitWorld) -> None:
    source = world.repository("source")
    world.git(source, "branch", "side")
    path = world.cloned("web", world.bare("bare.git", source))
    state = asyncio.run(repository(world, path).checkout_branch("side"))
    assert (state.branch, state.upstream) == ("side", "origin/side")


def test_checkout_fetches_unknown_branches_and_commits(world: GitWorld) -> None:
    source = world.repository("source")
    path = world.cloned("web", world.bare("bare.git", source))
    world.git(source, "checkout", "-q", "-b", "late")
    commit = world.commit(source, "file", "late")
    world.git(source, "push", "-q", "origin", "late")
    web = repository(world, path)
    assert asyncio.run(web.checkout_commit(commit)).commit == commit
    late = world.commit(source, "file", "later")
    world.git(source, "push", "-q", "origin", "late", "late:newer")
    state = asyncio.run(web.checkout_branch("newer"))
    assert (state.branch, state.commit, state.upstream) == ("newer", late, "origin/newer")


def test_checkout_of_an_unknown_branch_is_refused_with_the_error_of_the_fetch(world: GitWorld) -> None:
    path = world.cloned("web", world.bare("bare.git", world.repository("source")))
    web = repository(world, path)
    with pytest.raises(errors.GitUnknownBranch, match=r"locally or at a remote$"):
        asyncio.run(web.checkout_branch("gone"))
    world.git(path, "remote", "set-url", "origin", str(world.root / "nowhere"))
    with pytest.raises(errors.GitUnknownBranch, match=r"the remote could not be asked: .* no repository at"):
        asyncio.run(web.checkout_branch("gone"))
    with pytest.raises(errors.GitUnknownCommit, match="the remote could not be asked"):
        asyncio.run(web.checkout_commit("gone"))


def test_checkout_of_a_branch_of_several_remotes_is_ambiguous(world: GitWorld) -> None:
    source = world.repository("source")
    world.git(source, "branch", "side")
    path = world.cloned("web", world.bare("bare.git", source))
    world.git(path, "remote", "add", "other", str(source))
    world.git(path, "fetch", "-q", "other")
    web = repository(world, path)
    with pytest.raises(errors.GitBranchAmbiguous) as raised:
        asyncio.run(web.checkout_branch("side"))
    assert raised.value.details["remotes"] == ["origin", "other"]
    world.git(path, "config", "checkout.defaultRemote", "other")
    assert asyncio.run(web.checkout_branch("side")).upstream == "other/side"


def test_created_branch_keeps_uncommitted_changes(world: GitWorld) -> None:
    path = world.repository("web")
    (path / "file").write_text("mine")
    state = asyncio.run(repository(world, path).checkout_branch("topic/new", create=True))
    assert (state.branch, state.changed, state.upstream) == ("topic/new", 1, None)
    assert (path / "file").read_text() == "mine"


def test_branch_can_be_created_before_the_first_commit_and_when_detached(world: GitWorld) -> None:
    empty = repository(world, world.repository("empty", commits=0))
    assert asyncio.run(empty.checkout_branch("first", create=True)).branch == "first"
    path = world.repository("web")
    world.git(path, "checkout", "-q", "--detach")
    assert asyncio.run(repository(world, path).checkout_branch("back", create=True)).branch == "back"


@pytest.mark.parametrize("name", ["main", "side", "side/below"])
def test_creating_an_existing_or_conflicting_branch_is_refused(world: GitWorld, name: str) -> None:
    path = world.repository("web")
    world.git(path, "branch", "side")
    with pytest.raises(errors.GitBranchExists, match=f'cannot create the branch "{name}"'):
        asyncio.run(repository(world, path).checkout_branch(name, create=True))
    assert world.git(path, "branch", "--show-current") == "main"


BAD_NAMES = ("", "-", "--detach", "-f", "HEAD", "@", "@{-1}", "a b", "a..b", "a~1", "a^", "a:b", "a.lock", "/a", "a/")


@pytest.mark.parametrize("name", [*BAD_NAMES, "a\\b", "a\nb", "a\0b", ".a", "a*", "a[b"])
def test_invalid_branch_names_are_refused(world: GitWorld, name: str) -> None:
    web = repository(world, world.repository("web"))
    for create in (False, True):
        with pytest.raises(errors.GitBadName, match="does not allow"):
            asyncio.run(web.checkout_branch(name, create=create))


@pytest.mark.parametrize("name", ["caf\u00e9", "a'b;$(touch${IFS}x)", "0" * 40, "a/b.c", "\u6d4b\u8bd5", "x" * 200])
def test_unusual_valid_branch_names_work(world: GitWorld, name: str) -> None:
    path = world.repository("web")
    web = repository(world, path)
    assert asyncio.run(web.checkout_branch(name, create=True)).branch == name
    assert asyncio.run(web.checkout_branch("main")).branch == "main"
    assert asyncio.run(web.checkout_branch(name)).branch == name
    assert name in [branch.name for branch in asyncio.run(web.branches())]


# Uncommitted work


@pytest.mark.parametrize("staged", [False, True])
def test_checkout_with_uncommitted_changes_is_refused(world: GitWorld, staged: bool) -> None:
    path = world.repository("web", commits=2)
    world.git(path, "branch", "side", "HEAD~1")
    (path / "file").write_text("mine")
    if staged:
        world.git(path, "add", "file")
    web = repository(world, path)
    for refused in (web.checkout_branch("side"), web.checkout_commit("HEAD~1")):
        with pytest.raises(errors.GitDirty, match=r"1 (staged|changed) and not committed"):
            asyncio.run(refused)
    assert ((path / "file").read_text(), world.git(path, "branch", "--show-current")) == ("mine", "main")
    assert asyncio.run(web.checkout_branch("main")).dirty, "it is checked out already"


@pytest.mark.parametrize("ignored", [False, True])
def test_checkout_does_not_overwrite_untracked_files(world: GitWorld, ignored: bool) -> None:
    path = world.repository("web")
    if ignored:
        world.commit(path, ".gitignore", ".env\n")
    world.git(path, "checkout", "-q", "-b", "side")
    target = world.commit(path, ".env", "theirs")
    world.git(path, "checkout", "-q", "main")
    (path / ".env").write_text("mine")
    web = repository(world, path)
    for refused in (web.checkout_branch("side"), web.checkout_commit(target)):
        with pytest.raises(errors.GitDirty) as raised:
            asyncio.run(refused)
        assert raised.value.details["files"] == [".env"]
    assert (path / ".env").read_text() == "mine"


# Checking out commits


def test_commit_is_checked_out_by_its_id_or_a_name(world: GitWorld) -> None:
    path = world.repository("web", commits=3)
    world.git(path, "tag", "-a", "-m", "v1", "v1", "HEAD~2")
    first, second = world.git(path, "rev-parse", "HEAD~2"), world.git(path, "rev-parse", "HEAD~1")
    web = repository(world, path)
    for name, commit in ((second, second), (first[:10], first), ("main~1", second), ("v1", first)):
        state = asyncio.run(web.checkout_commit(name))
        assert (state.branch, state.commit) == (None, commit)


def test_failed_hook_is_told_from_a_failed_checkout(world: GitWorld) -> None:
    path = world.repository("web")
    world.git(path, "branch", "side")
    hook = path / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\necho "the hook of $PWD" >&2\nexit 3\n')
    hook.chmod(0o755)
    web = repository(world, path)
    with pytest.raises(errors.GitHookFailed) as raised:
        asyncio.run(web.checkout_branch("side"))
    assert f"the hook of {path}" in raised.value.details["git"]
    assert asyncio.run(web.status()).branch == "side"


def test_lock_of_another_git_is_reported_as_busy_and_stays(world: GitWorld) -> None:
    path = world.repository("web", commits=2)
    lock = path / ".git" / "index.lock"
    lock.touch()
    web = repository(world, path)
    assert asyncio.run(web.status()).branch == "main"
    with pytest.raises(errors.GitBusy, match="another git"):
        asyncio.run(web.checkout_commit("HEAD~1"))
    assert lock.exists()


def test_changes_of_one_path_run_one_after_another(world: GitWorld) -> None:
    path = world.repository("web", commits=2)
    world.git(path, "branch", "side", "HEAD~1")
    link = world.root / "link"
    link.symlink_to(path)

    async def all_at_once() -> None:
        webs = [repository(world, path), repository(world, link)]
        states = await asyncio.gather(
            *(webs[number % 2].checkout_branch(("side", "main")[number % 2]) for number in range(8))
        )
        assert [state.branch for state in states] == ["side", "main"] * 4

    asyncio.run(all_at_once())
