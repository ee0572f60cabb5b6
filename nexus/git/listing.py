"""The files of a work tree, as git knows them: those of its index, and those that it does not ignore.

Git runs no program of the repository for it and contacts no remote; no file is opened.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from nexus.git.operation import Operation
from nexus.git.process import Fields, base_environment
from nexus.git.remote import Access

__all__ = ["list_files"]


class _EnoughError(Exception):
    """The limit is reached; git is ended."""


async def list_files(
    top: Path, under: str, limit: int, *, environment: Mapping[str, str] | None = None
) -> tuple[list[str], bool]:
    """The paths below the folder ``under`` of the work tree at ``top``, and whether some are missing.

    Both are relative to ``top``, and ``under`` is "" for all. There are ``limit`` paths at most. A folder that has a
    repository of its own is one path; a path may name a file that was deleted. What is not UTF-8 in a path is U+FFFD.

    Raises:
        GitMissing, GitNotARepository, GitNotOwned, GitPermission, GitFailed
    """
    found: dict[str, None] = {}

    def receive(record: list[str]) -> None:
        if len(found) == limit and record[0] not in found:
            raise _EnoughError
        found[record[0]] = None  # a path in conflict has several entries

    operation = Operation(
        top,
        Access("none", None, None),
        base_environment(os.environ if environment is None else environment),
        f"list the files of {top}",
        None,
    )
    arguments = ("ls-files", "-z", "--cached", "--others", "--exclude-standard")
    try:
        await operation.read(*arguments, *(("--", under) if under else ()), fields=Fields(1, receive))
    except _EnoughError:
        return list(found), True
    return list(found), False
