"""The project's own JSON Lines, as ``nexusctl conversation export --format jsonl`` writes them.

Each line is a map with ``nexus``: ``conversation`` begins one, ``blob`` has the content of a blob in base64 and comes
before the first message that names it, ``message`` is a message.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from nexus.conversations.import_records import ImportedConversation, ImportedMessage
from nexus.conversations.importing.parsed import (
    MAX_BLOB_BYTES,
    Attached,
    Begun,
    Item,
    Said,
    Skipped,
    State,
    as_dict,
    as_text,
    bounded_metadata,
    line_id,
    raw_message,
)
from nexus.conversations.importing.redaction import Redactor
from nexus.records.fields import METADATA_BYTES, METADATA_DEPTH

__all__ = ["SOURCE", "VERSION", "NexusParser"]

SOURCE = "nexus"
VERSION = 1


class NexusParser:
    """Reads one file of the project's own."""

    def __init__(self, path: Path, redactor: Redactor, state: State) -> None:
        self._redactor = redactor
        self._stem = path.stem
        self._header: ImportedConversation | None = None
        stored = as_dict(state.get("conversation"))
        if stored:
            self._header = msgspec.convert(stored, ImportedConversation)
        self._told = False

    def position(self, offset: int) -> tuple[int, State]:
        """As ``LineParser``."""
        if self._header is None:
            return offset, {}
        header = msgspec.structs.replace(self._header, title=None, folder=None, metadata={})
        return offset, {"conversation": msgspec.to_builtins(header)}

    def raw(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        yield from self._begin()
        assert self._header is not None
        yield raw_message(line_id(self._header.source_id, data, offset), data, self._redactor)

    def end(self) -> Iterator[Item]:
        """As ``LineParser``."""
        return iter(())

    def line(self, data: bytes, offset: int) -> Iterator[Item]:
        """As ``LineParser``."""
        entry = msgspec.json.decode(data)
        kind = entry.pop("nexus", None) if isinstance(entry, dict) else None
        if kind == "conversation":
            entry.pop("version", None)
            header = _known_fields(entry, ImportedConversation)
            self._header = msgspec.structs.replace(header, source_id=self._redactor.identifier(header.source_id))
            self._told = True
            yield Begun(self._header, is_whole=True)
        elif kind == "blob":
            content = base64.b64decode(str(entry.get("data", "")))
            if not content or len(content) > MAX_BLOB_BYTES:
                yield Skipped("blob of more than 8 MiB, or empty")
            elif entry.get("hash") not in (None, hashlib.sha256(content).hexdigest()):
                yield Skipped("blob with another content than that of its hash")
            else:
                yield Attached(content)
        elif kind == "message":
            message = _known_fields(entry, ImportedMessage)
            yield from self._begin()
            yield Said(message)
        else:
            yield from self.raw(data, offset)

    def _begin(self) -> Iterator[Item]:
        if self._header is None:
            digest = hashlib.sha256(self._stem.encode("utf-8", "surrogateescape")).hexdigest()[:16]
            self._header = ImportedConversation(source=SOURCE, source_id=as_text(self._stem[:200]) or digest)
        if not self._told:
            self._told = True
            yield Begun(self._header)


def _known_fields(entry: dict[str, Any], kind: Any) -> Any:
    """A record of the fields that it has; a newer version may have written more.

    Raises:
        msgspec.ValidationError: one has a wrong value.
    """
    fields = {name: value for name, value in entry.items() if name in kind.__struct_fields__}
    metadata = fields.get("metadata")
    if isinstance(metadata, dict) and not _fits(metadata):
        fields["metadata"] = bounded_metadata(metadata)
    return msgspec.convert(fields, kind)


def _fits(metadata: dict[str, Any]) -> bool:
    return len(msgspec.msgpack.encode(metadata)) <= METADATA_BYTES and _depth(metadata) <= METADATA_DEPTH


def _depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)
