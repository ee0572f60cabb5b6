"""The grammar of queries, and the sentences for what is malformed."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.records.errors import QueryInvalid
from nexus.records.fields import QUERY_CHARACTERS
from nexus.records.matching import MAX_TERMS, Filter, Query, parse, parse_words
from nexus.store.connection import connect
from nexus.store.fulltext import Term, Words, literal_words, names_expression, words_expression

FILTERS = {"kind": ["message", "job"], "after": [], "project": []}


def word(text: str) -> Term:
    return Term(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a b", Words(((word("a"),), (word("b"),)))),
        ('"a b" c', Words(((Term("a b", True),), (word("c"),)))),
        ("foo*", Words(((Term("foo", False, True),),))),
        ('"foo ba"*', Words(((Term("foo ba", True, True),),))),
        ("a -b", Words(((word("a"),),), (word("b"),))),
        ('-"b c" a', Words(((word("a"),),), (Term("b c", True),))),
        ("a OR b OR c d", Words(((word("a"), word("b"), word("c")), (word("d"),)))),
        ("a or b", Words(((word("a"),), (word("or"),), (word("b"),)))),
        ("ORDER", Words(((word("ORDER"),),))),
        ('a"b"', Words(((word("a"),), (Term("b", True),)))),
        ("std::vector<int>", Words(((word("std::vector<int>"),),))),
        ("  å\t", Words(((word("å"),),))),
        ("日本", Words(((word("日本"),),))),
        ("x-y", Words(((word("x-y"),),))),
    ],
)
def test_words_phrases_prefixes_and_operators(text: str, words: Words) -> None:
    assert parse(text, FILTERS) == Query(words, [])
    assert parse_words(text, "match") == words


def test_filters_have_values_and_places() -> None:
    query = parse('a kind:message project:"my shop" after:2026-01-01', FILTERS)
    assert query.words == Words(((word("a"),),))
    assert query.filters == [
        Filter("kind", "message", 3),
        Filter("project", "my shop", 16),
        Filter("after", "2026-01-01", 34),
    ]
    # What is no filter is words.
    assert parse("http://x", FILTERS).words == Words(((word("http://x"),),))
    assert parse_words("kind:message", "match") == Words(((word("kind:message"),),))


@pytest.mark.parametrize(
    ("text", "sentence", "at"),
    [
        ('say "hello', "the quote is not closed", 5),
        ("a OR", "OR has no word after it", 3),
        ("OR a", "OR has no word before it", 1),
        ("a OR OR b", "OR has no word before it", 6),
        ("a OR -b", "OR cannot join a word that is excluded", 6),
        ("-b OR a", "OR has no word before it", 4),
        ("a OR kind:message", "OR cannot join the filter kind:", 6),
        ("kind:job OR a", "OR has no word before it", 10),
        ("a -", '"-" has no word after it', 3),
        ("a - b", '"-" has no word after it', 3),
        ("a ***", '"***" has no letter and no digit', 3),
        ('a ""', "the phrase is empty", 3),
        ("kind:mail", 'kind: is message or job, and not "mail"', 1),
        ("a kind:", "the filter kind: has no value", 3),
        ("a -kind:message", "the filter kind: cannot be excluded", 3),
        ("-a", "the query only excludes words", None),
        ("kind:message", "the query has filters alone", None),
        ("   ", "the query has no word", None),
    ],
)
def test_malformed_query_is_refused_with_the_place(text: str, sentence: str, at: int | None) -> None:
    with pytest.raises(QueryInvalid) as caught:
        parse(text, FILTERS)
    where = "" if at is None else f" (character {at})"
    assert caught.value.message == f"cannot search: {sentence}{where}"
    assert caught.value.details == {"path": "query"} | ({} if at is None else {"at": at})


@pytest.mark.parametrize(
    "text", ['"' * 1_000_000, "a OR " * 10_000, "a " * (MAX_TERMS + 1), "-" * 10_000, "x" * (QUERY_CHARACTERS + 1)]
)
def test_hostile_query_is_refused(text: str) -> None:
    with pytest.raises(QueryInvalid, match=r"^cannot search: "):
        parse(text, FILTERS)


@given(st.text('ab"*-:OR 日x_(){}^+\x00\n\ue000é', max_size=40))
def test_expression_of_any_query_is_valid(text: str) -> None:
    try:
        words = parse(text, FILTERS).words
    except QueryInvalid:
        return
    connection = connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE a USING fts5 (name, text, parts)")
        connection.execute("SELECT rowid FROM a WHERE a MATCH ?", (words_expression(words),)).fetchall()
        if (names := names_expression(words)) is not None:
            connection.execute("SELECT rowid FROM a WHERE a MATCH ?", (names,)).fetchall()
        if (literal := literal_words(text)) is not None:
            connection.execute("SELECT rowid FROM a WHERE a MATCH ?", (literal,)).fetchall()
    finally:
        connection.close()


def test_literal_has_the_words_that_it_holds_whole() -> None:
    assert literal_words("foo") is None
    assert literal_words("foo->bar") == '{name text} : "bar"*'
    assert literal_words(" foo ") == '{name text} : "foo"'
    assert literal_words("(a b(") == '{name text} : "a b"'
    assert literal_words(" 日本 ") is None
    assert literal_words("->") is None


def test_names_tell_nothing_of_what_is_excluded_or_short() -> None:
    assert names_expression(parse_words("web OR data", "match")) == '("web" OR "data")'
    assert names_expression(parse_words("web -data", "match")) is None
    assert names_expression(parse_words("web ab", "match")) is None
    assert re.fullmatch(r'"web" AND "a.b"', names_expression(parse_words("web a.b", "match")) or "")
