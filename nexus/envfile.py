"""Scans files of ``NAME=value`` lines, as python-dotenv reads them, in time and memory linear in the text.

It owns the syntax alone, for the daemon and for nexusctl. It reads no file, knows no environment, and never puts a
name or a value into an error: each may be a secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

__all__ = ["Assignment", "BadLine", "TooLong", "assignments", "interpolate", "line_breaks"]

_BLANKS = re.compile(r"\s*")
_INLINE_BLANKS = re.compile(r"[^\S\r\n]*")
_LINE = re.compile(r"[^\r\n]*")
_UNQUOTED_NAME = re.compile(r"[^=#\s]*")
_COMMENT_START = re.compile(r"\s#")
# Of each pattern above one match takes time linear in what it consumes: one class, and no alternatives. What has
# alternatives (quoted values) is stepped through below, as a pattern would keep a state for each character.
_QUOTE_END = {"'": re.compile(r"['\\]"), '"': re.compile(r'["\\]')}
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_ESCAPES = {
    "'": {"\\": "\\", "'": "'"},
    '"': {
        "\\": "\\", "'": "'", '"': '"', "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v",
    },
}  # fmt: skip


class Assignment(NamedTuple):
    """A name and its value, with the line on which they begin; the value of a name without ``=`` is None."""

    line: int
    name: str
    value: str | None

    def __repr__(self) -> str:
        return f"Assignment(line={self.line})"


class BadLine(Exception):
    """The text has a line that is neither an assignment nor a comment."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line} is not of the form NAME=value")
        self.line = line


class TooLong(Exception):
    """A value with its references replaced exceeds the bound."""


def line_breaks(text: str, start: int, end: int) -> int:
    r"""How many lines end between two positions, of which none is inside a ``\r\n``."""
    return text.count("\n", start, end) + text.count("\r", start, end) - text.count("\r\n", start, end)


def assignments(text: str) -> Iterator[Assignment]:
    """The assignments of a text, in order.

    Values are quoted with ``'`` or ``"`` or not at all; ``export`` before a name, comments and a byte order mark are
    left out; ``${NAME}`` is left as it is.

    Raises:
        BadLine: a line is neither an assignment nor a comment, or a quote is not closed.
    """
    position = 1 if text.startswith("\ufeff") else 0
    line, counted = 1, position
    while True:
        position = _after(_BLANKS, text, position)
        line += line_breaks(text, counted, position)
        counted = position
        if position == len(text):
            return
        position = _after_export(text, position)
        if text.startswith("#", position):
            position = _after(_LINE, text, position)
            continue
        name, position = _name(text, position, line)
        value, position = _value(text, _after(_INLINE_BLANKS, text, position), line)
        position = _after(_INLINE_BLANKS, text, position)
        if text.startswith("#", position):
            position = _after(_LINE, text, position)
        if position < len(text) and text[position] not in "\r\n":
            raise BadLine(line)
        yield Assignment(line, name, value)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    assert match is not None  # each of these patterns matches nothing, too
    return match.end()


def _after_export(text: str, position: int) -> int:
    if not text.startswith("export", position):
        return position
    after = _after(_INLINE_BLANKS, text, position + 6)
    return after if after > position + 6 else position


def _name(text: str, position: int, line: int) -> tuple[str, int]:
    if text.startswith("'", position):
        end = text.find("'", position + 1)
        if end < position + 2:
            raise BadLine(line)
        return text[position + 1 : end], end + 1
    end = _after(_UNQUOTED_NAME, text, position)
    if end == position:
        raise BadLine(line)
    return text[position:end], end


def _value(text: str, position: int, line: int) -> tuple[str | None, int]:
    if not text.startswith("=", position):
        return None, position
    start = _after(_INLINE_BLANKS, text, position + 1)
    first = text[start : start + 1]
    if first in ("", "\r", "\n") or (first == "#" and start > position + 1):
        return "", start
    if first in _QUOTE_END:
        return _quoted(text, start, first, line)
    end = _after(_LINE, text, start)
    comment = _COMMENT_START.search(text, start, end)
    return text[start : end if comment is None else comment.start()].rstrip(), end


def _quoted(text: str, start: int, quote: str, line: int) -> tuple[str, int]:
    search, position = _QUOTE_END[quote].search, start + 1
    while (found := search(text, position)) is not None:
        position = found.start()
        if text[position] == quote:
            return _unescape(text[start + 1 : position], _ESCAPES[quote]), position + 1
        position += 2  # a backslash, and what it escapes
    raise BadLine(line)


def _unescape(text: str, escapes: Mapping[str, str]) -> str:
    return _ESCAPED.sub(lambda escape: escapes.get(escape[1], escape[0]), text)


def interpolate(value: str, known: Mapping[str, str], limit: int) -> str:
    """The value with ``${NAME}`` and ``${NAME:-default}`` replaced; a name that is not known is its default or empty.

    Raises:
        TooLong: the result has more than ``limit`` characters; not more than that is built.
    """
    pieces: list[str] = []
    length = position = 0
    for start, end, piece in _references(value, known):
        for part in (value[position:start], piece):
            length += len(part)
            if length > limit:
                raise TooLong
            pieces.append(part)
        position = end
    if length + len(value) - position > limit:
        raise TooLong
    pieces.append(value[position:])
    return "".join(pieces)


def _references(value: str, known: Mapping[str, str]) -> Iterator[tuple[int, int, str]]:
    """The bounds of each reference, and what it stands for. No part of the value is searched twice."""
    close = colon = -1
    start = value.find("${")
    while start >= 0:
        begin = start + 2
        if close < begin:
            close = value.find("}", begin)
        if close < 0:
            return
        if 0 <= colon < begin or colon == -1:
            colon = value.find(":", begin)
            if colon < 0:
                colon = len(value)
        if colon > close:
            yield start, close + 1, known.get(value[begin:close], "")
        elif value.startswith(":-", colon):
            yield start, close + 1, known.get(value[begin:colon], value[colon + 2 : close])
        else:
            start = value.find("${", begin)  # no reference: text
            continue
        start = value.find("${", close + 1)
