"""The records of the search: its hits, and the state of its index."""

from __future__ import annotations

from typing import Annotated

from nexus_protocol.command import UNRECORDED, Record

from nexus.search.states import SearchKind

__all__ = ["Hit", "SearchIndexState", "SearchResult"]


class Hit(Record, kw_only=True):
    """What was found."""

    kind: SearchKind
    id: str
    """Of the record; of a tool call the id of its message."""
    project_id: str
    project: str
    """The name of its project."""
    name: str
    """How a reference names it in its project: ``3:12`` is message 12 of conversation 3."""
    title: str | None = None
    """Of the conversation, or the label of the job; of a tool call the tool."""
    role: str | None = None
    """Who said the message."""
    created_at: int
    snippet: Annotated[str, UNRECORDED]
    """The text around the first match, on one line."""
    highlights: list[list[int]]
    """Where matches begin and end in the snippet, in characters."""
    open: str
    """The command line that shows it."""


class SearchResult(Record):
    """What a search found, in its order."""

    hits: list[Hit]
    more: bool = False
    """Whether there are more than were asked for."""
    behind: str | None = None
    """Why the index does not have all texts at present: a clause. Absent where it has."""


class SearchIndexState(Record):
    """An index after its rebuild."""

    docs: int
    """The texts in it."""
