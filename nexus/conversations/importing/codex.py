"""Codex: a file of JSON Lines for each session, ``rollout-*.jsonl``.

Messages, reasoning and calls are told by lines ``response_item``; ``event_msg`` tells the first two once more. The
second telling of each is no message. A line has no id: its place in the file stands for it. What a message of the model
cost comes with a later line, so the last message is held back until the next one, or the end of the file.
"""

from __future__ import annotations

import hashlib
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

__all__ = ["SOURCE", "CodexParser"]

SOURCE = "codex"
_MAX_PENDING = 64
_ROLES = {"user": Role.USER, "assistant": Role.ASSISTANT, "system": Role.SYSTEM, "developer": Role.SYSTEM}
_NO_MESSAGES = frozenset({"turn_context", "ghost_snapshot", "compacted"})
_CALLS = frozenset({"function_call", "custom_tool_call", "local_shell_call", "web_search_call", "tool_search_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output", "local_shell_call_output"})
_TOLD = {"user_message": "user", "agent_message": "assistant", "agent_reasoning": "reasoning"}
_TOLD |= {"agent_reasoning_raw_content": "reasoning"}
_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")


class CodexParser:
    """Reads one file of Codex."""

    def __init__(self, path: Path, redactor: Redactor, state: State) -> None:
        named = _UUID.search(path.stem)
        self._redactor = redactor
        self._session = redactor.identifier(as_text(state.get("session")) or (named[0] if named else path.stem))
        self._model = as_text(state.get("model"))
        self._pending: dict[str, int] = {
            key: count for key, count in as_dict(state.get("told")).items() if isinstance(count, int)
        }
        """What one channel has told and the other has not: how often, by channel and a digest of the text."""
        self._known = bool(state)
        self._title: str | None = None
        self._header: ImportedConversation | None = None
        self._held: tuple[Said, int, State] | None = None
        """The last message, the offset of its line, and the state before it."""

    def position(self, offset: int) -> tuple[int, State]:
        """As ``LineParser``."""
        return (offset, self._state()) if self._held is None else (self._held[1], self._held[2])

    def _state(self) -> State:
        if not (self._known or self._header):
            return {}
        return {"session": self._session, "model": self._redactor.optional(self._model), "told": dict(self._pending)}

    def end(self) -> Iterator[Item]:
        """As ``LineParser``: the message that is held back is given, and stays held back."""
        if self._held is not None:
            yield self._held[0]

    def line(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        entry = msgspec.json.decode(data)
        if not isinstance(entry, dict):
            yield from self.raw(data, offset)
            return
        kind, payload, at = entry.get("type"), as_dict(entry.get("payload")), time_ms(entry.get("timestamp"))
        if kind == "session_meta":
            yield from self._meta(payload, at)
        elif kind == "turn_context":
            self._model = one_line(payload.get("model")) or self._model
            yield Skipped("no message: turn_context")
        elif kind == "event_msg":
            yield from self._event(payload, at, data, offset)
        elif kind == "response_item" or "payload" not in entry:
            item = payload if kind == "response_item" else entry  # the first versions had items without an envelope
            if kind != "response_item" and kind is None and as_text(entry.get("id")) and self._header is None:
                yield from self._meta(entry, at)
            else:
                yield from self._item(item, at, data, offset)
        elif kind in _NO_MESSAGES:
            yield Skipped(f"no message: {kind}")
        else:
            yield from self._release()
            yield from self._raw(data, offset, at)

    def _meta(self, payload: dict[str, Any], at: int | None) -> Iterator[Item]:
        if self._header is not None or self._known:
            yield Skipped("no message: a session_meta once more")  # of the session that this one was forked from
            return
        self._session = self._redactor.identifier(as_text(payload.get("id")) or self._session)
        git = as_dict(payload.get("git"))
        values = {
            "version": payload.get("cli_version"),
            "branch": git.get("branch"),
            "commit": git.get("commit_hash"),
            "originator": payload.get("originator"),
            "forked_from_source_id": payload.get("forked_from_id"),
        }
        self._header = ImportedConversation(
            source=SOURCE,
            source_id=identifier(self._session),
            folder=folder_of(payload.get("cwd")),
            tool=SOURCE,
            created_at=time_ms(payload.get("timestamp")) or at,
            metadata=bounded_metadata(values),
        )
        yield Begun(self._header)

    def _begin(self, at: int | None) -> Iterator[Item]:
        before = self._header
        if before is None:
            self._header = ImportedConversation(
                source=SOURCE, source_id=identifier(self._session), tool=SOURCE, created_at=at, title=self._title
            )
        elif self._title is not None and before.title is None:
            self._header = msgspec.structs.replace(before, title=self._title)
        if self._header is not before and self._header is not None:
            yield Begun(self._header)

    def raw(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        yield from self._release()
        yield from self._raw(data, offset, None)

    def _raw(self, data: bytes, offset: int, at: int | None) -> Iterator[Item]:
        yield from self._begin(at)
        yield raw_message(line_id(identifier(self._session), data, offset), data, self._redactor, at)

    def _release(self) -> Iterator[Item]:
        if self._held is not None:
            said = self._held[0]
            self._held = None
            yield said

    def _second(self, channel: str, kind: str, text: str) -> bool:
        """Whether the other channel has told this; else it is noted that this one has."""
        digest = hashlib.sha256(f"{kind}:{text.strip()}".encode("utf-8", "replace")).hexdigest()[:16]
        other = f"{'event' if channel == 'item' else 'item'}:{digest}"
        if count := self._pending.get(other, 0):
            self._pending.pop(other)
            if count > 1:
                self._pending[other] = count - 1
            return True
        own = f"{channel}:{digest}"
        self._pending[own] = self._pending.pop(own, 0) + 1
        while len(self._pending) > _MAX_PENDING:
            self._pending.pop(next(iter(self._pending)))
        return False

    # Events

    def _event(self, payload: dict[str, Any], at: int | None, data: bytes, offset: int) -> Iterator[Item]:
        kind = as_text(payload.get("type")) or "event"
        if kind == "token_count":
            yield from self._tokens(as_dict(payload.get("info")))
            return
        told = _TOLD.get(kind)
        text = as_text(payload.get("message")) or as_text(payload.get("text"))
        if told is None or text is None:
            yield Skipped(f"no message: event {one_line(kind, 48)}")
            return
        before = self._state()
        if self._second("event", told, text):
            yield Skipped("told twice")
            return
        role = Role.USER if told == "user" else Role.ASSISTANT
        part = MessagePart(PartKind.THINKING if told == "reasoning" else PartKind.TEXT, text)
        yield from self._hold(role, [part], (), at, data, offset, before)

    def _tokens(self, info: dict[str, Any]) -> Iterator[Item]:
        usage = as_dict(info.get("last_token_usage"))
        tokens = tokens_of(usage.get("output_tokens"))
        if tokens is None or self._held is None or self._held[0].message.role is not Role.ASSISTANT:
            yield Skipped("no message: token_count")
            return
        said, offset, state = self._held
        metadata = bounded_metadata({**said.message.metadata, "usage": usage})
        message = msgspec.structs.replace(said.message, tokens=tokens, metadata=metadata)
        self._held = said._replace(message=message), offset, state

    # Items

    def _item(self, item: dict[str, Any], at: int | None, data: bytes, offset: int) -> Iterator[Item]:
        kind = item.get("type")
        before = self._state()
        if kind == "message":
            yield from self._message(item, at, data, offset, before)
        elif kind == "reasoning":
            texts = [as_text(as_dict(each).get("text")) for each in as_list(item.get("summary"))]
            texts += [as_text(as_dict(each).get("text")) for each in as_list(item.get("content"))]
            new = [text for text in texts if text and not self._second("item", "reasoning", text)]
            if new:
                parts = [MessagePart(PartKind.THINKING, text) for text in new]
                yield from self._hold(Role.ASSISTANT, parts, (), at, data, offset, before)
            else:
                yield Skipped("told twice" if any(texts) else "reasoning without text")
        elif kind in _CALLS:
            yield from self._hold(Role.ASSISTANT, [self._call(item)], (), at, data, offset, before)
        elif kind in _OUTPUTS:
            parts, blobs = self._output(item)
            yield from self._hold(Role.TOOL, parts, blobs, at, data, offset, before)
        elif kind in _NO_MESSAGES:
            yield Skipped(f"no message: {kind}")
        else:
            yield from self._release()
            yield from self._raw(data, offset, at)

    def _message(self, item: dict[str, Any], at: int | None, data: bytes, offset: int, before: State) -> Iterator[Item]:
        role = _ROLES.get(str(item.get("role")), Role.SYSTEM)
        content = item.get("content")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else as_list(content)
        parts, blobs = self._blocks(blocks)
        text = "\n".join(part.body for part in parts if part.kind is PartKind.TEXT and part.body)
        if not parts:
            yield Skipped("empty message")
            return
        if text and self._second("item", role.value, text):
            yield Skipped("told twice")
            return
        if role is Role.USER and self._title is None and not self._known and text and not text.startswith(("<", "#")):
            self._title = one_line(text)
        yield from self._hold(role, parts, blobs, at, data, offset, before)

    def _blocks(self, blocks: list[Any]) -> tuple[list[MessagePart], tuple[bytes, ...]]:
        parts: list[MessagePart] = []
        blobs: tuple[bytes, ...] = ()
        for block in map(as_dict, blocks):
            text, url = block.get("text"), as_text(block.get("image_url"))
            found = None if url is None else _DATA.match(url)
            if isinstance(text, str):
                parts += [MessagePart(PartKind.TEXT, text)] if text else []
            elif found is not None and url is not None:
                part, data = image_part(found[1], url[found.end() :])
                parts.append(part)
                blobs += data
            elif block:
                parts.append(MessagePart(PartKind.RAW, self._redactor.body(block)))
        return parts, blobs

    def _call(self, item: dict[str, Any]) -> MessagePart:
        kind = str(item.get("type"))
        arguments = next((item[name] for name in ("arguments", "input", "action") if name in item), None)
        if isinstance(arguments, str):  # JSON within a text: secrets are found behind its escapes
            try:
                arguments = msgspec.json.decode(arguments)
            except (msgspec.DecodeError, ValueError, RecursionError):
                pass
        name = one_line(item.get("name")) or kind.removesuffix("_call")
        return MessagePart(PartKind.TOOL_USE, self._redactor.body(arguments), name, one_line(item.get("call_id")))

    def _output(self, item: dict[str, Any]) -> tuple[list[MessagePart], tuple[bytes, ...]]:
        output: Any = item.get("output")
        others: list[MessagePart] = []
        blobs: tuple[bytes, ...] = ()
        if isinstance(output, str) and output.startswith("{"):
            try:
                inner = as_dict(msgspec.json.decode(output))
                output = inner["output"] if isinstance(inner.get("output"), str) else output
            except (msgspec.DecodeError, ValueError, RecursionError):
                pass
        elif isinstance(output, dict) and "content" in output:
            output = output["content"]
        if isinstance(output, list):
            parts, blobs = self._blocks(output)
            others = [part for part in parts if part.kind is not PartKind.TEXT]
            output = "\n".join(part.body for part in parts if part.kind is PartKind.TEXT and part.body)
        result = MessagePart(
            PartKind.TOOL_RESULT, self._redactor.body(output or ""), call_id=one_line(item.get("call_id"))
        )
        return [result, *others], blobs

    def _hold(
        self,
        role: Role,
        parts: list[MessagePart],
        blobs: tuple[bytes, ...],
        at: int | None,
        data: bytes,
        offset: int,
        before: State,
    ) -> Iterator[Item]:
        yield from self._release()
        yield from self._begin(at)
        content = None
        if [part.kind for part in parts] == [PartKind.TEXT]:
            content, parts = parts[0].body, []
        message = ImportedMessage(
            source_id=line_id(identifier(self._session), data, offset),
            role=role,
            content=content,
            parts=parts,
            model=self._model if role is Role.ASSISTANT else None,
            created_at=at,
        )
        self._held = Said(message, blobs), offset, before or self._state()
