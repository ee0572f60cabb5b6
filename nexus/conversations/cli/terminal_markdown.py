"""Markdown as lines of a terminal, which are wrapped to its width. Characters that cannot be printed are replaced."""

from __future__ import annotations

from collections.abc import Iterator

from nexus.cli.output import columns_of, painted, printable
from nexus.conversations.cli.markdown import Block, Span, blocks, spans

__all__ = ["terminal_lines"]

_TAB = "    "


def terminal_lines(text: str, width: int, *, colour: bool) -> Iterator[str]:
    """The lines of a text. Without ``colour``, which shows what they mean, the marks of Markdown stay."""
    for block in blocks("\n".join(text.expandtabs(len(_TAB)).splitlines())):
        yield from _block(block, width, colour)


def _block(block: Block, width: int, colour: bool) -> Iterator[str]:
    match block.kind:
        case "blank":
            yield ""
        case "rule":
            yield "─" * min(width, 40)
        case "code":
            for line in block.text.split("\n"):
                shown = "  " + printable(line)
                yield painted(shown, "cyan") if colour else shown
        case "heading":
            marks = "" if colour else "#" * block.level + " "
            yield from _wrapped([Span("heading", block.text)], width, marks, " " * len(marks), colour)
        case "item":
            indent = "  " * block.level
            marker = "•" if colour and block.word in "-*+" else block.word
            first = f"{indent}{marker} "
            yield from _wrapped(spans(block.text), width, first, " " * len(first), colour)
        case "quote":
            yield from _wrapped(spans(block.text), width, "│ ", "│ ", colour)
        case _:
            for line in block.text.split("\n"):
                yield from _wrapped(spans(line), width, "", "", colour)


def _wrapped(runs: Iterator[Span] | list[Span], width: int, first: str, rest: str, colour: bool) -> Iterator[str]:
    """Lines of at most ``width`` columns; a word that is longer than a line is divided."""
    line, used, prefix = "", columns_of(first), first
    for run in runs:
        for word in _words(printable(_marked(run, colour))):
            for piece in _pieces(word, width - columns_of(rest)):
                size = columns_of(piece)
                if used + size > width and used > columns_of(prefix):
                    yield prefix + line.rstrip(" ")
                    line, prefix, used = "", rest, columns_of(rest)
                    if piece == " ":
                        continue
                line += _styled(piece, run.kind) if colour and piece != " " else piece
                used += size
    yield prefix + line.rstrip(" ")


def _marked(run: Span, colour: bool) -> str:
    link = f"{run.text} ({run.target})" if run.kind == "link" else run.text
    if colour:
        return link
    marks = {"code": "`", "strong": "**", "emphasis": "*"}.get(run.kind, "")
    return f"{marks}{link}{marks}"


def _words(text: str) -> Iterator[str]:
    """The words of a text, with each space between them as one of its own."""
    for index, word in enumerate(text.split(" ")):
        if index:
            yield " "
        if word:
            yield word


def _pieces(word: str, width: int) -> Iterator[str]:
    if columns_of(word) <= width:
        yield word
        return
    piece, used = "", 0
    for character in word:
        size = columns_of(character)
        if used + size > width and piece:
            yield piece
            piece, used = "", 0
        piece += character
        used += size
    yield piece


def _styled(text: str, kind: str) -> str:
    if kind == "code":
        return painted(text, "cyan")
    if kind == "strong":
        return painted(text, None, bold=True)
    if kind == "emphasis":
        return painted(text, None, italic=True)
    if kind == "heading":
        return painted(text, "magenta", bold=True)
    return painted(text, "blue") if kind == "link" else text
