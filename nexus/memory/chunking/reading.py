"""Reads the files of a folder, one after the other, and cuts each into chunks."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable
from typing import NamedTuple

from nexus.memory.chunking.chunks import chunk_text
from nexus.memory.chunking.files import Skipped, open_root, read_text
from nexus.memory.chunking.languages import is_generated
from nexus.memory.chunking.outline import Chunk

__all__ = ["FileChunks", "chunk_files"]


class FileChunks(NamedTuple):
    """A file that was looked at."""

    file: str
    chunks: list[Chunk]
    skipped: str | None
    """Why it has no chunks, such as "it is binary"; ``GONE`` if it was deleted meanwhile. None for what was read."""
    replaced: int
    """How much of it was not UTF-8, and is U+FFFD in the chunks."""


def chunk_files(root: str, files: Iterable[str]) -> Generator[FileChunks, None, None]:
    """Read the files below the folder ``root``, one at each step, and cut them into chunks.

    A file is skipped, with the reason, if it is larger than 1 MiB, binary, no regular file, written by a program (such
    as a lock file), or if a link leads to it. Nothing outside of ``root`` is read.

    Raises:
        OSError: ``root`` cannot be opened.
    """
    descriptor = open_root(os.path.realpath(root))
    try:
        for file in files:
            if is_generated(file):
                yield FileChunks(file, [], "a program has written it", 0)
                continue
            read = read_text(descriptor, file)
            if isinstance(read, Skipped):
                yield FileChunks(file, [], read.reason, 0)
            else:
                yield FileChunks(file, chunk_text(file, read.text), None, read.replaced)
    finally:
        os.close(descriptor)
