"""The blobs as files beside the database, for backup, restore and check."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from nexus.conversations import blobs_store, import_store
from nexus.conversations.blobs import BlobFolder
from nexus.conversations.errors import BlobDamaged, BlobNotFound
from nexus.conversations.garbage import BlobSweeper
from nexus.store import Reader, StateStore
from nexus.store.files import FilePart, FileSet, Note, Referred, Swept

__all__ = ["FILES"]

_PATH = re.compile(r"([0-9a-f]{2})/((?=\1)[0-9a-f]{64})")


class _Blobs(FileSet):
    name, one, table, checked = "blobs", "blob", "blobs", True

    def folder(self, database: Path) -> Path:
        return database.with_name(f"{database.name}-blobs")

    def referred(self, reader: Reader, after: str, limit: int) -> list[Referred]:
        return [Referred(*row) for row in blobs_store.referred_blobs(reader, after, limit)]

    def find(self, reader: Reader, name: str) -> Referred | None:
        size = blobs_store.find_blob(reader, name)
        return None if size is None else Referred(name, size)

    def name_of(self, path: PurePosixPath) -> str | None:
        found = _PATH.fullmatch(str(path))
        return None if found is None else found[2]

    def unit(self, name: str) -> PurePosixPath:
        return PurePosixPath(name[:2], name)

    def parts(self, folder: Path, name: str) -> Iterator[FilePart]:
        try:
            data = BlobFolder(folder).get(name)
        except (BlobNotFound, BlobDamaged):
            return
        yield FilePart(str(self.unit(name)), len(data), iter((data,)))

    def problem(self, folder: Path, referred: Referred, *, deep: bool) -> str | None:
        path = BlobFolder(folder).path(referred.name)
        try:
            if path.stat().st_size != referred.size_bytes:
                return "damaged"
            if deep and BlobFolder.hash_of(path.read_bytes()) != referred.name:
                return "damaged"
        except FileNotFoundError:
            return "missing"
        except OSError:
            return "damaged"
        return None

    def users(self, reader: Reader, name: str) -> str | None:
        count = blobs_store.count_parts(reader, name)
        if count:
            return f": {count} part{'s' if count > 1 else ''} of messages refer{'s' * (count == 1)} to it"
        return ": an earlier state of a message refers to it" if blobs_store.is_in_revision(reader, name) else None

    def note(self, reader: Reader) -> Note | None:
        count = import_store.count_watched(reader)
        if not count:
            return None
        sources = "1 source" if count == 1 else f"{count} sources"
        return Note(
            f"The daemon follows {sources} of conversations as soon as it runs",
            "See which, once it runs: nexusctl conversation source list --watched",
        )

    async def sweep_store(self, store: StateStore, before_at: int, dry_run: bool) -> Swept:
        return await BlobSweeper(store, BlobFolder(self.folder(store.path))).sweep(before_at, dry_run=dry_run)


FILES: tuple[FileSet, ...] = (_Blobs(),)
