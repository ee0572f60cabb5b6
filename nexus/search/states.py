"""The kinds of what the search finds, and the orders of what it found."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["SearchKind", "SearchOrder"]


class SearchKind(WireEnum):
    """What a hit is."""

    CONVERSATION = "conversation"
    """Its title."""
    MESSAGE = "message"
    """The text that a person reads."""
    TOOL = "tool"
    """A tool call of a message, or its result."""
    THINKING = "thinking"
    JOB = "job"
    """Its label, its command line, its reason, and the end of its output."""
    SERVICE = "service"
    """Its name and the reason of its state."""
    VM = "vm"
    """Its name."""
    FEATURE = "feature"
    """Its name and its description."""
    TASK = "task"
    """Its name and its description."""
    REQUIREMENT = "requirement"
    """Its description, its source, its user stories and its acceptance criteria."""
    EPISODE = "episode"
    """Its summary and its content."""
    CHUNK = "chunk"
    """A part of a file: its text, its symbols and the path of the file."""


class SearchOrder(WireEnum):
    """How hits are sorted."""

    RANK = "rank"
    """The best first."""
    TIME = "time"
    """The newest first."""
