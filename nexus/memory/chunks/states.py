"""The types of chunks, and how symbols are found."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["ChunkType", "SymbolMatch"]


class ChunkType(WireEnum):
    """What a chunk is a part of."""

    FUNCTION = "function"
    CLASS = "class"
    METHOD = "method"
    MODULE = "module"
    INTERFACE = "interface"
    TYPE = "type"
    COMMENT = "comment"
    OTHER = "other"


class SymbolMatch(WireEnum):
    """How a symbol matches, the best first."""

    EXACT = "exact"
    SUFFIX = "suffix"
    """The query is all that follows a dot: ``start`` of ``Daemon.start``."""
    PREFIX = "prefix"
    """The symbol, or what follows one of its dots, begins with the query."""
    SUBSTRING = "substring"
