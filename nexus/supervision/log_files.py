"""The logs of what runs, as files beside the database, for backup and restore."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

from nexus.runtime.log_copy import segment_files
from nexus.runtime.segments import list_segments
from nexus.store import Reader
from nexus.store.files import FilePart, FileSet, Referred
from nexus.store.processes_folder import ProcessesFolder

__all__ = ["LogFiles"]

_NAME = r"\d{1,18}\.(?:log|idx)"

Ids = Callable[[Reader, str, int], list[tuple[str, int | None]]]
"""The ids after one, sorted, and how many bytes of output each must have; None or 0 where it may have none."""

Size = Callable[[Reader, str], tuple[int | None] | None]
"""The same of one id; None where there is no such object."""


class LogFiles(FileSet):
    """The logs of one kind of objects: all segments of an owner's log, which is one folder."""

    checked = False

    def __init__(self, name: str, table: str, prefix: str, ids: Ids, size: Size) -> None:
        self.name, self.one, self.table = name, "log", table
        self._ids, self._size = ids, size
        self._prefix = prefix
        self._path = re.compile(rf"({re.escape(prefix)}[0-9A-Za-z-]{{1,64}})/log/{_NAME}")

    def folder(self, database: Path) -> Path:
        return ProcessesFolder(database).path

    def referred(self, reader: Reader, after: str, limit: int) -> list[Referred]:
        rows = self._ids(reader, after.removeprefix(self._prefix), limit)
        return [Referred(f"{self._prefix}{id_}", size or None) for id_, size in rows]

    def find(self, reader: Reader, name: str) -> Referred | None:
        found = self._size(reader, name.removeprefix(self._prefix))
        return None if found is None else Referred(name, found[0] or None)

    def name_of(self, path: PurePosixPath) -> str | None:
        found = self._path.fullmatch(str(path))
        return None if found is None else found[1]

    def unit(self, name: str) -> PurePosixPath:
        return PurePosixPath(name, "log")

    def parts(self, folder: Path, name: str) -> Iterator[FilePart]:
        for file, size, chunks in segment_files(folder / self.unit(name)):
            yield FilePart(str(self.unit(name) / file), size, chunks)

    def problem(self, folder: Path, referred: Referred, *, deep: bool) -> str | None:
        there = referred.size_bytes is None or list_segments(folder / self.unit(referred.name))
        return None if there else "missing"
