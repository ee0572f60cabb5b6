"""A database with blobs and logs beside it, made without a daemon, and archives written by hand."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import shutil
import sqlite3
import struct
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

from nexus.capabilities import file_sets
from nexus.conversations.blobs import BlobFolder
from nexus.store import BackupOptions
from nexus.store.base import BackupInfo
from nexus.store.connection import connect
from nexus.store.maintenance import check_database
from nexus.store.sqlite import SqliteStore

__all__ = ["JOB", "SETS", "WITH_FILES", "Parts", "State", "parts_of", "write"]

JOB = "6d1f7c1e-0000-4000-8000-00000000000a"
WITH_FILES = BackupOptions(with_files=True)
SETS = file_sets()

Parts = list[tuple[tarfile.TarInfo, bytes]]
"""The members of an archive."""


class State:
    """A database with blobs and logs beside it."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "nexus.db"
        self.backups = folder / "backups"
        self.blobs = BlobFolder(folder / "nexus.db-blobs")
        self.hashes: list[str] = []

    def make(self) -> State:
        """Make the database, five blobs and the log of one job."""
        self.database.parent.mkdir(exist_ok=True, mode=0o700)
        self.run(lambda _store: None)
        with self.connected() as connection:
            connection.execute(
                "INSERT INTO conversations (id, number, project_id, created_at, updated_at, doc) "
                "VALUES ('c', 1, '00000000-0000-4000-8000-000000000000', 1, 1, 1000)"
            )
            connection.execute(
                "INSERT INTO messages (id, conversation_id, number, role, created_at, updated_at, size_bytes, doc, "
                "content) VALUES ('m', 'c', 1, 'user', 1, 1, 1, 1001, 'x')"
            )
            connection.execute("INSERT INTO search_index (rowid, name, text, parts) VALUES (1001, '', 'x', '')")
        for number in range(5):
            self.put(bytes([number]) * 1000 * (number + 1))
        with self.connected() as connection:
            self.add_job(connection, JOB, output_bytes=6)
        self.write_log(f"job-{JOB}", b"hello\n")
        return self

    @contextlib.contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """A connection that commits at the end."""
        with contextlib.closing(connect(self.database)) as connection, connection:
            yield connection

    @staticmethod
    def add_job(connection: sqlite3.Connection, id_: str, output_bytes: int | None) -> None:
        """Insert a job that has ended."""
        connection.execute(
            "INSERT INTO jobs (id, number, seq, project_id, command, directory, place, status, output_bytes, "
            "created_at, updated_at, doc) SELECT ?, n, n, '00000000-0000-4000-8000-000000000000', 'x', '/', n, "
            "'completed', ?, 1, 1, n FROM (SELECT count(*) + 1 AS n FROM jobs)",
            (id_, output_bytes),
        )

    def put(self, data: bytes, *, named: bool = True) -> str:
        """Store a blob, which the message names, or only its row."""
        hash_ = self.blobs.put(data)
        with self.connected() as connection:
            connection.execute("INSERT INTO blobs VALUES (?, ?, 1)", (hash_, len(data)))
            if named:
                connection.execute(
                    "INSERT INTO message_parts (message_id, number, kind, blob) "
                    "SELECT 'm', count(*) + 1, 'image', ? FROM message_parts",
                    (hash_,),
                )
        self.hashes.append(hash_)
        return hash_

    def log_folder(self, owner: str) -> Path:
        """The log of an owner."""
        return self.database.parent / "processes" / owner / "log"

    def write_log(self, owner: str, data: bytes, claimed: int | None = None) -> None:
        """Write a log of one entry, whose index claims so many bytes."""
        folder = self.log_folder(owner)
        folder.mkdir(parents=True, mode=0o700)
        (folder / "0.idx").write_bytes(struct.pack("=QII", 1, len(data) if claimed is None else claimed, 1))
        (folder / "0.log").write_bytes(data)

    def run(self, fn: Callable[[SqliteStore], object]) -> object:
        """Call a function with the open store."""
        store = SqliteStore(self.database, self.backups, files=SETS)
        store.init()
        try:
            return fn(store)
        finally:
            store.close_now()

    def back_up(self, path: Path | None = None, options: BackupOptions = WITH_FILES) -> BackupInfo:
        """Back up, by default with files."""
        made = self.run(lambda store: store.backup_now(path, options))
        assert isinstance(made, BackupInfo)
        return made

    def lose_files(self) -> None:
        """Delete all blobs and logs."""
        shutil.rmtree(self.blobs.root)
        shutil.rmtree(self.database.parent / "processes")

    def assert_whole(self) -> None:
        """The database and all that was made with it are there."""
        report = check_database(self.database, SETS, deep=True)
        assert (report.problems, report.file_problems) == ([], [])
        assert report.files["blobs"]["files"] == 5
        assert (self.log_folder(f"job-{JOB}") / "0.log").read_bytes() == b"hello\n"


def parts_of(path: Path) -> Parts:
    """Read an archive."""
    with tarfile.open(path) as tar:
        return [(info, tar.extractfile(info).read()) for info in tar.getmembers()]  # type: ignore[union-attr]


def write(path: Path, parts: Parts, *, end: bool = True) -> None:
    """Write an archive with any members, and an end that fits them."""
    blocks = io.BytesIO()
    for info, data in parts:
        if info.name == "end.json":
            continue
        blocks.write(info.tobuf(tarfile.GNU_FORMAT))
        blocks.write(data + bytes(-len(data) % 512))
    whole = blocks.getvalue()
    if end:
        info, data = tarfile.TarInfo("end.json"), json.dumps({"sha256": hashlib.sha256(whole).hexdigest()}).encode()
        info.size = len(data)
        whole += info.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512) + bytes(1024)
    path.write_bytes(gzip.compress(whole, 1))
