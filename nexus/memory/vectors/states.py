"""The enums of vectors."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["Collection", "MatrixState"]


class Collection(WireEnum):
    """What embeddings are of."""

    EPISODES = "episodes"
    CHUNKS = "chunks"


class MatrixState(WireEnum):
    """Whether the file that is searched has what the rows have. The next search brings it up to them."""

    MISSING = "missing"
    BEHIND = "behind"
    CURRENT = "current"
