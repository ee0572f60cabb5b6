"""The enums of vectors."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["MAX_DIMENSION", "TABLES", "VALUE_BYTES", "Collection", "MatrixState"]

MAX_DIMENSION = 8192
VALUE_BYTES = 4
"""Of a float32."""


class Collection(WireEnum):
    """What embeddings are of."""

    EPISODES = "episodes"
    CHUNKS = "chunks"


TABLES = {Collection.EPISODES.value: "episodes", Collection.CHUNKS.value: "code_chunks"}
"""The table of each collection."""


class MatrixState(WireEnum):
    """Whether the file that is searched has what the rows have. The next search brings it up to them."""

    MISSING = "missing"
    BEHIND = "behind"
    CURRENT = "current"
