"""opencode: one SQLite database with all sessions, opened read-only. Later changes are read again.

Tables ``session``, ``message`` and ``part``; what a message or a part says is JSON in its column ``data``.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.parsed import (
    Begun,
    Item,
    Said,
    Skipped,
    as_dict,
    as_text,
    bounded_metadata,
    folder_of,
    identifier,
    image_part,
    one_line,
    time_ms,
    tokens_of,
)
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role

__all__ = ["SOURCE", "Unreadable", "parse_database"]

SOURCE = "opencode"
_TIMEOUT_S = 5.0
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_NO_TEXT = frozenset({"step-start", "step-finish", "snapshot", "patch", "agent", "compaction", "retry", "subtask"})
_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT}


class Unreadable(Exception):
    """The file is no database of opencode, or cannot be read."""


def parse_database(path: Path, redactor: Redactor, since: int) -> Iterator[Item | int]:
    """Every session that was changed since a time of the database (ms); last, the latest time of a change.

    Raises:
        Unreadable: it is no database of opencode, or another program holds it.
    """
    try:
        with contextlib.closing(_open(path)) as database:
            yield from _parse(database, redactor, since)
    except sqlite3.Error as error:
        raise Unreadable(f"cannot read the database: {error}") from None


def _open(path: Path) -> sqlite3.Connection:
    uri = f"file:{quote(str(path))}?mode=ro"
    database = sqlite3.connect(uri, uri=True, timeout=_TIMEOUT_S)
    try:
        database.execute("PRAGMA query_only = 1")
        database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error:
        database.close()
        # A folder that cannot be written: without its shared memory the log cannot be read.
        database = sqlite3.connect(f"{uri}&immutable=1", uri=True, timeout=_TIMEOUT_S)
    database.row_factory = sqlite3.Row
    return database


def _parse(database: sqlite3.Connection, redactor: Redactor, since: int) -> Iterator[Item | int]:
    tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if not {"session", "message", "part"} <= tables:
        raise Unreadable("it has no tables session, message and part")
    database.execute("BEGIN")  # one state of the database for all that follows
    (latest,) = database.execute(
        "SELECT max(t) FROM (SELECT max(time_updated) AS t FROM session UNION ALL "
        "SELECT max(time_updated) FROM message UNION ALL SELECT max(time_updated) FROM part)"
    ).fetchone()
    sessions = database.execute(
        "SELECT * FROM session WHERE id IN (SELECT id FROM session WHERE time_updated >= ? "
        "UNION SELECT session_id FROM message WHERE time_updated >= ? "
        "UNION SELECT session_id FROM part WHERE time_updated >= ?) ORDER BY time_created, id",
        (since, since, since),
    )
    for session in sessions.fetchall():
        yield from _session(database, dict(session), redactor)
    yield latest if isinstance(latest, int) else 0


def _session(database: sqlite3.Connection, session: dict[str, Any], redactor: Redactor) -> Iterator[Item]:
    id_ = str(session["id"])
    values = {"parent_source_id": session.get("parent_id"), "version": session.get("version")}
    if session.get("parent_id"):
        values["tags"] = ["sub-agent"]
    yield Begun(
        ImportedConversation(
            source=SOURCE,
            source_id=identifier(id_),
            title=one_line(session.get("title")),
            folder=folder_of(session.get("directory")),
            tool=SOURCE,
            created_at=time_ms(session.get("time_created")),
            metadata=bounded_metadata(values),
        )
    )
    rows = database.execute("SELECT * FROM message WHERE session_id = ? ORDER BY time_created, id", (id_,))
    for row in rows:
        parts = database.execute("SELECT data FROM part WHERE message_id = ? ORDER BY id", (row["id"],)).fetchall()
        yield from _message(dict(row), [each[0] for each in parts], redactor)


def _decoded(text: object) -> dict[str, Any] | None:
    try:
        value = msgspec.json.decode(text) if isinstance(text, (str, bytes)) else None
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _message(row: dict[str, Any], texts: list[Any], redactor: Redactor) -> Iterator[Item]:
    data = _decoded(row.get("data"))
    if data is None:
        yield Skipped("message that is no JSON")
        data = {}
    parts: list[MessagePart] = []
    blobs: tuple[bytes, ...] = ()
    for text in texts:
        part = _decoded(text)
        if part is None:
            raw = text if isinstance(text, bytes) else str(text).encode("utf-8", "replace")
            parts.append(MessagePart(PartKind.RAW, redactor.raw(raw)))
        elif part.get("type") in _NO_TEXT:
            yield Skipped(f"no message: {part['type']}")
        else:
            found, content = _part(part, redactor)
            parts += found
            blobs += content
    if not parts:
        yield Skipped("empty message")
        return
    tokens = as_dict(data.get("tokens"))
    model = as_dict(data.get("model"))
    said: str | None = None
    if [part.kind for part in parts] == [PartKind.TEXT]:
        said, parts = parts[0].body, []
    parent = as_text(data.get("parentID"))
    yield Said(
        ImportedMessage(
            source_id=identifier(str(row["id"])),
            role=_ROLES.get(str(data.get("role")), Role.SYSTEM),
            content=said,
            parts=parts,
            metadata=bounded_metadata(
                {
                    "usage": tokens,
                    "cost": data.get("cost"),
                    "provider": data.get("providerID"),
                    "agent": data.get("agent"),
                }
            ),
            parent=None if parent is None else identifier(parent),
            model=one_line(data.get("modelID") or model.get("modelID")),
            tokens=tokens_of(tokens.get("output")),
            created_at=time_ms(row.get("time_created")),
        ),
        blobs,
    )


def _part(part: dict[str, Any], redactor: Redactor) -> tuple[list[MessagePart], tuple[bytes, ...]]:
    kind = part.get("type")
    text = part.get("text")
    if kind in ("text", "reasoning") and isinstance(text, str):
        of = PartKind.TEXT if kind == "text" else PartKind.THINKING
        return ([MessagePart(of, text)] if text else []), ()
    if kind == "tool":
        return _tool(part, redactor), ()
    url = as_text(part.get("url"))
    if kind == "file" and url is not None:
        found = _DATA.match(url)
        if found is not None:
            image, blobs = image_part(part.get("mime") or found[1], url[found.end() :], part.get("filename"))
            return [image], blobs
        return [MessagePart(PartKind.FILE, redactor.body(url), name=one_line(part.get("filename")))], ()
    return [MessagePart(PartKind.RAW, redactor.body(part))], ()


def _tool(part: dict[str, Any], redactor: Redactor) -> list[MessagePart]:
    state = as_dict(part.get("state"))
    name, call_id = one_line(part.get("tool")), one_line(part.get("callID"))
    found = [MessagePart(PartKind.TOOL_USE, redactor.body(state.get("input")), name, call_id)]
    if "output" in state or "error" in state:
        failed = "error" if "error" in state else None
        body = redactor.body(state.get("error") if failed else state.get("output"))
        found.append(MessagePart(PartKind.TOOL_RESULT, body, name, call_id, failed))
    return found
