"""Snippets: the place in a text where it matches, and what is highlighted there. It knows no index."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from nexus.store.fulltext import Term

__all__ = ["Snippet", "literal_snippet", "snippet"]

_BEFORE, _LENGTH = 40, 160
"""Characters before the first match, and of the whole snippet."""
_WINDOW = 32 * 1024
"""Characters that are looked at in one step: Python's lock is held for about a millisecond."""
_OVERLAP = 256
_MAX_HIGHLIGHTS = 20
_NOT_ON_A_LINE = frozenset({"Cc", "Cs", "Zl", "Zp"})


class Snippet(NamedTuple):
    """A piece of a text on one line, and where matches begin and end in it."""

    text: str
    highlights: list[tuple[int, int]]
    at: int = 0
    """Where the first match is in the whole text."""


class _Folding(dict[int, int]):
    """Maps each character to one in lower case and without its accent, so that places stay the same."""

    def __missing__(self, code: int) -> int:
        base = unicodedata.normalize("NFD", chr(code))[0].lower()
        self[code] = folded = ord(base) if len(base) == 1 else code
        return folded


_FOLDING = _Folding()


def snippet(text: str, terms: Iterable[Term]) -> Snippet:
    """The snippet of a text that was found by terms: whole words first, else where one stands within a word."""
    wanted = [words for term in terms if (words := _words(term.text))]
    if not wanted:
        return _around(text, None, None)
    inner = "|".join(wanted)
    whole = re.compile(rf"(?<![^\W_])(?:{inner})[^\W_]{{0,64}}")
    within = re.compile(f"(?:{inner})")
    exact = re.compile(rf"(?<![^\W_])(?:{inner})(?![^\W_])")
    for pattern in (exact, whole, within):
        if (at := next(_matches(pattern, text), None)) is not None:
            return _around(text, at, pattern)
    return _around(text, None, None)


def literal_snippet(text: str, literal: str) -> Snippet:
    """The snippet of a text that has another in it."""
    at = text.find(literal)
    if at < 0:
        return _around(text, None, None)
    begin, shown = _cut(text, at)
    found = [
        (match.start(), match.end()) for match in re.finditer(re.escape(literal), text[begin : begin + len(shown)])
    ]
    return Snippet(shown, found[:_MAX_HIGHLIGHTS] or [(at - begin, min(at - begin + len(literal), len(shown)))], at)


def _words(text: str) -> str:
    """A pattern for the words of a term, one after the other, in a folded text."""
    return r"[\W_]+".join(map(re.escape, re.findall(r"[^\W_]+", text.translate(_FOLDING))))


def _matches(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    for begin in range(0, max(len(text), 1), _WINDOW):
        # A character before the window tells whether its first word begins there.
        first = max(begin - 1, 0)
        window = text[first : begin + _WINDOW + _OVERLAP].translate(_FOLDING)
        for match in pattern.finditer(window):
            yield first + match.start()


def _cut(text: str, at: int) -> tuple[int, str]:
    """Where the snippet around a place begins, and the snippet."""
    begin = max(at - _BEFORE, 0)
    shown = text[begin : begin + _LENGTH]
    return begin, "".join([" " if unicodedata.category(each) in _NOT_ON_A_LINE else each for each in shown])


def _around(text: str, at: int | None, pattern: re.Pattern[str] | None) -> Snippet:
    begin, shown = _cut(text, at or 0)
    if pattern is None:
        return Snippet(shown, [])
    # With what stands before, so that a word which the snippet cuts is none.
    before = max(begin - 1, 0)
    folded = text[before : begin + _LENGTH].translate(_FOLDING)
    shift = begin - before
    found = [(match.start() - shift, match.end() - shift) for match in pattern.finditer(folded)]
    return Snippet(shown, [(start, end) for start, end in found if 0 <= start < end][:_MAX_HIGHLIGHTS], at or 0)
