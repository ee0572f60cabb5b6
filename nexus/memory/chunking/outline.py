"""What a chunk is, and what the reader of a language tells of a text: definitions, names, decisions, with their lines.

Lines are numbered from 1, as editors do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

__all__ = ["Chunk", "ChunkType", "Definition", "Outline", "indent_of", "start_with_comments"]

ChunkType = Literal["function", "class", "method", "module", "interface", "type", "comment", "other"]


class Chunk(NamedTuple):
    """A part of a file."""

    file: str
    """The path relative to the root."""
    start_line: int
    """From 1."""
    end_line: int
    """The last line of it."""
    content: str
    """At most 200 lines and 16 KiB of UTF-8, without the newline at its end."""
    symbols: tuple[str, ...]
    """The name of what it belongs to (``Class.method``), and the names in it, at most 64."""
    chunk_type: ChunkType
    language: str
    complexity: int | None
    """1 and the number of decisions in its lines; None where no code is."""
    hash: str
    """SHA-256 of all above but file and lines, in hex."""


class Definition(NamedTuple):
    """A part of a text that has a name. Two are apart, or one lies in the other."""

    start: int
    end: int
    type: ChunkType
    symbol: str


class Outline(NamedTuple):
    """What is known of a text."""

    definitions: list[Definition]
    """In any order."""
    names: list[tuple[int, str]]
    """The line and the symbol of what has no chunk of its own: constants, attributes, inner functions."""
    decisions: list[int]
    """The line of each point at which the code branches."""


def indent_of(line: str) -> int:
    """The width of the blanks that a line begins with; a tab ends at a multiple of 8."""
    blanks = line[: len(line) - len(line.lstrip(" \t"))]
    return len(blanks.expandtabs(8) if "\t" in blanks else blanks)


def start_with_comments(lines: Sequence[str], start: int, floor: int, marks: tuple[str, ...]) -> int:
    """Where the comments begin that stand directly above line ``start``, with its indent, below line ``floor``."""
    indent = indent_of(lines[start - 1])
    while start - 1 > floor:
        above = lines[start - 2]
        if not above.lstrip(" \t").startswith(marks) or indent_of(above) not in (indent, indent + 1):
            break
        start -= 1
    return start
