"""Cuts a text into chunks: each is a run of whole lines of one definition, or of what lies between definitions.

Each line that has a letter or a digit is in exactly one chunk, unless it is longer than a chunk may be: then it is
several. Where a run is too long, the place of the cut is chosen by what stands there, so that an edit moves few cuts.
"""

from __future__ import annotations

import json
import re
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from hashlib import sha256

from nexus.memory.chunking.code import read_code, read_markdown
from nexus.memory.chunking.languages import language_of, rules_of
from nexus.memory.chunking.outline import Chunk, ChunkType, Definition, Outline, indent_of
from nexus.memory.chunking.python import read_python

__all__ = ["MAX_CHUNK_BYTES", "MAX_CHUNK_LINES", "MAX_FILE_CHUNKS", "MAX_SYMBOLS", "chunk_text"]

MAX_CHUNK_LINES = 200
MAX_CHUNK_BYTES = 16 * 1024
MAX_SYMBOLS = 64
MAX_FILE_CHUNKS = 2000
"""A text with more is cut by length alone."""

_SCHEME = "1"
"""Part of each hash. Another one makes every chunk anew."""
_MAX_SYMBOL = 200
_PARAGRAPH_LINES = 8
_PARAGRAPHS_LINES = 40
_WORD = re.compile(r"\w")


def chunk_text(file: str, text: str) -> list[Chunk]:
    """The chunks of a text, by line. Its lines end with newlines; the ending of ``file`` tells its language."""
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    if not lines:
        return []
    language = language_of(file, lines[0])
    rules = rules_of(language)
    outline = read_python(text, lines) if language == "python" else None
    if outline is None and rules is not None:
        outline = read_code(lines, rules)
    if language == "markdown":
        outline = read_markdown(lines)
    is_code = rules is not None
    comments = rules.comments if rules is not None else ()
    sized = _Sizes(lines)
    maker = _Maker(file, language, lines, outline or Outline([], [], []), comments if is_code else None)
    chunks: list[Chunk] = []
    for start, end, owner in _runs(lines, maker.definitions):
        parts = [(start, end)] if is_code or owner is not None else _paragraphs(lines, start, end)
        for first, last in parts:
            for piece in sized.bounded(first, last):
                chunks += maker.chunks(*piece, owner)
        if len(chunks) > MAX_FILE_CHUNKS:
            return [chunk for piece in sized.bounded(1, len(lines)) for chunk in maker.chunks(*piece, None)]
    return chunks


class _Maker:
    """Makes the chunks of one text from ranges of its lines."""

    def __init__(
        self, file: str, language: str, lines: Sequence[str], outline: Outline, comments: tuple[str, ...] | None
    ) -> None:
        self.definitions = sorted(outline.definitions, key=lambda one: (one.start, -one.end))
        self._file = file
        self._language = language
        self._lines = lines
        self._comments = comments
        self._names = sorted(outline.names)
        self._name_lines = [line for line, _ in self._names]
        self._decisions = sorted(outline.decisions)

    def chunks(self, start: int, end: int, owner: Definition | None) -> Iterator[Chunk]:
        """The chunks of a range: none if it has no word, several if it is one line that is too long."""
        lines = self._lines
        while start <= end and not lines[start - 1].strip():
            start += 1
        while end >= start and not lines[end - 1].strip():
            end -= 1
        content = "\n".join(lines[start - 1 : end])
        if not _WORD.search(content):
            return
        kind, complexity = self._kind(start, end, owner)
        symbols = self._symbols(start, end, owner)
        for part in _slices(content) if start == end else (content,):
            identity = json.dumps([_SCHEME, self._language, kind, symbols, complexity, part]).encode()
            yield Chunk(
                self._file,
                start,
                end,
                part,
                symbols,
                kind,
                self._language,
                complexity,
                sha256(identity).hexdigest(),
            )

    def _kind(self, start: int, end: int, owner: Definition | None) -> tuple[ChunkType, int | None]:
        if self._comments is None:
            return "other", None
        lines = self._lines[start - 1 : end]
        if (owner is None or owner.type != "function") and all(
            not line.strip() or line.lstrip().startswith(self._comments) for line in lines
        ):
            return "comment", None
        complexity = 1 + bisect_right(self._decisions, end) - bisect_left(self._decisions, start)
        return owner.type if owner is not None else "module", complexity

    def _symbols(self, start: int, end: int, owner: Definition | None) -> tuple[str, ...]:
        first, past = bisect_left(self._name_lines, start), bisect_right(self._name_lines, end)
        found = dict.fromkeys(
            [*((owner.symbol,) if owner is not None else ()), *(name for _, name in self._names[first:past])]
        )
        usable = [name for name in found if 0 < len(name) <= _MAX_SYMBOL and name.isprintable()]
        return tuple(usable[:MAX_SYMBOLS])


def _slices(content: str) -> Iterator[str]:
    """A line in parts of at most 16 KiB of UTF-8."""
    data = content.encode()
    start = 0
    while len(data) - start > MAX_CHUNK_BYTES:
        cut = start + MAX_CHUNK_BYTES
        while data[cut] & 0xC0 == 0x80:  # inside of a character
            cut -= 1
        yield data[start:cut].decode()
        start = cut
    yield data[start:].decode()


def _runs(lines: Sequence[str], definitions: Sequence[Definition]) -> Iterator[tuple[int, int, Definition | None]]:
    """The ranges of lines that belong to the same innermost definition, in order."""
    owners: list[Definition | None] = [None] * len(lines)
    for definition in definitions:
        owners[definition.start - 1 : definition.end] = [definition] * (definition.end - definition.start + 1)
    start = 0
    for index in range(1, len(lines) + 1):
        if index == len(lines) or owners[index] is not owners[start]:
            yield start + 1, index, owners[start]
            start = index


def _paragraphs(lines: Sequence[str], start: int, end: int) -> Iterator[tuple[int, int]]:
    """Paragraphs, put together to some 8 to 40 lines; whether one begins a new part depends on its own first line."""
    first = start
    for number in range(start + 1, end + 1):
        length = number - first
        line = lines[number - 1]
        if length < _PARAGRAPH_LINES or not line.strip() or lines[number - 2].strip():
            continue
        if length >= _PARAGRAPHS_LINES or zlib.crc32(line.encode()) % 4 == 0:
            yield first, number - 1
            first = number
    yield first, end


class _Sizes:
    """Cuts ranges of lines so that each is small enough for a chunk."""

    def __init__(self, lines: Sequence[str]) -> None:
        self._lines = lines
        self._ends: list[int] | None = None

    def bounded(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """The range, or several; one that is too large has one line."""
        if end - start < MAX_CHUNK_LINES and self._characters(start, end) * 4 <= MAX_CHUNK_BYTES:
            yield start, end
            return
        ends = self._byte_ends()
        while start <= end:
            before = ends[start - 1]
            last = min(
                end, start + MAX_CHUNK_LINES - 1, max(start, bisect_right(ends, before + MAX_CHUNK_BYTES + 1) - 1)
            )
            if last < end:
                last = self._cut(start, last)
            yield start, last
            start = last + 1

    def _characters(self, start: int, end: int) -> int:
        return sum(len(line) + 1 for line in self._lines[start - 1 : end])

    def _byte_ends(self) -> list[int]:
        """The number of bytes up to the end of each line, with its newline; the first is 0."""
        if self._ends is None:
            self._ends = [0]
            for line in self._lines:
                self._ends.append(self._ends[-1] + len(line.encode()) + 1)
        return self._ends

    def _cut(self, start: int, last: int) -> int:
        """Where to cut a range that may go to ``last`` and goes on: in its later half, before the outermost line."""

        def worse(number: int) -> tuple[bool, int, bool, int]:
            after = self._lines[number]
            return (
                not after.strip(),
                min(indent_of(after), 80),
                bool(self._lines[number - 1].strip()),
                zlib.crc32(after.encode()),
            )

        return min(range(start + (last - start) // 2, last + 1), key=worse)
