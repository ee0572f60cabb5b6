"""Scans Java's properties format, as ``java.util.Properties.load`` defines it, in time linear in the text.

It owns the syntax alone: ``config_file`` makes variables of the keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["BadEscape", "Property", "properties"]

_BLANK = " \t\f"
_LINE_END = re.compile(r"\r\n|\r|\n")
_KEY_STOP = re.compile(r"[\\ \t\f=:]")
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_ESCAPES = {"t": "\t", "n": "\n", "f": "\f", "r": "\r"}
_SURROGATES = re.compile("[\ud800-\udbff][\udc00-\udfff]")


class Property(NamedTuple):
    """A key and its value, with the line on which they begin."""

    line: int
    key: str
    value: str

    def __repr__(self) -> str:
        return f"Property(line={self.line})"


class BadEscape(Exception):
    r"""The text has a ``\\u`` without four hexadecimal digits."""

    def __init__(self, line: int) -> None:
        super().__init__(f"line {line} has an incomplete escape sequence")
        self.line = line


def properties(text: str) -> Iterator[Property]:
    """The properties of a text, in order; a key may occur several times.

    Raises:
        BadEscape: an escape sequence is incomplete.
    """
    lines = enumerate(_lines(text), start=1)
    for number, first in lines:
        pieces = [first.lstrip(_BLANK)]
        if pieces[0].startswith(("#", "!")):
            continue
        while _is_continued(pieces[-1]):
            pieces[-1] = pieces[-1][:-1]
            _, following = next(lines, (0, ""))
            pieces.append(following.lstrip(_BLANK))
        line = "".join(pieces)
        if line:
            yield _property(line, number)


def _lines(text: str) -> Iterator[str]:
    position = 0
    for end in _LINE_END.finditer(text):
        yield text[position : end.start()]
        position = end.end()
    yield text[position:]


def _is_continued(line: str) -> bool:
    return (len(line) - len(line.rstrip("\\"))) % 2 == 1


def _property(line: str, number: int) -> Property:
    key_end, value_start = _separator(line)
    return Property(number, _unescape(line[:key_end], number), _unescape(line[value_start:], number))


def _separator(line: str) -> tuple[int, int]:
    """Where the key ends, and where the value begins."""
    position = 0
    while (stop := _KEY_STOP.search(line, position)) is not None:
        position = stop.start()
        if line[position] != "\\":
            after = _after_blanks(line, position)
            if line.startswith(("=", ":"), after):
                after = _after_blanks(line, after + 1)
            return position, after
        position += 2  # a backslash, and what it escapes
    return len(line), len(line)


def _after_blanks(line: str, position: int) -> int:
    while position < len(line) and line[position] in _BLANK:
        position += 1
    return position


def _unescape(text: str, number: int) -> str:
    def replace(escape: re.Match[str]) -> str:
        what = escape[1]
        if what == "u":
            raise BadEscape(number)
        return chr(int(what[1:], 16)) if len(what) == 5 else _ESCAPES.get(what, what)

    return _SURROGATES.sub(_join_surrogates, _ESCAPE.sub(replace, text))


def _join_surrogates(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")
