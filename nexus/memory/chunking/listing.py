"""Lists the files of a folder that may be in the index: git's list, or a bounded walk outside of a repository.

It opens folders, and no file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Literal, NamedTuple

from nexus_protocol.errors import ReportedError

from nexus.memory.chunking.files import Skipped, check_name, open_below, open_root, shown

__all__ = ["MAX_FILES", "CannotList", "Listing", "list_files"]

MAX_FILES = 50_000
_MAX_DEPTH = 64
"""A walk does not go deeper."""
_MAX_ENTRIES = 20
"""A walk looks at this many entries for each file that it may list."""
_MAX_SKIPPED = 1000
"""How many are told by name."""

_NEVER = frozenset({"__pycache__", "node_modules"})
"""Folders of a walk that hold what programs have written; hidden ones are never entered either."""


class CannotList(ReportedError):
    """The files of a folder cannot be listed."""


class Listing(NamedTuple):
    """The files of a folder that may be read."""

    files: list[str]
    """Their paths relative to the root, sorted, with ``/``."""
    skipped: list[Skipped]
    """What cannot be in the index by its name or kind, the first 1000."""
    truncated: bool
    """Whether there are more than the limit; which of them are listed is then not defined."""
    source: Literal["git", "walk"]


def list_files(
    root: str,
    under: str = "",
    *,
    limit: int = MAX_FILES,
    git: bool = True,
    environment: Mapping[str, str] | None = None,
) -> Listing:
    """List the files below the folder ``under`` of the folder ``root``; "" is all of it.

    In a work tree they are those of git's index and those that git does not ignore; folders that are repositories of
    their own are not entered. Outside of one, or with ``git`` False, it walks: it follows no link, enters no hidden
    folder, no node_modules, no __pycache__ and no virtual environment, and lists no hidden file. It blocks, and needs a
    thread without an event loop.

    Raises:
        CannotList: ``root`` or ``under`` cannot be opened, or a link leads there.
        GitNotOwned, GitPermission, GitFailed: there is a repository that git does not read.
    """
    root = os.path.realpath(root)
    under = under.strip("/")
    if under and check_name(under) is not None:
        raise CannotList(
            f"cannot list the files of {shown(under)}: it is no folder below {shown(root)}",
            "Give the path of a folder, relative to that of the project.",
        )
    try:
        descriptor = open_root(root)
        try:
            os.close(open_below(descriptor, under))
            found = _from_git(root, under, limit, environment) if git else None
            return found or _walk(descriptor, under, limit)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CannotList(
            f"cannot list the files of {shown(os.path.join(root, under))}: {error.strerror}",
            "Give the path of a folder that can be read and that no link on the way leads to.",
        ) from None


def _from_git(root: str, under: str, limit: int, environment: Mapping[str, str] | None) -> Listing | None:
    """Git's list; None where there is no repository or no git."""
    target = os.path.join(root, under).rstrip("/")
    top = target
    while not os.path.lexists(os.path.join(top, ".git")):
        if top == os.path.dirname(top):
            return None
        top = os.path.dirname(top)

    import asyncio
    from pathlib import Path

    from nexus.git import errors, listing

    inner = os.path.relpath(target, top)
    inner = "" if inner == "." else inner
    try:
        names, truncated = asyncio.run(listing.list_files(Path(top), inner, limit, environment=environment))
    except (errors.GitMissing, errors.GitNotARepository):
        return None
    files: list[str] = []
    skipped: list[Skipped] = []
    for name in names:
        name = name.removeprefix(f"{inner}/") if inner else name
        _sort_out(f"{under}/{name}" if under else name, files, skipped)
    return Listing(sorted(files), skipped, truncated, "git")


def _sort_out(name: str, files: list[str], skipped: list[Skipped]) -> None:
    problem = "it is a folder with a repository of its own" if name.endswith("/") else check_name(name)
    if problem is None:
        files.append(name)
    elif len(skipped) < _MAX_SKIPPED:
        skipped.append(Skipped(shown(name), problem))


def _walk(root: int, under: str, limit: int) -> Listing:
    files: list[str] = []
    skipped: list[Skipped] = []
    folders = [under]
    entries = limit * _MAX_ENTRIES
    truncated = False
    while folders and not truncated:
        folder = folders.pop()
        try:
            descriptor = open_below(root, folder)
        except OSError as error:
            _tell(skipped, folder, f"it cannot be read: {error.strerror}")
            continue
        try:
            with os.scandir(descriptor) as found:
                for entry in found:
                    entries -= 1
                    if entries < 0 or len(files) + len(folders) > limit:
                        truncated = True
                        break
                    _take(entry, descriptor, folder, files, folders, skipped)
        finally:
            os.close(descriptor)
    if len(files) > limit:
        truncated = True
    return Listing(sorted(files[:limit]), skipped, truncated, "walk")


def _take(
    entry: os.DirEntry[str],
    descriptor: int,
    folder: str,
    files: list[str],
    folders: list[str],
    skipped: list[Skipped],
) -> None:
    if entry.name.startswith("."):
        return
    path = f"{folder}/{entry.name}" if folder else entry.name
    if entry.is_dir(follow_symlinks=False):
        problem = check_name(path)
        if problem is None and path.count("/") >= _MAX_DEPTH:
            problem = f"it lies deeper than {_MAX_DEPTH} folders"
        if problem is not None:
            _tell(skipped, path, problem)
        elif entry.name not in _NEVER and not _is_environment(descriptor, entry.name):
            folders.append(path)
    elif entry.is_symlink():
        _tell(skipped, path, "it is a link")
    elif not entry.is_file(follow_symlinks=False):
        _tell(skipped, path, "it is no regular file")
    else:
        _sort_out(path, files, skipped)


def _tell(skipped: list[Skipped], path: str, problem: str) -> None:
    if len(skipped) < _MAX_SKIPPED:
        skipped.append(Skipped(shown(path), problem))


def _is_environment(above: int, name: str) -> bool:
    """Whether a folder is a virtual environment of Python."""
    try:
        status = os.stat(f"{name}/pyvenv.cfg", dir_fd=above, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode)
