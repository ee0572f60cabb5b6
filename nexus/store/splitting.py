"""Splits texts for the search index: identifiers into their words, and runs of CJK characters into pairs.

The index's own tokenizer ends a word at each character that is no letter and no digit. It finds ``user`` in
``get_user_name``, but not in ``getUserName``, nor a word of two characters in a Chinese sentence. ``parts`` gives what
it lacks, as a text of its own: the views and triggers of the index call it.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator

__all__ = ["BARRIER", "CJK", "INDEXED_CHARACTERS", "SPLITTING", "cjk_run", "indexed", "pairs", "parts", "words_of"]

SPLITTING = 1
"""The version of ``parts``. Another one splits differently, and an index of this one has to be rebuilt."""

BARRIER = "\ue000"
"""A token between what does not belong together, so that no phrase goes across. No text of a person has it."""

INDEXED_CHARACTERS = 64 * 1024
"""The index has a longer text up to this length: adding a character takes it about 0.2 µs, in the writer's time."""
_INDEXED_END = 16 * 1024

CJK = (
    "\u3005\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7a3\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003fffd"
)
"""A class of characters, for patterns: Han, Hiragana, Katakana and Hangul."""

_LOWER, _UPPER = "a-zß-öø-ÿ", "A-ZÀ-ÖØ-Þ"


# Compiled when they are first used: that takes long, and a daemon rarely needs them soon after its start.


@functools.cache
def _joint() -> re.Pattern[str]:
    """Where two words of an identifier meet. It begins with a capital letter, which is rare and so is found fast."""
    return re.compile(
        f"[{_UPPER}](?:(?<=[{_LOWER}].)|(?<=[{_LOWER}][0-9].)|(?<=[{_LOWER}][0-9][0-9].)|(?<=[{_UPPER}].)[{_LOWER}])"
    )


@functools.cache
def _cut() -> re.Pattern[str]:
    return re.compile(f"(?<=[{_LOWER}0-9])(?=[{_UPPER}])|(?<=[{_UPPER}])(?=[{_UPPER}][{_LOWER}])")


@functools.cache
def cjk_run() -> re.Pattern[str]:
    """Several characters of ``CJK``, or one."""
    return re.compile(f"[{CJK}]+")


@functools.cache
def _cjk_character() -> re.Pattern[str]:
    return re.compile(f"[{CJK}]")


@functools.cache
def _others() -> re.Pattern[str]:
    return re.compile(f"[^\\W_{CJK}]*")


_WORD = re.compile(r"[^\W_]*")
_LONGEST = 64
"""A longer word is no identifier: it is data, such as base64."""
_WINDOW = 32 * 1024
"""Characters that are looked at in one step: a pattern holds Python's lock, for about a millisecond."""
_OVERLAP = 1
"""What a joint has after its first character."""


def indexed(text: str | None) -> str | None:
    """What the index has of a text: all of it, or the beginning and the end of a long one."""
    if text is None or len(text) <= INDEXED_CHARACTERS:
        return text
    return f"{text[: INDEXED_CHARACTERS - _INDEXED_END]} {BARRIER} {text[-_INDEXED_END:]}"


def words_of(identifier: str) -> list[str]:
    """The words of an identifier in camel case; the identifier alone where it has no joint."""
    return _cut().sub(" ", identifier).split() if _joint().search(identifier) else [identifier]


def parts(text: str | None) -> str:
    """What the tokenizer does not find in a text by itself: words of identifiers, and pairs of CJK characters.

    A run of CJK characters gives each pair and then its last character, so that each of its characters begins a token.
    What touches such a run is given too: the tokenizer takes both for one word.
    """
    text = indexed(text)
    if not text:
        return ""
    found: dict[str, None] = {}
    done = 0
    for at in _places(_joint(), text):
        if at < done:
            continue
        start = _back(text, at, done)
        match = _WORD.match(text, at)
        done = match.end() if match else at + 1
        if start is not None and done - start <= _LONGEST:
            found[" ".join(words_of(text[start:done]))] = None
    if not text.isascii():
        _add_cjk(text, found)
    return f" {BARRIER} ".join(found)


def _places(pattern: re.Pattern[str], text: str) -> Iterator[int]:
    """Where a pattern matches, ascending; a place may be given twice."""
    for window in range(0, len(text), _WINDOW):
        for match in pattern.finditer(text, window, window + _WINDOW + _OVERLAP):
            yield match.start()


def _back(text: str, at: int, least: int) -> int | None:
    """Where the word around a place begins; None where that is too far."""
    start = at
    while start > least and (text[start - 1].isalnum()):
        start -= 1
        if at - start > _LONGEST:
            return None
    return start


def _add_cjk(text: str, found: dict[str, None]) -> None:
    done = 0
    for at in _places(_cjk_character(), text):
        if at < done:
            continue
        match = cjk_run().match(text, at)
        assert match is not None
        start = _back(text, at, done)
        if start is not None and start < at:
            found[text[start:at]] = None
        done = match.end()
        found[pairs(match[0])] = None
        after = _others().match(text, done, done + _LONGEST)
        if after is not None and after[0]:
            found[after[0]] = None
            done = after.end()


def pairs(run: str) -> str:
    """The pairs of neighbours in a run of CJK characters, and its last character."""
    return " ".join([run[at : at + 2] for at in range(len(run))])
