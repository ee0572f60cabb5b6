"""What metadata says that lists filter by: ``tags``, ``archived`` and ``pinned``."""

from __future__ import annotations

from typing import Any

__all__ = ["CLASSIFIED", "derived_fields", "merged_metadata"]

CLASSIFIED = ("tags", "archived", "pinned")
_MAX_TAGS = 64
_MAX_TAG = 64


def merged_metadata(command: Any, metadata: dict[str, Any]) -> dict[str, Any]:
    """Metadata with what the fields ``CLASSIFIED`` of a command set in it."""
    given = {name: value for name in CLASSIFIED if (value := getattr(command, name)) is not None}
    return {**metadata, **given}


def derived_fields(metadata: dict[str, Any]) -> dict[str, Any]:
    """The fields of a conversation that its metadata tells. What is of another type there tells nothing."""
    tags = metadata.get("tags")
    texts = [tag for tag in tags if isinstance(tag, str) and 0 < len(tag) <= _MAX_TAG] if isinstance(tags, list) else []
    return {
        "tags": list(dict.fromkeys(texts))[:_MAX_TAGS],
        "archived": metadata.get("archived") is True,
        "pinned": metadata.get("pinned") is True,
    }
