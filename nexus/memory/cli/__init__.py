"""The nouns of the memory on the command line; each is imported when it is used."""

from __future__ import annotations

import importlib
from typing import Any

__all__: list[str] = []

_MODULES = {
    "continue_point": "continue_points",
    "episode": "episodes",
    "memory": "recall",
    "vectors": "embeddings",
    "chunk": "chunks",
}


def __getattr__(noun: str) -> Any:
    if noun not in _MODULES:
        raise AttributeError(noun)
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[noun]}"), noun)
