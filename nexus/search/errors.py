"""The domain errors of the search."""

from __future__ import annotations

from nexus_protocol.errors import DeadlineExceeded, NotFound

__all__ = ["SearchFilterNotFound", "SearchTimedOut"]


class SearchFilterNotFound(NotFound):
    """No conversation is the one that a filter names."""

    type = "search.filter_not_found"


class SearchTimedOut(DeadlineExceeded):
    """The search took longer than two seconds."""

    type = "search.timed_out"
