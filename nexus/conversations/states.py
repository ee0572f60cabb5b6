"""The roles, the parts and the statuses of messages."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["TRANSITIONS", "MessageChange", "MessageStatus", "PartKind", "Role", "SourceFormat"]


class Role(WireEnum):
    """Who said it."""

    USER = "user"
    ASSISTANT = "assistant"
    SYSTEM = "system"
    TOOL = "tool"


class MessageStatus(WireEnum):
    """Whether a message is complete."""

    OPEN = "open"
    """A client is appending to it."""
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    """The client, or the daemon, ended before the message did; it has what was received."""


TRANSITIONS: dict[MessageStatus, frozenset[MessageStatus]] = {
    MessageStatus.OPEN: frozenset({MessageStatus.COMPLETE, MessageStatus.INCOMPLETE}),
    MessageStatus.COMPLETE: frozenset(),
    MessageStatus.INCOMPLETE: frozenset(),
}


class PartKind(WireEnum):
    """What a part of a message is."""

    TEXT = "text"
    THINKING = "thinking"
    TOOL_USE = "tool_use"
    """A call of a tool: ``tool``, ``call_id``, and the arguments as the body."""
    TOOL_RESULT = "tool_result"
    IMAGE = "image"
    FILE = "file"
    RAW = "raw"
    """What an importer does not know."""


class MessageChange(WireEnum):
    """What ended a revision of a message."""

    EDITED = "edited"
    DELETED = "deleted"


class SourceFormat(WireEnum):
    """What a source of conversations is written in."""

    AUTO = "auto"
    """Of a folder: what each of its files is written in."""
    NEXUS = "nexus"
    """The JSON Lines of an export."""
    CLAUDE_CODE = "claude-code"
    CODEX = "codex"
    GEMINI = "gemini"
    OPENCODE = "opencode"
    AIDER = "aider"
