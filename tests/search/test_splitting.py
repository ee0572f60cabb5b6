"""What the index has of a text beside its words."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.conversations.importing import reading
from nexus.store.splitting import BARRIER, INDEXED_CHARACTERS, indexed, parts, words_of

B = f" {BARRIER} "


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("getUserName", "get User Name"),
        ("get_user_name", ""),  # the tokenizer does that
        ("getUserName(); HTTPServer", f"get User Name{B}HTTP Server"),
        ("getUserName getUserName", "get User Name"),
        ("user2Name iPhone", f"user2 Name{B}i Phone"),
        ("größeWert", "größe Wert"),
        ("plain Words And CAPITALS", ""),
        ("AF3B9C0D 0x3f9a", ""),
        ("x" * 40 + "Y" + "z" * 40, ""),  # data, and no identifier
        ("日本", "日本 本"),
        ("日", "日"),
        ("日本語abc", f"日本 本語 語{B}abc"),
        ("python日本", f"python{B}日本 本"),
        ("日本、語", f"日本 本{B}語"),
        ("한국어", "한국 국어 어"),
        ("カタカナ・ひら", f"カタ タカ カナ ナ{B}ひら ら"),
        ("", ""),
        (None, ""),
    ],
)
def test_parts(text: str | None, expected: str) -> None:
    assert parts(text) == expected


def test_words_of_an_identifier() -> None:
    assert words_of("parseHTTPResponse") == ["parse", "HTTP", "Response"]
    assert words_of("plain") == ["plain"]


@pytest.mark.parametrize("before", [0, 1, 32 * 1024 - 5, 32 * 1024 - 3, 32 * 1024 - 1, 32 * 1024, 70_000])
def test_text_is_split_alike_at_every_place(before: int) -> None:
    filler = ("a " * before)[:before] + " "
    assert parts(filler + "getUserName 日本語") == f"get User Name{B}日本 本語 語"


@given(st.text("aB9 日x_é\n", max_size=60))
def test_parts_of_any_text_have_its_characters_alone(text: str) -> None:
    assert set(parts(text)) <= set(text) | set(B)
    assert parts(text) == parts(text)


def test_indexed_text_is_whole_or_a_beginning_and_an_end() -> None:
    assert indexed(None) is None
    for length in (0, 1, INDEXED_CHARACTERS):
        assert indexed("a" * length) == "a" * length
    text = "a" * 100_000 + "b" * 100_000
    cut = indexed(text)
    assert cut is not None
    beginning, barrier, end = cut.split(" ")
    assert (set(beginning), barrier, set(end)) == ({"a"}, BARRIER, {"b"})
    assert len(beginning) + len(end) == INDEXED_CHARACTERS
    assert parts(f"getUserName {text} getOtherName") == f"get User Name{B}get Other Name"
    assert parts(f"{text} midName {text}") == ""


def test_importers_know_how_much_of_a_text_is_indexed() -> None:
    assert reading.INDEXED_CHARACTERS == INDEXED_CHARACTERS
