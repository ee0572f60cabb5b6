"""Submodules: initialises them after a clone, and moves them to the commits that a pull has brought.

Their URLs are content of the repository. They follow the rules for its own remote: no helper program as transport, a
local path only where the remote is local, and the token only for the scheme, host and port to which it belongs.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from nexus.git import errors
from nexus.git.operation import OnProgress, Operation
from nexus.git.process import Fields
from nexus.git.remote import Remote
from nexus.git.settings import Settings
from nexus.hints import command_line

__all__ = ["initialise_all", "update"]

_MAX_REPOSITORIES = 1000


async def initialise_all(git: Operation, remote: Remote, progress: OnProgress | None = None) -> None:
    """Clone and check out every submodule, and those of submodules; later pulls initialise new ones, too."""
    if await git.submodules():
        # What git clone --recurse-submodules sets.
        await git.change("config", "submodule.active", ".")
        await _update(git, remote, ["--init"], [], progress)


async def update(git: Operation, name: str, progress: OnProgress | None = None) -> None:
    """Move each submodule to the commit that the repository names, unless it has a branch or commits of its own.

    ``name`` is the remote of the repository, or ``.``. New submodules are initialised if the clone has all of them.
    """
    submodules = await git.submodules()
    every = (await git.settings()).get("submodule.active") is not None
    moved = await _moved(git) if submodules else set()
    kept = {path for path, populated in submodules if populated and path in moved and await _is_worked_in(git, path)}
    wanted = [path for path, populated in submodules if (populated or every) and path not in kept]
    if all(populated for _, populated in submodules) and not moved & set(wanted):
        return
    if wanted:
        remote = Remote(str(git.path), "file", "", "", False) if name == "." else await git.remote(name)
        await _update(git, remote, ["--init"] if every else [], wanted, progress)


async def _moved(git: Operation) -> set[str]:
    """The paths of submodules whose checked out commit is not the one that the repository names."""
    moved: set[str] = set()

    def receive(record: list[str]) -> None:
        # "1 XY sub mH mI mW hH hI path"
        fields = record[0].split(" ", 8)
        if fields[0] == "1" and len(fields) == 9 and fields[2].startswith("S") and len(moved) < _MAX_REPOSITORIES:
            moved.add(fields[8])

    await git.read(
        *("status", "--porcelain=v2", "-z", "--no-renames", "--untracked-files=no", "--ignore-submodules=dirty"),
        fields=Fields(1, receive),
    )
    return moved


async def _is_worked_in(git: Operation, path: str) -> bool:
    """Whether a branch is checked out in a submodule, or a commit that no remote has."""
    inner = git.inside(path)
    if (await inner.read("symbolic-ref", "--quiet", "HEAD", accepted=None)).code == 0:
        return True
    own = ("rev-list", "--max-count=1", "HEAD", "--not", "--remotes", "--tags")
    return bool((await inner.read(*own, accepted=None)).output)


async def _update(
    git: Operation, remote: Remote, options: list[str], paths: list[str], progress: OnProgress | None
) -> None:
    present = await _settings_of_submodules(git)
    doing, git.doing = git.doing, f"{git.doing}: its submodules cannot be updated"
    try:
        await git.contact(
            remote,
            # --checkout: what .git/config names instead may be a program.
            *("submodule", "update", "--recursive", "--checkout", "--progress", *options, "--", *paths),
            progress=progress,
            also=present,
            submodules=True,
        )
    finally:
        git.doing = doing


async def _settings_of_submodules(git: Operation) -> list[Settings]:
    """The settings of the repositories of submodules: of those that are checked out, and of those that were."""
    command = "git config --list -z --show-scope"
    found = [await git.list_settings("submodule", "--quiet", "foreach", "--recursive", command)]
    configs = await asyncio.to_thread(_configs, await git.git_dir() / "modules")
    if len(configs) > _MAX_REPOSITORIES:
        raise errors.GitFailed(
            f"cannot {git.doing}: it has more than {_MAX_REPOSITORIES:,} repositories of submodules",
            hint="Update them by hand: "
            + command_line("git", "-C", git.path, "submodule", "update", "--init", "--recursive"),
        )
    return found + [await git.list_settings_of(config) for config in configs]


def _configs(modules: Path) -> list[Path]:
    """The configuration files of the repositories below a folder ``modules``; no more than are too many."""
    found: list[Path] = []
    folders = [modules]
    while folders and len(found) <= _MAX_REPOSITORIES:
        folder = folders.pop()
        if os.path.lexists(folder / "HEAD"):
            found += [folder / name for name in ("config", "config.worktree") if (folder / name).is_file()]
            folders.append(folder / "modules")
        else:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                folders += [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return found
