"""The measures of imports: lines a second, long lines, and how long other clients wait meanwhile."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import sqlite3
import statistics
import time
import uuid
from pathlib import Path

from bench.measures import Measure, Sample, paced_pings
from bench.world import World
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.conversations.cli.importer import Importer
from nexus.conversations.import_commands import AddConversationSource
from nexus.conversations.importing.reading import Start, read_source
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.states import SourceFormat
from nexus.store.migrate import migrate, target_version

__all__ = ["IMPORT_MEASURES"]

_LINE_BYTES = 600
_LONG_BYTES = 256 * 1024
_MIB = 1024 * 1024


def _line(number: int, session: str, size: int) -> str:
    role = ("user", "assistant")[number % 2]
    content = [{"type": "text", "text": ""}]
    fields = {
        "type": role,
        "uuid": str(uuid.uuid4()),
        "parentUuid": None,
        "sessionId": session,
        "timestamp": "2026-01-02T03:04:05.678Z",
        "cwd": "/srv/shop",
        "message": {
            "id": f"m{number}",
            "role": role,
            "model": "m-1",
            "content": content,
            "usage": {"output_tokens": 9},
        },
    }
    bare = len(json.dumps(fields)) + 1
    content[0]["text"] = ("some words of a message, " * (size // 20))[: max(1, size - bare)]
    return json.dumps(fields) + "\n"


class _Desk:
    """A daemon into which sessions are imported."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.daemon: DaemonProcess = world.new_daemon()
        self.daemon.start()
        world.enter(contextlib.closing(self.daemon))
        self.root = world.new_root()
        self.client = world.enter(BlockingClient(self.daemon.socket_path))

    def file(self, count: int, size: int) -> Path:
        """A new session with so many lines."""
        session = str(uuid.uuid4())
        path = self.root / f"{session}.jsonl"
        path.write_text("".join(_line(number, session, size) for number in range(count)))
        return path

    def run(self, path: Path, *, redact: bool = False) -> float:
        """Import a file as ``nexusctl`` does; returns the seconds."""
        start = time.perf_counter()
        importer = Importer(self.client.call)
        command = AddConversationSource(str(path), SourceFormat.CLAUDE_CODE, redact_secrets=redact)
        outcome, _source = importer.run(importer.source(command))
        taken = time.perf_counter() - start
        assert outcome.error is None
        assert outcome.added > 0
        return taken


@functools.cache
def _desk_of(world: World) -> _Desk:
    return _Desk(world)


def _alone(world: World, path: Path) -> float:
    """The seconds that SQLite alone takes for the same lines: decoded, and inserted in transactions of 200."""
    database = world.new_root() / "alone.db"
    with contextlib.closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        migrate(connection, 0, target_version())
        insert = (
            "INSERT INTO messages (id, conversation_id, number, role, created_at, updated_at, source, source_id, "
            "size_bytes, doc, content) VALUES (?, 'c', ?, ?, 1, 1, 'claude-code', ?, 1, ?, ?)"
        )
        index = "INSERT INTO search_index (rowid, name, text, parts) VALUES (?, '', ?, search_parts(?))"
        start = time.perf_counter()
        with path.open("rb") as file:
            connection.execute("BEGIN")
            for number, line in enumerate(file, 1):
                entry = json.loads(line)
                text = entry["message"]["content"][0]["text"]
                values = (str(uuid.uuid4()), number, entry["type"], entry["uuid"], number, text)
                connection.execute(insert, values)
                connection.execute(index, (number, text, text))
                if number % 200 == 0:
                    connection.execute("COMMIT")
                    connection.execute("BEGIN")
            connection.execute("COMMIT")
        return time.perf_counter() - start


def _count(world: World, many: int) -> int:
    return many // 4 if world.quick else many


def _lines(world: World) -> Sample:
    desk, count = _desk_of(world), _count(world, 20_000)
    path = desk.file(count, _LINE_BYTES)
    with world.all_cores(desk.daemon):
        return Sample(count / desk.run(path))


def _beside_sqlite(world: World) -> Sample:
    desk, count = _desk_of(world), _count(world, 20_000)
    path = desk.file(count, _LINE_BYTES)
    with world.all_cores(desk.daemon):
        return Sample(count / desk.run(path), count / _alone(world, path))


def _redacted(world: World) -> Sample:
    desk, count = _desk_of(world), _count(world, 20_000)
    path = desk.file(count, _LINE_BYTES)
    with world.all_cores(desk.daemon):
        return Sample(count / desk.run(path, redact=True))


def _long(world: World) -> Sample:
    desk, count = _desk_of(world), _count(world, 400)
    path = desk.file(count, _LONG_BYTES)
    with world.all_cores(desk.daemon):
        return Sample(path.stat().st_size / 1e6 / desk.run(path))


def _parsing(world: World) -> Sample:
    desk, count = _desk_of(world), _count(world, 20_000)
    path = desk.file(count, _LINE_BYTES)
    start = time.perf_counter()
    found = sum(len(batch.messages) for batch in read_source(path, SourceFormat.CLAUDE_CODE, Redactor(), Start()))
    assert found == count
    return Sample(count / (time.perf_counter() - start))


def _pings(world: World) -> Sample:
    """The 99th percentile of the latencies of another client while a file is imported."""
    desk = _desk_of(world)
    path = desk.file(_count(world, 40_000), _LINE_BYTES)
    with world.all_cores(desk.daemon):
        child = os.fork()
        if child == 0:
            try:
                with BlockingClient(desk.daemon.socket_path) as client:
                    importer = Importer(client.call)
                    importer.run(importer.source(AddConversationSource(str(path), SourceFormat.CLAUDE_CODE)))
            finally:
                os._exit(0)
        latencies: list[float] = []
        while os.waitpid(child, os.WNOHANG) == (0, 0):
            latencies += paced_pings(desk.client, 40)
    return Sample(1000 * statistics.quantiles(latencies, n=100)[98])


IMPORT_MEASURES = (
    Measure("import-lines", "import of lines of 600 bytes", "/s", 5000, True, _lines),
    Measure(
        "import-sqlite", "the same beside SQLite", "/s", 0.15, True, _beside_sqlite, "json and SQLite alone, no history"
    ),
    Measure("import-redact", "the same with known forms of secrets replaced", "/s", 2500, True, _redacted),
    Measure("import-parse", "parsing of these lines alone", "/s", 15_000, True, _parsing),
    Measure("import-long", "import of lines of 256 KiB", "MB/s", 10, True, _long),
    Measure("import-ping", "Ping beside an import, p99", "ms", 20, False, _pings),
)
"""In the order of the table."""
