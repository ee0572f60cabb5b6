"""Sessions of other programs: the files below ``tests/data/conversations``, copied to where a test may change them."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.reading import MessageBatch, Start, read_source
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.states import SourceFormat

__all__ = ["DATA", "FILES", "Parsed", "claude_line", "copied", "make_opencode", "parsed", "read_all"]

DATA = Path(__file__).resolve().parents[1] / "data" / "conversations"
_SESSION = "5b1c7a90-0000-4000-8000-000000000001.jsonl"
_ROLLOUT = "rollout-2026-01-02T11-00-00-7c2d8b01-0000-4000-8000-000000000002.jsonl"
FILES = {
    SourceFormat.NEXUS: "nexus.jsonl",
    SourceFormat.CLAUDE_CODE: f"claude-code/-srv-shop/{_SESSION}",
    SourceFormat.CODEX: f"codex/2026/01/02/{_ROLLOUT}",
    SourceFormat.GEMINI: "gemini/4f1d/chats/session-2026-01-02T12-00-9a3e.json",
    SourceFormat.AIDER: "aider/.aider.chat.history.md",
    SourceFormat.OPENCODE: "opencode/opencode.db",
}


class Parsed(NamedTuple):
    """What a file says."""

    conversations: list[ImportedConversation]
    messages: list[ImportedMessage]
    skipped: dict[str, int]
    waits: bool


def copied(root: Path) -> dict[SourceFormat, Path]:
    """A copy of every file; opencode's database is made."""
    shutil.copytree(DATA, root, dirs_exist_ok=True)
    make_opencode(root / FILES[SourceFormat.OPENCODE])
    return {format_: root / name for format_, name in FILES.items()}


def read_all(
    path: Path, format_: SourceFormat, redactor: Redactor | None = None, start: Start | None = None
) -> list[MessageBatch]:
    """Every batch of a file."""
    return list(read_source(path, format_, redactor or Redactor(), start or Start()))


def parsed(batches: Iterable[MessageBatch]) -> Parsed:
    """What batches say together."""
    found: dict[str, ImportedConversation] = {}
    messages: list[ImportedMessage] = []
    skipped: dict[str, int] = {}
    waits = False
    for batch in batches:
        if batch.conversation is not None:
            found[batch.conversation.source_id] = batch.conversation
        messages += batch.messages
        skipped, waits = batch.skipped, batch.waits
    return Parsed(list(found.values()), messages, skipped, waits)


_OPENCODE = """
CREATE TABLE session (id TEXT PRIMARY KEY, project_id TEXT NOT NULL, parent_id TEXT, slug TEXT NOT NULL,
    directory TEXT NOT NULL, title TEXT NOT NULL, version TEXT NOT NULL, time_created INTEGER NOT NULL,
    time_updated INTEGER NOT NULL);
CREATE TABLE message (id TEXT PRIMARY KEY, session_id TEXT NOT NULL, time_created INTEGER NOT NULL,
    time_updated INTEGER NOT NULL, data TEXT NOT NULL);
CREATE TABLE part (id TEXT PRIMARY KEY, message_id TEXT NOT NULL, session_id TEXT NOT NULL,
    time_created INTEGER NOT NULL, time_updated INTEGER NOT NULL, data TEXT NOT NULL);
"""
_AT = 1767362400000


def make_opencode(path: Path) -> None:
    """A database of opencode with a session and that of its sub-agent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.executescript(_OPENCODE)
        database.executemany(
            "INSERT INTO session VALUES (?, 'p1', ?, 'slug', '/srv/shop', ?, '1.2.0', ?, ?)",
            [("ses_1", None, "Fix the cart", _AT, _AT), ("ses_2", "ses_1", "Search the tests", _AT + 5, _AT + 5)],
        )
        add_opencode(database, "ses_1", "msg_1", _AT + 1, {"role": "user"}, [{"type": "text", "text": "Fix it"}])
        add_opencode(
            database,
            "ses_1",
            "msg_2",
            _AT + 2,
            {"role": "assistant", "modelID": "model-f", "providerID": "prov", "parentID": "msg_1", "cost": 0.5,
             "tokens": {"input": 70, "output": 21, "reasoning": 3, "cache": {"read": 0, "write": 0}}},
            [
                {"type": "step-start"},
                {"type": "reasoning", "text": "Look at the cart."},
                {"type": "text", "text": "It is fixed."},
                {"type": "tool", "callID": "call_7", "tool": "edit",
                 "state": {"status": "completed", "input": {"file": "cart.py"}, "output": "ok", "title": "Edit"}},
                {"type": "crystal-ball", "says": "yes"},
            ],
        )  # fmt: skip
        add_opencode(database, "ses_2", "msg_3", _AT + 6, {"role": "user"}, [{"type": "text", "text": "Search"}])


def add_opencode(
    database: sqlite3.Connection, session: str, message: str, at: int, data: dict[str, Any], parts: Sequence[Any]
) -> None:
    """Add a message to opencode's database."""
    database.execute("INSERT INTO message VALUES (?, ?, ?, ?, ?)", (message, session, at, at, json.dumps(data)))
    for number, part in enumerate(parts):
        values = (f"prt_{message}_{number}", message, session, at, at, json.dumps(part))
        database.execute("INSERT INTO part VALUES (?, ?, ?, ?, ?, ?)", values)


def claude_line(uuid: str, text: str, session: str = "S") -> str:
    """A line of a session of Claude Code."""
    message = {"role": "user", "content": text}
    at = "2026-01-02T03:04:05Z"
    return json.dumps({"type": "user", "uuid": uuid, "sessionId": session, "timestamp": at, "message": message}) + "\n"
