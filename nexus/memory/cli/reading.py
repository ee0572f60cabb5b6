"""Reads vectors from a file or from standard input: JSON, a list of numbers, or a map of such lists."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

__all__ = ["read_vector", "read_vectors", "vector_option"]

_MOST_BYTES = 1024 * 1024
_COLLECTIONS = ("episodes", "chunks")


def vector_option(*, required: bool, text: str) -> click.Option:
    """The option ``--vector FILE``."""
    return click.Option(["--vector"], metavar="FILE", required=required, help=text)


def read_vector(path: str) -> list[float]:
    """The vector in a file; ``-`` is standard input."""
    return _numbers(_read(path), path)


def read_vectors(path: str, wanted: list[str]) -> dict[str, list[float]]:
    """The vectors in a file, by collection. A list is for the one collection that is searched."""
    found = _read(path)
    if isinstance(found, dict):
        unknown = [str(name) for name in found if name not in _COLLECTIONS]
        if unknown:
            raise click.UsageError(f"{_called(path)} has a vector for {unknown[0]}; give episodes, chunks or both")
        return {name: _numbers(each, path) for name, each in found.items()}
    if len(wanted) != 1:
        raise click.UsageError(
            "say what the vector is for: --in episodes or --in chunks; or give a map with both: "
            '{"episodes": [...], "chunks": [...]}'
        )
    return {wanted[0]: _numbers(found, path)}


def _read(path: str) -> Any:
    try:
        if path == "-":
            data = sys.stdin.buffer.read(_MOST_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        raise click.UsageError(f"cannot read {_called(path)}: {error.strerror or error}") from None
    if len(data) > _MOST_BYTES:
        raise click.UsageError(f"{_called(path)} has more than {_MOST_BYTES} bytes, which is no vector")
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise click.UsageError(f"{_called(path)} is not JSON") from None


def _numbers(found: Any, path: str) -> list[float]:
    if not isinstance(found, list) or any(type(each) not in (int, float) for each in found):
        raise click.UsageError(f"{_called(path)} has no list of numbers")
    try:
        return [float(each) for each in found]
    except OverflowError:
        raise click.UsageError(f"{_called(path)} has a number that is too large") from None


def _called(path: str) -> str:
    return "standard input" if path == "-" else path
