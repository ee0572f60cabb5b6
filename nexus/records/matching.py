"""The grammar of searches: words, phrases, prefixes, ``-not``, ``OR``, and filters such as ``kind:message``.

It knows no table and no index. A query is bounded before it is read, so that a hostile one costs nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, NoReturn

from nexus.hints import command_line
from nexus.records.errors import QueryInvalid
from nexus.records.fields import QUERY_CHARACTERS
from nexus.store.fulltext import Term, Words, is_searchable

__all__ = ["Filter", "Query", "parse", "parse_words"]

MAX_TERMS = 64
"""Words, phrases and filters of a query."""
_KEY = re.compile(r"([a-z]+):")
_SHOWN = 40


class Filter(NamedTuple):
    """``key:value``, and at which character of the query it is, from 1."""

    key: str
    value: str
    at: int


class Query(NamedTuple):
    """A query that was read."""

    words: Words
    filters: list[Filter]


def parse_words(text: str, field: str) -> Words:
    """Read a query without filters; ``field`` is that of the request which has it.

    Raises:
        QueryInvalid: it is malformed.
    """
    return _Parser(text, {}, field).parse().words


def parse(text: str, filters: Mapping[str, Sequence[str]], field: str = "query") -> Query:
    """Read a query that may have these filters, each with the values that it takes; an empty list is any.

    What has the form of another filter is words.

    Raises:
        QueryInvalid: it is malformed.
    """
    return _Parser(text, filters, field).parse()


class _Parser:
    """Reads one query, from left to right."""

    def __init__(self, text: str, filters: Mapping[str, Sequence[str]], field: str) -> None:
        self._text = text
        self._known = filters
        self._field = field
        self._at = 0
        self._terms = 0
        self._all_of: list[list[Term]] = []
        self._none_of: list[Term] = []
        self._filters: list[Filter] = []
        self._or_at: int | None = None
        """Where an OR is that has no term after it so far."""
        self._joins = False
        """Whether the last that was read is a term that OR can join."""

    def parse(self) -> Query:
        if len(self._text) > QUERY_CHARACTERS:
            self._refuse(f"the query has {len(self._text)} characters, and {QUERY_CHARACTERS} at most are allowed")
        while self._skip_space():
            self._terms += 1
            if self._terms > MAX_TERMS:
                self._refuse(f"the query has more than {MAX_TERMS} words", self._at)
            self._next()
        if self._or_at is not None:
            self._refuse("OR has no word after it", self._or_at)
        if not self._all_of:
            self._refuse(
                "the query only excludes words"
                if self._none_of
                else "the query has filters alone"
                if self._filters
                else "the query has no word",
                hint="Give a word to search for as well.",
            )
        return Query(Words(tuple(map(tuple, self._all_of)), tuple(self._none_of)), self._filters)

    def _skip_space(self) -> bool:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at < len(self._text)

    def _next(self) -> None:
        text, start = self._text, self._at
        if re.compile(r"OR(?!\S)").match(text, start):
            if not self._joins:
                self._refuse("OR has no word before it", start)
            self._or_at, self._joins, self._at = start, False, start + 2
            self._terms -= 1
            return
        is_excluded = text[start] == "-"
        if is_excluded:
            self._at += 1
            if self._at == len(text) or text[self._at].isspace():
                self._refuse('"-" has no word after it', start)
        key = _KEY.match(text, self._at)
        if key is not None and key[1] in self._known:
            self._add_filter(key, start, is_excluded=is_excluded)
            return
        term = self._term()
        if is_excluded:
            if self._or_at is not None:
                self._refuse("OR cannot join a word that is excluded", start)
            self._none_of.append(term)
        elif self._or_at is not None:
            self._all_of[-1].append(term)
            self._or_at = None
        else:
            self._all_of.append([term])
        self._joins = not is_excluded

    def _add_filter(self, key: re.Match[str], start: int, *, is_excluded: bool) -> None:
        if is_excluded:
            self._refuse(f"the filter {key[1]}: cannot be excluded", start)
        if self._or_at is not None:
            self._refuse(f"OR cannot join the filter {key[1]}:", start)
        self._at = key.end()
        value = self._quoted() if self._text[self._at : self._at + 1] == '"' else self._until(r"\s")
        if not value:
            self._refuse(f"the filter {key[1]}: has no value", start)
        known = self._known[key[1]]
        if known and value not in known:
            *some, last = known
            self._refuse(f'{key[1]}: is {", ".join(some)} or {last}, and not "{value}"', start)
        self._filters.append(Filter(key[1], value, start + 1))
        self._joins = False

    def _term(self) -> Term:
        start = self._at
        is_phrase = self._text[start] == '"'
        text = self._quoted() if is_phrase else self._until(r'[\s"]')
        is_prefix = text.endswith("*") and not is_phrase
        if is_phrase and self._text[self._at : self._at + 1] == "*":
            self._at += 1
            is_prefix = True
        if not text:
            self._refuse("the phrase is empty", start)
        if not is_searchable(text):
            shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
            self._refuse(
                f'"{shown}" has no letter and no digit',
                start,
                hint="Search for it as it stands: " + command_line("nexusctl", "search", "--literal", shown),
            )
        return Term(text.rstrip("*"), is_phrase, is_prefix)

    def _quoted(self) -> str:
        end = self._text.find('"', self._at + 1)
        if end < 0:
            self._refuse("the quote is not closed", self._at)
        text = self._text[self._at + 1 : end]
        self._at = end + 1
        return text

    def _until(self, pattern: str) -> str:
        end = re.compile(pattern).search(self._text, self._at)
        start, self._at = self._at, len(self._text) if end is None else end.start()
        return self._text[start : self._at]

    def _refuse(self, problem: str, at: int | None = None, hint: str | None = None) -> NoReturn:
        where = "" if at is None else f" (character {at + 1})"
        details: dict[str, object] = {"path": self._field} | ({} if at is None else {"at": at + 1})
        raise QueryInvalid(f"cannot search: {problem}{where}", hint=hint, details=details)
