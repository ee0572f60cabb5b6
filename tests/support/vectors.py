"""The protocol's vectors, as ``protocol/vectors/README.md`` describes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

__all__ = ["PROTOCOL", "BadVector", "GoodVector", "bad_vectors", "good_vectors"]

PROTOCOL = Path(__file__).resolve().parents[2] / "protocol"
"""The folder ``protocol``."""


class GoodVector(NamedTuple):
    """One entry of good.json: a frame and its values."""

    name: str
    sender: str
    kind: str
    command: str | None
    code: int
    sequence: int
    payload: dict[str, Any]
    frame: bytes
    context: dict[str, Any] | None
    """The context of a request; None without the flag."""


class BadVector(NamedTuple):
    """One entry of bad.json: data from a client, and the daemon's reaction."""

    name: str
    data: bytes
    error: dict[str, Any] | None
    closed: bool


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"$bin"}:
            return bytes.fromhex(value["$bin"])
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return value


def _load(name: str) -> list[dict[str, Any]]:
    vectors: list[dict[str, Any]] = json.loads((PROTOCOL / "vectors" / name).read_text(encoding="utf-8"))
    return vectors


def good_vectors() -> list[GoodVector]:
    """Read every vector of good.json."""
    return [
        GoodVector(
            v["name"],
            v["from"],
            v["kind"],
            v.get("command"),
            v["code"],
            v["sequence"],
            _plain(v["payload"]),
            bytes.fromhex(v["hex"]),
            v.get("context"),
        )
        for v in _load("good.json")
    ]


def bad_vectors() -> list[BadVector]:
    """Read every vector of bad.json."""
    return [
        BadVector(v["name"], bytes.fromhex(v["hex"]), v["error"], v["connection"] == "closed")
        for v in _load("bad.json")
    ]
