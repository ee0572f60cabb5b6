"""The files of a folder: git's list without a program of the repository, and the walk outside of one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.git import GitWorld

from nexus.memory.chunking.listing import CannotList, list_files


@pytest.fixture
def world(root: Path) -> GitWorld:
    return GitWorld(root)


def write(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    return folder


# Git


def test_git_lists_what_is_tracked_or_new_and_not_what_it_ignores(world: GitWorld) -> None:
    path = world.repository("web")
    world.commit(path, ".gitignore", "*.log\nbuild/\n")
    world.commit(path, "kept.log", "tracked although ignored")
    write(path, "new.py", "a.log", "build/out.py", ".github/ci.yml")
    found = list_files(str(path), environment=world.environment)
    assert found.source == "git"
    assert found.files == [".github/ci.yml", ".gitignore", "file", "kept.log", "new.py"]
    assert (found.skipped, found.truncated) == ([], False)


def test_a_folder_of_a_repository_has_names_relative_to_the_root_that_was_asked_for(world: GitWorld) -> None:
    path = write(world.repository("web"), "a/b/c.py", "a/d.py", "a*/e.py")
    environment = world.environment
    assert list_files(str(path), "a", environment=environment).files == ["a/b/c.py", "a/d.py"]
    assert list_files(str(path / "a"), environment=environment).files == ["b/c.py", "d.py"]
    assert list_files(str(path / "a"), "b", environment=environment).files == ["b/c.py"]
    assert list_files(str(path), "a*", environment=environment).files == ["a*/e.py"]  # a name, and no pattern


def test_a_path_in_conflict_is_listed_once(world: GitWorld) -> None:
    path = world.repository("web")
    blob = world.git(path, "hash-object", "-w", "file")
    entries = "".join(f"100644 {blob} {stage}\tfile\n" for stage in (1, 2, 3))
    world.git(path, "update-index", "--index-info", stdin=f"0 {'0' * 40}\tfile\n{entries}".encode())
    found = list_files(str(path), limit=1, environment=world.environment)
    assert (found.files, found.truncated) == (["file"], False)


def test_a_repository_inside_is_told_and_not_entered(world: GitWorld) -> None:
    path = world.repository("web")
    world.repository("web/inner")
    found = list_files(str(path), environment=world.environment)
    assert found.files == ["file"]
    assert [skipped.file for skipped in found.skipped] == ["inner/"]


def test_git_runs_no_program_of_the_repository(world: GitWorld) -> None:
    path = write(world.repository("web"), "new.py")
    trap = path.parent / "trap"
    trap.write_text(f"#!/bin/sh\ntouch {path.parent}/sprung\n")
    trap.chmod(0o755)
    for key in ("core.fsmonitor", "core.pager", "core.sshCommand", "filter.x.clean", "filter.x.process"):
        world.git(path, "config", key, str(trap))
    (path / ".gitattributes").write_text("* filter=x\n")
    (path / "file").write_text("changed\n")
    assert "new.py" in list_files(str(path), environment=world.environment).files
    assert not (path.parent / "sprung").exists()


def test_a_work_tree_that_the_repository_puts_elsewhere_gives_no_name_outside_of_the_folder(world: GitWorld) -> None:
    path = world.repository("web")
    write(path.parent, "secret.py")
    world.git(path, "config", "core.worktree", str(path.parent))
    assert list_files(str(path), environment=world.environment).files == ["file"]


def test_git_is_ended_at_the_limit(world: GitWorld) -> None:
    path = write(world.repository("web"), *(f"{number}.py" for number in range(20)))
    found = list_files(str(path), limit=7, environment=world.environment)
    assert (len(found.files), found.truncated) == (7, True)


def test_names_that_no_index_can_hold_are_told(world: GitWorld) -> None:
    path = write(world.repository("web"), "good ü.py", "new\nline.py", "esc\x1b[31m.py", "right\u202eleft.py")
    Path(os.fsdecode(os.fsencode(path) + b"/bad\xff.py")).write_text("x")
    for git in (True, False):
        found = list_files(str(path), git=git, environment=world.environment)
        assert found.files == ["file", "good ü.py"]
        assert sorted(reason for _, reason in found.skipped) == [
            *["its name has a character that cannot be shown"] * 3,
            "its name is not UTF-8",
        ]
        assert all(name.isprintable() for name, _ in found.skipped)


def test_a_repository_that_is_none_is_walked(root: Path) -> None:
    (root / ".git").mkdir()
    found = list_files(str(write(root, "a.py")))
    assert (found.files, found.source) == (["a.py"], "walk")


# The walk


def test_the_walk_follows_no_link_and_enters_no_folder_of_programs(root: Path) -> None:
    outside = write(root / "outside", "secret.py")
    folder = write(
        root / "web", "a.py", "sub/b.py", ".hidden/c.py", ".env", "node_modules/d.js", "env/bin/e.py", "env/pyvenv.cfg"
    )
    (folder / "loop").symlink_to("loop")
    (folder / "sub" / "up").symlink_to("..")
    (folder / "out").symlink_to(outside)
    (folder / "link.py").symlink_to(outside / "secret.py")
    os.mkfifo(folder / "pipe.py")
    found = list_files(str(folder), git=False)
    assert (found.files, found.source, found.truncated) == (["a.py", "sub/b.py"], "walk", False)
    told = {skipped.file: skipped.reason for skipped in found.skipped}
    assert told == {
        **dict.fromkeys(("loop", "sub/up", "out", "link.py"), "it is a link"),
        "pipe.py": "it is no regular file",
    }


def test_the_walk_ends_at_its_limits(root: Path) -> None:
    write(root, *(f"{number}/a.py" for number in range(30)))
    found = list_files(str(root), limit=10, git=False)
    assert found.truncated
    assert len(found.files) <= 10
    deep = root / "deep"
    inner = deep
    for _ in range(70):
        inner = inner / "d"
    write(inner, "a.py")
    write(deep, "b.py")
    found = list_files(str(deep), git=False)
    assert (found.files, found.truncated) == (["b.py"], False)
    assert [skipped.reason for skipped in found.skipped] == ["it lies deeper than 64 folders"]


@pytest.mark.parametrize("under", ["..", "a/../..", "./a", "link", "link/b", "missing", "file"])
def test_a_folder_that_leads_elsewhere_is_refused(root: Path, under: str) -> None:
    write(root / "web", "a/b.py", "file")
    write(root / "outside", "b/secret.py")
    (root / "web" / "link").symlink_to(root / "outside")
    with pytest.raises(CannotList, match="cannot list the files of"):
        list_files(str(root / "web"), under)


def test_the_root_itself_may_be_a_link(root: Path) -> None:
    write(root / "web", "a.py")
    (root / "link").symlink_to("web")
    assert list_files(str(root / "link"), git=False).files == ["a.py"]


@pytest.mark.parametrize("git", [True, False])
def test_as_many_files_as_the_limit_are_all(world: GitWorld, git: bool) -> None:
    path = write(world.repository("web"), "a.py", "b.py")
    exact = list_files(str(path), limit=3, git=git, environment=world.environment)
    assert (exact.files, exact.truncated) == (["a.py", "b.py", "file"], False)
    cut = list_files(str(path), limit=2, git=git, environment=world.environment)
    assert (len(cut.files), cut.truncated) == (2, True)
