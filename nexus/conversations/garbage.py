"""Stores blobs, and deletes those that no message names: the rows first, then the files.

A client stores a blob before the message that names it, so a blob stays for a grace time after it was stored or named.
A blob that is being stored is never deleted, and one that is being deleted is stored again only after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from nexus.conversations import blobs_store
from nexus.conversations.blobs import BlobFolder
from nexus.conversations.records import Blob
from nexus.store import StateStore, Transaction
from nexus.store.files import Swept
from nexus.tasks import uninterrupted

__all__ = ["BlobSweeper"]

_PAGE = 500
_BATCH = 100
_REVISIONS = 20
"""A page of revisions, each of which may have 4 MiB."""
_HASH = re.compile(r"[0-9a-f]{64}")
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.[0-9a-f]{8}")
_ASIDE = re.compile(r"(.+\.set-aside-.+)-(?:blobs|logs)")


class _File(NamedTuple):
    path: Path
    size_bytes: int

    @property
    def hash(self) -> str:
        """Of a blob, also of one whose write is unfinished."""
        return self.path.name.lstrip(".")[:64]


class BlobSweeper:
    """Stores and sweeps the blobs of one store. There is one for each store."""

    def __init__(self, state: StateStore, folder: BlobFolder) -> None:
        self._store = state
        self.folder = folder
        self._putting: Counter[str] = Counter()
        self._deleting: frozenset[str] = frozenset()
        self._deleted = asyncio.Event()
        self._sweep_lock = asyncio.Lock()

    async def put(self, data: bytes) -> Blob:
        """Store a blob durably: its file, then its row.

        Raises:
            OSError: the file cannot be written.
        """
        hash_ = await asyncio.to_thread(BlobFolder.hash_of, data)
        while hash_ in self._deleting:
            await self._deleted.wait()
        self._putting[hash_] += 1
        try:
            await asyncio.to_thread(self.folder.put, data)
            return await self._store.write(lambda tx: blobs_store.add_blob(tx, hash_, len(data)))
        finally:
            self._putting[hash_] -= 1
            if not self._putting[hash_]:
                del self._putting[hash_]

    async def sweep(self, before_at: int, *, dry_run: bool = False) -> Swept:
        """Delete what no message has named since a time (ms), and files without a row that are older than it.

        With ``dry_run`` it only counts. A sweep that is interrupted is completed by the next one.
        """
        async with self._sweep_lock:
            unnamed = await self._unnamed(before_at)
            count = size = 0
            hashes = sorted(unnamed)
            for at in range(0, len(hashes), _BATCH):
                batch = hashes[at : at + _BATCH]
                gone = batch if dry_run else await self._delete(batch, before_at)
                count, size = count + len(gone), size + sum(unnamed[hash_] for hash_ in gone)
                await asyncio.sleep(0)
            unknown = await self._sweep_files(before_at, dry_run)
            return Swept(count + len(unknown), size + sum(file.size_bytes for file in unknown), len(unknown))

    async def _unnamed(self, before_at: int) -> dict[str, int]:
        """The blobs that neither a message nor what one was before names, with their sizes."""
        found: dict[str, int] = {}
        after = ""
        while page := await self._store.fetch(
            lambda reader, after=after: blobs_store.unnamed_blobs(reader, before_at, after, _PAGE)  # type: ignore[misc]
        ):
            found.update(page)
            after = page[-1][0]
            await asyncio.sleep(0)
        place: tuple[str, int] | None = ("", 0)
        while found and place is not None:
            named, place = await self._store.fetch(
                lambda reader, place=place: blobs_store.named_in_revisions(reader, place, _REVISIONS)  # type: ignore[misc]
            )
            for hash_ in named:
                found.pop(hash_, None)
            await asyncio.sleep(0)
        return found

    @contextlib.contextmanager
    def _held(self, hashes: frozenset[str]) -> Iterator[None]:
        """While it lasts, nothing with these hashes is stored."""
        self._deleting, self._deleted = hashes, asyncio.Event()
        try:
            yield
        finally:
            self._deleting = frozenset()
            self._deleted.set()

    async def _delete(self, batch: list[str], before_at: int) -> list[str]:
        hashes = [hash_ for hash_ in batch if hash_ not in self._putting]

        def drop(tx: Transaction) -> list[str]:
            return [hash_ for hash_ in hashes if blobs_store.drop_blob(tx, hash_, before_at)]

        async def delete() -> list[str]:
            dropped = await self._store.write(drop, size_bytes=len(hashes) * 128)
            await asyncio.to_thread(_unlink, [self.folder.path(hash_) for hash_ in dropped])
            return dropped

        with self._held(frozenset(hashes)):
            return await uninterrupted(delete())

    async def _sweep_files(self, before_at: int, dry_run: bool) -> list[_File]:
        """Delete unfinished files, and those without a row: a daemon was killed before the row, or after its end."""
        found = await asyncio.to_thread(_old_files, self.folder.root, before_at)
        gone: list[_File] = []
        for at in range(0, len(found), _BATCH):
            batch = [file for file in found[at : at + _BATCH] if file.hash not in self._putting]

            async def delete(batch: list[_File] = batch) -> list[_File]:
                unknown = [
                    file
                    for file in batch
                    if not _HASH.fullmatch(file.path.name)
                    or self._store.read(lambda reader, name=file.path.name: blobs_store.find_blob(reader, name)) is None  # type: ignore[misc]
                ]
                if not dry_run:
                    await asyncio.to_thread(_unlink, [file.path for file in unknown])
                return unknown

            with self._held(frozenset(file.hash for file in batch)):
                gone += await uninterrupted(delete())
            await asyncio.sleep(0)
        return gone


def _unlink(paths: list[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()


def _old_files(root: Path, before_at: int) -> list[_File]:
    """Blobs and unfinished files that are older than a time, and files that were kept of a database that is gone."""
    found = []
    for entry in _entries(root):
        if entry.is_dir(follow_symlinks=False) and len(entry.name) == 2:
            files = (file for file in _entries(entry) if _HASH.fullmatch(file.name) or _TEMPORARY.fullmatch(file.name))
            found += [old for file in files if (old := _if_old(file, before_at)) is not None]
    for entry in _entries(root.parent):
        aside = _ASIDE.fullmatch(entry.name)
        if (
            aside is not None
            and entry.name.startswith(root.name.removesuffix("-blobs"))
            and not root.with_name(aside[1]).exists()
            and (kept := _if_old(entry, before_at)) is not None
        ):
            found.append(kept)
    return found


def _if_old(entry: os.DirEntry[str], before_at: int) -> _File | None:
    """A file, or a folder of links, that is older than a time; None also for one that is gone: it was finished."""
    try:
        status = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    return _File(Path(entry.path), size) if status.st_mtime * 1000 < before_at else None


def _entries(folder: Path | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return []
