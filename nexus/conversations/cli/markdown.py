"""A light reading of Markdown: headings, fenced code, lists, quotes, rules and paragraphs; emphasis, code and links.

It takes linear time for any text, and gives plain values: what they look like is the matter of who shows them. It is no
CommonMark: what it does not know is a paragraph.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Block", "Span", "blocks", "fence_for", "open_fence", "spans"]

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)$")
_HEADING = re.compile(r"(#{1,6})[ \t]+(\S.*)$")
_ITEM = re.compile(r"([ \t]*)([-*+]|[0-9]{1,9}[.)])[ \t]+(\S.*)$")
_RULE = re.compile(r" {0,3}(?:-[ \t]*){3,}$|(?:\*[ \t]*){3,}$|(?:_[ \t]*){3,}$")
_INLINE = re.compile(
    r"(?P<code>`[^`\n]+`)"
    r"|\*\*(?P<strong>[^*\n]+)\*\*"
    r"|(?<![\w*])\*(?P<star>[^*\s][^*\n]*)\*(?![\w*])"
    r"|(?<!\w)_(?P<under>[^_\s][^_\n]*)_(?!\w)"
    r"|\[(?P<label>[^\[\]\n]+)\]\((?P<target>[^()\s<>\"']+)\)"
)
_LINE_END = re.compile(r"\r\n?|\n")
_RUN = re.compile(r"`+")
_MAX_LINE = 20_000
"""A longer line has no emphasis."""


class Block(NamedTuple):
    """A block of lines."""

    kind: str
    """``heading``, ``code``, ``item``, ``quote``, ``rule``, ``paragraph`` or ``blank``."""
    text: str = ""
    level: int = 0
    """Of a heading; of an item its depth."""
    word: str = ""
    """Of code its language; of an item its marker."""


class Span(NamedTuple):
    """A run of text within a line."""

    kind: str
    """``text``, ``code``, ``strong``, ``emphasis`` or ``link``."""
    text: str
    target: str = ""


def blocks(text: str) -> Iterator[Block]:
    """The blocks of a text."""
    paragraph: list[str] = []
    code: list[str] = []
    fence, language = "", ""

    def ended() -> Iterator[Block]:
        if paragraph:
            yield Block("paragraph", "\n".join(paragraph))
            paragraph.clear()

    for line in _lines(text):
        if fence:
            closing = _FENCE.match(line)
            if closing and closing[1].startswith(fence) and not closing[2].strip():
                yield Block("code", "\n".join(code), word=language)
                code.clear()
                fence = ""
            else:
                code.append(line)
            continue
        opening = _FENCE.match(line)
        if opening and not (opening[1][0] == "`" and "`" in opening[2]):
            yield from ended()
            fence, language = opening[1], opening[2].strip().split(" ")[0]
            continue
        found = _plain(line)
        if found is None:
            paragraph.append(line)
        else:
            yield from ended()
            yield found
    yield from ended()
    if fence:
        yield Block("code", "\n".join(code), word=language)


def _lines(text: str) -> list[str]:
    """The lines by the line ends of CommonMark, of which U+2028 is none."""
    lines = _LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def _plain(line: str) -> Block | None:
    """The block of a line that is one by itself; None for a line of a paragraph."""
    if not line.strip():
        return Block("blank")
    if heading := _HEADING.match(line):
        return Block("heading", heading[2].rstrip("# \t") or heading[2], level=len(heading[1]))
    if len(line) < 200 and _RULE.match(line):
        return Block("rule")
    if item := _ITEM.match(line):
        depth = len(item[1].expandtabs(4)) // 2
        return Block("item", item[3], level=min(depth, 8), word=item[2])
    if line.startswith(">"):
        return Block("quote", line[1:].removeprefix(" "))
    return None


def spans(text: str) -> Iterator[Span]:
    """The runs of a line, or of a paragraph."""
    at = 0
    if len(text) <= _MAX_LINE:
        for found in _INLINE.finditer(text):
            if found.start() > at:
                yield Span("text", text[at : found.start()])
            at = found.end()
            kind = found.lastgroup
            if kind == "code":
                yield Span("code", found[0][1:-1])
            elif kind == "target":
                yield Span("link", found["label"], found["target"])
            elif kind == "strong":
                yield Span("strong", found["strong"])
            else:
                yield Span("emphasis", found["star"] or found["under"])
    if at < len(text):
        yield Span("text", text[at:])


def fence_for(text: str) -> str:
    """A fence that no line of the text ends: longer than any run of backticks in it."""
    return "`" * max(3, 1 + max((len(run[0]) for run in _RUN.finditer(text)), default=0))


def open_fence(text: str) -> str:
    """The fence that a text leaves open, which would take what follows for code; empty where there is none."""
    fence = ""
    for line in _lines(text):
        found = _FENCE.match(line)
        if found is None:
            continue
        if not fence:
            fence = "" if found[1][0] == "`" and "`" in found[2] else found[1]
        elif found[1].startswith(fence) and not found[2].strip():
            fence = ""
    return fence
