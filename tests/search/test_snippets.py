"""Snippets show the first match, and where it is."""

from __future__ import annotations

import pytest

from nexus.search.snippets import literal_snippet, snippet
from nexus.store.fulltext import Term


def shown(text: str, *terms: str) -> list[str]:
    found = snippet(text, [Term(term) for term in terms])
    return [found.text[start:end] for start, end in found.highlights]


@pytest.mark.parametrize(
    ("text", "terms", "expected"),
    [
        ("Deploy to all", ["deploy"], ["Deploy"]),
        ("in the CAFÉ, the cafe", ["café"], ["CAFÉ", "cafe"]),
        ("deploys", ["deploy"], ["deploys"]),
        ("call getUserName()", ["user"], ["User"]),
        ("call getUserName()", ["getUserName"], ["getUserName"]),
        ("run out_of memory now", ["out of"], ["out_of"]),
        ("日本語の話", ["本語"], ["本語"]),
        ("nothing", ["other"], []),
        ("", ["other"], []),
        ("deployer and deploy", ["deploy"], ["deploy"]),
    ],
)
def test_matches_are_highlighted(text: str, terms: list[str], expected: list[str]) -> None:
    assert shown(text, *terms) == expected


def test_snippet_of_a_long_text_is_around_the_match_on_one_line() -> None:
    text = "filler " * 20_000 + "\nthe Needle\tis here" + " filler" * 1000
    found = snippet(text, [Term("needle")])
    assert len(found.text) == 160
    assert "the Needle is here" in found.text
    assert [found.text[start:end] for start, end in found.highlights] == ["Needle"]


def test_literal_is_found_as_it_stands() -> None:
    found = literal_snippet("a foo->bar( and Foo->bar(", "oo->bar(")
    assert [found.text[start:end] for start, end in found.highlights] == ["oo->bar(", "oo->bar("]
    assert literal_snippet("x", "y").highlights == []
