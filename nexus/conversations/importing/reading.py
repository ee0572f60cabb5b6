"""Reads one source from where it was left, and gives what it says in batches that a request can carry.

Everything is redacted here before it leaves. A line that is not understood never ends the reading.
"""

from __future__ import annotations

import errno
import hashlib
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.aider import AiderParser
from nexus.conversations.importing.claude_code import ClaudeCodeParser
from nexus.conversations.importing.codex import CodexParser
from nexus.conversations.importing.gemini import parse_document
from nexus.conversations.importing.lines import Line, read_lines
from nexus.conversations.importing.nexus_lines import NexusParser
from nexus.conversations.importing.opencode_store import Unreadable, parse_database
from nexus.conversations.importing.parsed import Attached, Begun, Item, LineParser, Said, Skipped, State, one_line
from nexus.conversations.importing.redaction import Redactor
from nexus.conversations.records import MESSAGE_BYTES, MessagePart
from nexus.conversations.states import PartKind, SourceFormat

__all__ = [
    "INDEXED_CHARACTERS",
    "KEPT",
    "NO_FILE",
    "Identity",
    "MessageBatch",
    "Start",
    "Unreadable",
    "fitted",
    "identity_of",
    "read_source",
    "start_from",
]

NO_FILE = "it is no plain file"
_RAW = "line that is not understood, kept as raw"
_NO_UTF8 = "bytes that are no UTF-8, replaced"
_CUT = "message of more than 4 MiB, cut"
KEPT = frozenset({_RAW, _NO_UTF8, _CUT})
"""The reasons of lines that are imported, and not as they are."""
INDEXED_CHARACTERS = 64 * 1024
"""What the search index has of one text: ``nexus.store.splitting`` says so too, which no client loads."""
MAX_MESSAGES = 200
"""Messages of one batch."""
_BATCH_BYTES = 512 * 1024
_BATCH_INDEXED = 160 * 1024
"""Characters of one batch that the search index takes, or little more: a batch is one write, of about 30 ms."""
_HEAD_BYTES = 1024
_DOCUMENT_BYTES = 128 * 1024 * 1024
_MAX_PARTS = 9_999
_MAX_REASONS = 100
_PARSERS: dict[SourceFormat, Callable[[Path, Redactor, State], LineParser]] = {
    SourceFormat.NEXUS: NexusParser,
    SourceFormat.CLAUDE_CODE: ClaudeCodeParser,
    SourceFormat.CODEX: CodexParser,
    SourceFormat.AIDER: AiderParser,
}


class Identity(NamedTuple):
    """What a file is at present."""

    inode: int
    size_bytes: int
    stamp: str
    """Differs once it was written, also where it keeps its size."""


class Start(NamedTuple):
    """Where a reading begins."""

    offset: int = 0
    state: State | None = None
    skipped: Mapping[str, int] | None = None
    head: str | None = None


class MessageBatch(NamedTuple):
    """Messages of one conversation, and from where to go on once they are imported."""

    conversation: ImportedConversation | None
    messages: list[ImportedMessage]
    blobs: list[bytes]
    """To be stored before the messages."""
    offset: int
    state: State
    skipped: dict[str, int]
    """How many lines were not imported, by reason, since the beginning of the file."""
    waits: bool = False
    """Whether the file ends within a line, which is not read yet."""


def identity_of(path: Path) -> Identity:
    """What the file is at present; of a database, with the log beside it.

    Raises:
        OSError: it cannot be looked at, or is no plain file: to open a pipe or a device might never end.
    """
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, NO_FILE)
    stamp = f"{found.st_mtime_ns}.{found.st_size}"
    try:
        log = path.with_name(path.name + "-wal").stat()
        if log.st_size:  # a reader leaves an empty one
            stamp += f".{log.st_mtime_ns}.{log.st_size}"
    except OSError:
        pass
    return Identity(found.st_ino, found.st_size, stamp)


def _head(path: Path, length: int = _HEAD_BYTES) -> str:
    """The length and the hash of the beginning of a file."""
    with open(path, "rb") as file:
        head = file.read(length)
    return f"{len(head)}:{hashlib.sha256(head).hexdigest()}"


def start_from(path: Path, inode: int | None, head: str | None, before: Start) -> Start:
    """Where to begin: where the last reading ended, if it is the same file and has not become shorter.

    Raises:
        OSError: it cannot be read.
    """
    length, _, _hash = (head or "0:").partition(":")
    same = head is not None and length.isdigit() and _head(path, int(length)) == head
    present = identity_of(path)
    if not same or inode != present.inode or present.size_bytes < before.offset:
        return Start(head=_head(path))
    return before._replace(head=head if int(length) >= _HEAD_BYTES else _head(path))


def read_source(path: Path, format_: SourceFormat, redactor: Redactor, start: Start) -> Iterator[MessageBatch]:
    """Everything from there on, in batches; each says from where to go on after it.

    Raises:
        OSError: the file cannot be read.
        Unreadable: it is not of this format.
    """
    gathering = _Gathering(redactor, start)
    if format_ is SourceFormat.GEMINI:
        yield from _read_document(path, gathering)
    elif format_ is SourceFormat.OPENCODE:
        yield from _read_database(path, gathering)
    else:
        parser = _PARSERS[format_](path, redactor, dict(start.state or {}))
        yield from _read_lines(path, parser, gathering, start.offset)


def _read_document(path: Path, gathering: _Gathering) -> Iterator[MessageBatch]:
    present = identity_of(path)
    if gathering.state.get("stamp") == present.stamp:
        return
    if present.size_bytes > _DOCUMENT_BYTES:
        raise Unreadable(f"it is larger than {_DOCUMENT_BYTES // 1024 // 1024} MiB")
    data = path.read_bytes()
    try:
        document = msgspec.json.decode(data.decode("utf-8", "replace"))
    except (msgspec.DecodeError, ValueError, RecursionError):
        raise Unreadable("it is no complete JSON document") from None
    gathering.skipped.clear()
    for item in parse_document(document, path, gathering.redactor):
        yield from gathering.take(item)
    yield gathering.batch(present.size_bytes, {"stamp": present.stamp})


def _read_database(path: Path, gathering: _Gathering) -> Iterator[MessageBatch]:
    present = identity_of(path)
    if gathering.state.get("stamp") == present.stamp:
        return
    since = gathering.state.get("since")
    latest = 0
    for item in parse_database(path, gathering.redactor, since if isinstance(since, int) else 0):
        if isinstance(item, int):
            latest = item
        else:
            yield from gathering.take(item)
    yield gathering.batch(present.size_bytes, {"stamp": present.stamp, "since": latest})


def _read_lines(path: Path, parser: LineParser, gathering: _Gathering, offset: int) -> Iterator[MessageBatch]:
    waits = False
    gathering.offset, gathering.state = parser.position(offset)
    with open(path, "rb") as file:
        for line in read_lines(file, offset):
            if not line.is_whole and not _is_complete(line, parser):
                waits = True
                break
            offset = line.end
            if line.is_too_long:
                gathering.skip("line longer than 32 MiB")
                continue
            data = line.data.rstrip(b"\r")
            if data.strip() or isinstance(parser, AiderParser):
                for item in _items(parser, data, line.offset, gathering):
                    # Before the position is that of this line: a batch in between repeats the line.
                    yield from gathering.take(item)
            gathering.offset, gathering.state = parser.position(offset)
    for item in parser.end():
        yield from gathering.take(item)
    yield gathering.batch(*parser.position(offset), waits=waits)


def _is_complete(line: Line, parser: LineParser) -> bool:
    """Whether a line without an end is all of it: a JSON object that is closed cannot go on."""
    if isinstance(parser, AiderParser) or not line.data.rstrip().endswith(b"}"):
        return False
    try:
        return isinstance(msgspec.json.decode(line.data), dict)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False


def _items(parser: LineParser, data: bytes, offset: int, gathering: _Gathering) -> list[Item]:
    try:
        return list(parser.line(data, offset))
    except Exception:  # whatever a line holds, the others are read
        pass
    text = data.decode("utf-8", "replace").encode()
    if text != data:
        gathering.skip(_NO_UTF8)
        try:
            return list(parser.line(text, offset))
        except Exception:
            pass
    gathering.skip(_RAW)
    return list(parser.raw(data, offset))


class _Gathering:
    """The messages of the next batch."""

    def __init__(self, redactor: Redactor, start: Start) -> None:
        self.redactor = redactor
        self.offset = start.offset
        self.state = dict(start.state or {})
        self.skipped: Counter[str] = Counter(start.skipped or {})
        self._conversation: ImportedConversation | None = None
        self._is_whole = False
        """Whether the conversation is to be sent also without messages."""
        self._messages: list[ImportedMessage] = []
        self._blobs: list[bytes] = []
        self._size = self._indexed = 0

    def skip(self, reason: str) -> None:
        """Count a line that is not imported, or not as it was."""
        reason = one_line(self.redactor.text(reason), 80) or "?"
        if reason not in self.skipped and len(self.skipped) >= _MAX_REASONS:
            reason = "other reasons"
        self.skipped[reason] += 1

    def take(self, item: Item) -> Iterator[MessageBatch]:
        """Take an item; gives the batch before it, once that is full or of another conversation."""
        if isinstance(item, Skipped):
            self.skip(item.reason)
        elif isinstance(item, Attached):
            self._blobs.append(item.blob)
            self._size += len(item.blob)
        elif isinstance(item, Begun):
            conversation = _clean_conversation(item.conversation, self.redactor)
            present = self._conversation
            if present is not None and present.source_id != conversation.source_id and self._has_any:
                yield self.batch(self.offset, self.state)
            self._conversation = conversation
            self._is_whole = self._is_whole or item.is_whole
        else:
            if item.message.content is None and not item.message.parts:
                item = item._replace(message=msgspec.structs.replace(item.message, content=""))
            message, blobs, cut = _clean_message(item, self.redactor)
            if cut:
                self.skip(_CUT)
            size = _size(message) + sum(map(len, blobs))
            taken = sum(min([len(text), INDEXED_CHARACTERS]) for text in _texts(message))
            if self._messages and (len(self._messages) >= MAX_MESSAGES or self._is_beyond(size, taken)):
                yield self.batch(self.offset, self.state)
            self._messages.append(message)
            self._blobs += blobs
            self._size += size
            self._indexed += taken

    @property
    def _has_any(self) -> bool:
        return bool(self._messages) or self._is_whole

    def _is_beyond(self, size: int, indexed: int) -> bool:
        return self._size + size > _BATCH_BYTES or self._indexed + indexed > _BATCH_INDEXED

    def batch(self, offset: int, state: State, *, waits: bool = False) -> MessageBatch:
        """What was gathered."""
        found = MessageBatch(
            self._conversation if self._has_any else None,
            self._messages,
            self._blobs,
            offset,
            _clean_state(state, self.redactor),
            dict(self.skipped),
            waits,
        )
        self._messages, self._blobs, self._size, self._indexed, self._is_whole = [], [], 0, 0, False
        return found


# What leaves


def _clean_state(value: Any, redactor: Redactor) -> Any:
    """The state of a parser, in which a text is an identifier or a digest."""
    if not redactor.active:
        return value
    if isinstance(value, dict):
        return {key: _clean_state(inner, redactor) for key, inner in value.items()}
    return redactor.identifier(value) if isinstance(value, str) else value


def _clean_conversation(conversation: ImportedConversation, redactor: Redactor) -> ImportedConversation:
    if not redactor.active:
        return conversation
    return msgspec.structs.replace(
        conversation,
        source_id=redactor.identifier(conversation.source_id),
        title=one_line(redactor.optional(conversation.title), 1000),
        folder=redactor.optional(conversation.folder),
        tool=redactor.optional(conversation.tool),
        metadata=redactor.value(conversation.metadata),
    )


def _clean_message(said: Said, redactor: Redactor) -> tuple[ImportedMessage, list[bytes], bool]:
    """The message without secrets, its blobs, and whether it had to be cut."""
    message, blobs = said.message, list(said.blobs)
    if redactor.active:
        renamed: dict[str, str] = {}
        kinds = {part.blob: part.media_type for part in message.parts if part.blob}
        for index, blob in enumerate(blobs):
            hash_ = hashlib.sha256(blob).hexdigest()
            clean = redactor.blob(blob, kinds.get(hash_))
            if clean is not blob:
                blobs[index] = clean
                renamed[hash_] = hashlib.sha256(clean).hexdigest()
        message = msgspec.structs.replace(
            message,
            source_id=redactor.identifier(message.source_id),
            content=redactor.optional(message.content),
            parts=[_clean_part(part, redactor, renamed) for part in message.parts],
            metadata=redactor.value(message.metadata),
            parent=None if message.parent is None else redactor.identifier(message.parent),
            model=redactor.optional(message.model),
        )
    fitting = fitted(message)
    return fitting, blobs, fitting is not message


def _clean_part(part: MessagePart, redactor: Redactor, renamed: Mapping[str, str]) -> MessagePart:
    return MessagePart(
        part.kind,
        redactor.optional(part.body),
        redactor.optional(part.tool),
        redactor.optional(part.call_id),
        redactor.optional(part.name),
        redactor.optional(part.media_type),
        None if part.blob is None else renamed.get(part.blob, part.blob),
    )


def _size(message: ImportedMessage) -> int:
    return sum(map(len, _texts(message))) + 200


def _texts(message: ImportedMessage) -> list[str]:
    return [text for text in (message.content, *(part.body for part in message.parts)) if text]


def _bytes(texts: Iterable[str | None]) -> int:
    return sum(len(text.encode()) for text in texts if text)


def fitted(message: ImportedMessage) -> ImportedMessage:
    """The message within 4 MiB: the longest of its texts are cut, and say so. A message that fits is returned."""
    if len(message.parts) > _MAX_PARTS:
        more = len(message.parts) - _MAX_PARTS
        note = MessagePart(PartKind.RAW, f"[cut: {more} parts more]")
        message = msgspec.structs.replace(message, parts=[*message.parts[:_MAX_PARTS], note])
    if 4 * _size(message) <= MESSAGE_BYTES:
        return message
    excess = _bytes([message.content, *(part.body for part in message.parts)]) - MESSAGE_BYTES
    if excess <= 0:
        return message
    texts: list[tuple[int, int]] = [(len((message.content or "").encode()), -1)]
    texts += [(len((part.body or "").encode()), index) for index, part in enumerate(message.parts)]
    cut: dict[int, int] = {}
    for size, index in sorted(texts, reverse=True):
        if excess <= 0:
            break
        kept = max(0, size - excess - 100)
        cut[index] = kept
        excess -= size - kept - 100
    content = _cut(message.content, cut[-1]) if -1 in cut else message.content
    parts = [
        msgspec.structs.replace(part, body=_cut(part.body, cut[index])) if index in cut else part
        for index, part in enumerate(message.parts)
    ]
    return msgspec.structs.replace(message, content=content, parts=parts)


def _cut(text: str | None, kept: int) -> str:
    data = (text or "").encode()
    return data[:kept].decode("utf-8", "ignore") + f"\n[cut: {len(data) - kept} bytes more]"
