"""Claude Code: a file of JSON Lines for each session, and for each of its sub-agents.

A sub-agent is a conversation of its own, tagged ``sub-agent``; ``parent_source_id`` in its metadata is the session
that began it. Lines of a sub-agent within the file of its session stay there, as a branch. The file names the session;
one that was given another name than Claude Code gives, a UUID, is of the session that its first lines name.
The id of a message is that of the session and the ``uuid`` of its line: a session that was forked repeats lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.parsed import (
    Begun,
    Item,
    Said,
    Skipped,
    State,
    as_dict,
    as_list,
    as_text,
    bounded_metadata,
    folder_of,
    identifier,
    image_part,
    line_id,
    one_line,
    raw_message,
    time_ms,
    tokens_of,
)
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role

__all__ = ["SOURCE", "ClaudeCodeParser"]

SOURCE = "claude-code"
_NO_MESSAGES = frozenset(
    {"file-history-snapshot", "queue-operation", "progress", "last-prompt", "mode", "permission-mode", "pr-link"}
)
"""Lines that tell no part of the conversation."""
_TITLES = {"summary": ("summary", 1), "ai-title": ("aiTitle", 2), "custom-title": ("customTitle", 3)}
"""Lines with a title: its field, and how much it counts."""


_UUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_AGENT = "agent-"
_HEAD_BYTES = 64 * 1024


def _session_of(path: Path) -> str:
    """The session of a file: its name, where Claude Code has given it; else what its first lines say."""
    if _UUID.fullmatch(path.stem) or path.stem.startswith(_AGENT):
        return path.stem
    try:
        with open(path, "rb") as file:
            lines = file.read(_HEAD_BYTES).split(b"\n")
    except OSError:
        return path.stem
    return next((session for line in lines if (session := _session_in(line)) is not None), path.stem)


def _session_in(line: bytes) -> str | None:
    try:
        return as_text(as_dict(msgspec.json.decode(line)).get("sessionId"))
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None


class ClaudeCodeParser:
    """Reads one file of Claude Code."""

    def __init__(self, path: Path, redactor: Redactor, state: State) -> None:
        self._redactor = redactor
        self._session = redactor.identifier(as_text(state.get("session")) or _session_of(path))
        self._agent = as_text(state.get("agent"))
        self._title_rank = state.get("title_rank", 0)
        self._usage = as_text(state.get("usage"))
        """The id of the last message of the model, whose usage its lines repeat."""
        self._usage_tokens = tokens_of(state.get("usage_tokens")) or 0
        self._known = bool(state)
        self._is_agent_file = path.stem.startswith(_AGENT)
        self._header: ImportedConversation | None = None
        self._folder: str | None = None
        self._title: str | None = None
        self._told: ImportedConversation | None = None

    def position(self, offset: int) -> tuple[int, State]:
        """As ``LineParser``."""
        if not (self._known or self._told):
            return offset, {}
        state: State = {"session": self._session, "title_rank": self._title_rank}
        if self._agent is not None:
            state["agent"] = self._agent
        if self._usage is not None:
            state |= {"usage": self._usage, "usage_tokens": self._usage_tokens}
        return offset, state

    def end(self) -> Iterator[Item]:
        """As ``LineParser``."""
        return iter(())

    @property
    def _source_id(self) -> str:
        return identifier(self._session if self._agent is None else f"{self._session}/{self._agent}")

    def line(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        entry = msgspec.json.decode(data)
        if not isinstance(entry, dict):
            yield from self._raw(data, offset, {})
            return
        kind = as_text(entry.get("type")) or ""
        if kind in _TITLES:
            yield from self._take_title(kind, entry)
        elif kind in _NO_MESSAGES:
            yield Skipped(f"no message: {kind}")
        elif kind in ("user", "assistant") and isinstance(entry.get("message"), dict):
            yield from self._message(kind, entry, data, offset)
        elif kind == "system" and as_text(entry.get("content")):
            yield from self._begin(entry)
            yield Said(self._said(entry, data, offset, Role.SYSTEM, [], content=entry["content"]))
        else:
            yield from self._raw(data, offset, entry)

    def raw(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        yield from self._raw(data, offset, {})

    def _raw(self, data: bytes, offset: int, entry: dict[str, Any]) -> Iterator[Item]:
        yield from self._begin(entry)
        yield raw_message(line_id(self._source_id, data, offset), data, self._redactor, time_ms(entry.get("timestamp")))

    def _take_title(self, kind: str, entry: dict[str, Any]) -> Iterator[Item]:
        field, rank = _TITLES[kind]
        title = one_line(entry.get(field))
        if title is not None and rank >= self._title_rank:
            self._title, self._title_rank = title, rank
            if self._told is not None or self._known:
                yield from self._begin(entry)

    def _begin(self, entry: dict[str, Any]) -> Iterator[Item]:
        """Tell the conversation, if it differs from what was told."""
        session, agent = as_text(entry.get("sessionId")), as_text(entry.get("agentId"))
        if self._told is None and not self._known and self._is_agent_file:
            self._agent = self._redactor.identifier(agent or self._session.removeprefix(_AGENT))
            self._session = self._redactor.identifier(session or self._session)
        self._folder = self._folder or folder_of(entry.get("cwd"))
        values: dict[str, Any] = {"branch": entry.get("gitBranch"), "version": entry.get("version")}
        if self._agent is not None:
            values |= {"tags": ["sub-agent"], "parent_source_id": self._session, "agent": self._agent}
        told = ImportedConversation(
            source=SOURCE,
            source_id=self._source_id,
            title=self._title,
            folder=self._folder,
            tool=SOURCE,
            created_at=time_ms(entry.get("timestamp")),
            metadata=bounded_metadata(values),
        )
        before = self._told
        if before is None or before.title != told.title or before.folder != told.folder:
            if before is not None:
                told = msgspec.structs.replace(told, created_at=before.created_at, metadata=before.metadata)
            self._told = told
            yield Begun(told)

    def _message(self, kind: str, entry: dict[str, Any], data: bytes, offset: int) -> Iterator[Item]:
        message = entry["message"]
        content = message.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content)
        parts: list[MessagePart] = []
        blobs: tuple[bytes, ...] = ()
        for block in blocks:
            part, data_of = self._part(block)
            parts += part
            blobs += data_of
        if not parts:
            yield Skipped(f"empty message: {kind}")
            return
        if self._title is None and not self._known and kind == "user" and not entry.get("isMeta"):
            first = next((part.body for part in parts if part.kind is PartKind.TEXT), None)
            self._title = one_line(first) if first and not first.startswith("<") else None
        yield from self._begin(entry)
        role = Role.ASSISTANT if kind == "assistant" else Role.USER
        if role is Role.USER and all(part.kind in (PartKind.TOOL_RESULT, PartKind.IMAGE) for part in parts):
            role = Role.TOOL if any(part.kind is PartKind.TOOL_RESULT for part in parts) else role
        yield Said(self._said(entry, data, offset, role, parts), blobs)

    def _said(
        self,
        entry: dict[str, Any],
        data: bytes,
        offset: int,
        role: Role,
        parts: list[MessagePart],
        content: str | None = None,
    ) -> ImportedMessage:
        message = as_dict(entry.get("message"))
        usage = as_dict(message.get("usage"))
        tokens = self._count(as_text(message.get("id")), tokens_of(usage.get("output_tokens")))
        uuid = as_text(entry.get("uuid"))
        parent = as_text(entry.get("parentUuid")) or as_text(entry.get("logicalParentUuid"))
        metadata = bounded_metadata(
            {
                "usage": usage,
                "request": entry.get("requestId"),
                "sidechain": entry.get("isSidechain") is True and self._agent is None,
                "meta": entry.get("isMeta") is True,
                "summary": entry.get("isCompactSummary") is True,
                "subtype": entry.get("subtype"),
                "stop_reason": message.get("stop_reason"),
            }
        )
        if [part.kind for part in parts] == [PartKind.TEXT]:
            content, parts = parts[0].body, []
        return ImportedMessage(
            source_id=line_id(self._source_id, data, offset)
            if uuid is None
            else identifier(f"{self._source_id}:{uuid}"),
            role=role,
            content=content,
            parts=parts,
            metadata=metadata,
            parent=None if parent is None else identifier(f"{self._source_id}:{parent}"),
            model=one_line(message.get("model")),
            tokens=tokens,
            created_at=time_ms(entry.get("timestamp")),
        )

    def _count(self, id_: str | None, tokens: int | None) -> int | None:
        """The tokens of a line: the usage of a message is repeated, and grows, in each of its lines."""
        if tokens is None or id_ is None:
            return tokens
        before = self._usage_tokens if self._usage == id_ else 0
        self._usage, self._usage_tokens = id_, max(before, tokens)
        return max(0, tokens - before)

    def _part(self, block: object) -> tuple[list[MessagePart], tuple[bytes, ...]]:
        redactor = self._redactor
        if isinstance(block, str):
            return [MessagePart(PartKind.TEXT, block)], ()
        if not isinstance(block, dict):
            return [MessagePart(PartKind.RAW, redactor.body(block))], ()
        kind = block.get("type")
        if kind == "text" and isinstance(block.get("text"), str):
            return ([MessagePart(PartKind.TEXT, block["text"])] if block["text"] else []), ()
        if kind == "thinking" and isinstance(block.get("thinking"), str):
            return ([MessagePart(PartKind.THINKING, block["thinking"])] if block["thinking"] else []), ()
        if kind == "tool_use":
            body = redactor.body(block.get("input"))
            return [MessagePart(PartKind.TOOL_USE, body, one_line(block.get("name")), one_line(block.get("id")))], ()
        if kind == "tool_result":
            return self._result(block)
        source = as_dict(block.get("source"))
        if kind in ("image", "document") and source.get("type") == "base64":
            part, blobs = image_part(source.get("media_type"), source.get("data"), block.get("title"))
            return [part], blobs
        return [MessagePart(PartKind.RAW, redactor.body(block))], ()

    def _result(self, block: dict[str, Any]) -> tuple[list[MessagePart], tuple[bytes, ...]]:
        content = block.get("content")
        call_id = one_line(block.get("tool_use_id"))
        name = "error" if block.get("is_error") is True else None
        texts: list[str] = []
        others: list[MessagePart] = []
        blobs: tuple[bytes, ...] = ()
        for inner in as_list(content) if not isinstance(content, str) else [content]:
            parts, data = self._part(inner)
            texts += [part.body for part in parts if part.kind is PartKind.TEXT and part.body]
            others += [part for part in parts if part.kind is not PartKind.TEXT]
            blobs += data
        body = "\n".join(texts) if texts or content is None or isinstance(content, (str, list)) else None
        if body is None:
            body = self._redactor.body(content)
        return [MessagePart(PartKind.TOOL_RESULT, body, call_id=call_id, name=name), *others], blobs
