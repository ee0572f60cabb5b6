"""What git's index keeps of a file in conflict.

Git runs no program of the repository for it and contacts no remote; it writes nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

from nexus.git.operation import Operation
from nexus.git.process import Fields, base_environment
from nexus.git.remote import Access

__all__ = ["read_ancestor"]


class _Whole(Fields):
    """The whole output."""

    def __init__(self) -> None:
        super().__init__(1, lambda _record: None)
        self.pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        self.pieces.append(data)


async def read_ancestor(top: Path, path: str) -> bytes | None:
    """The content that both sides of a conflict in a file come from, empty where both have added the file.

    ``path`` is relative to ``top``, the top of the work tree. None where the index has no conflict in the file.

    Raises:
        GitMissing, GitNotARepository, GitNotOwned, GitPermission, GitFailed
    """
    operation = Operation(
        top, Access("none", None, None), base_environment(os.environ), f"read the ancestor of {path}", None
    )
    entries: list[list[str]] = []
    await operation.read("ls-files", "-z", "--unmerged", "--", path, fields=Fields(1, entries.append))
    stages = {stage: name for _mode, name, stage in (entry[0].partition("\t")[0].split(" ") for entry in entries)}
    if not stages:
        return None
    if "1" not in stages:
        return b""
    whole = _Whole()
    await operation.read("cat-file", "blob", stages["1"], fields=whole)
    return b"".join(whole.pieces)
