"""What a terminal is given: text and our own colours, and nothing else that it would take as a command.

It knows characters and streams. ``nexusctl`` and ``nexusd`` put ``guard`` before their standard streams, so that no
text that they print reaches a terminal otherwise, wherever it comes from.
"""

from __future__ import annotations

import os
import sys
from typing import Any, TextIO

__all__ = [
    "OutputFilter",
    "SafeOutput",
    "columns_of",
    "exact_bytes",
    "guard",
    "output_filter",
    "overwrite_line",
    "painted",
    "printable",
    "shortened",
    "visible",
    "without_controls",
    "write_exact",
]

_REPLACEMENT = "\ufffd"
_MARK = f"\x1b[{os.urandom(8).hex()};"
"""Before a colour of our own, where other programs write the start of a colour: only this process knows it."""

_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff"
"""C0 but \\t and \\n, DEL, C1, and halves of characters."""
_UNSAFE = f"[{_CONTROLS}\u2028-\u202e\u2066-\u206f]"
"""And what divides or reorders the line that it stands in. Joiners, marks and selectors are part of the text."""
_UNSAFE_IN_LINE = f"[\t\n{_UNSAFE[1:]}"
_COLOUR = "\x1b\\[[0-9;:]{0,64}m"
"""Select Graphic Rendition of ECMA-48."""
_PART_OF_COLOUR = "\x1b(?:\\[[0-9;:]{0,64})?\\Z"


def printable(text: str) -> str:
    """One line for a person: what a terminal acts on, or reorders the line by, is replaced, line feeds as well."""
    return text if text.isprintable() else _replaced(_UNSAFE_IN_LINE, text)


def visible(text: str) -> str:
    """Lines for a person: what a terminal acts on, or reorders lines by, is replaced, but line feeds and tabs stay."""
    return text if text.replace("\n", "").replace("\t", "").isprintable() else _replaced(_UNSAFE, text)


def without_controls(text: str) -> str:
    """Text of a file: control characters are replaced, but line feeds and tabs stay, and so does all that is text."""
    if text.isprintable():
        return text
    return _replaced(f"[{_CONTROLS}]", text.replace("\r\n", "\n"))


def _replaced(unsafe: str, text: str) -> str:
    import re

    return re.sub(unsafe, _REPLACEMENT, text)


def painted(text: str, colour: str | None, *, bold: bool = False, dim: bool = False, italic: bool = False) -> str:
    """Text in a colour, as click names it, for a guarded standard output; the text itself is shown as ``visible``."""
    import click

    start = click.style("", fg=colour, bold=bold or None, dim=dim or None, italic=italic or None, reset=False)
    mark = _MARK if isinstance(sys.stdout, SafeOutput) else "\x1b["
    return start.replace("\x1b[", mark) + visible(text) + f"{mark}0m"


def columns_of(text: str) -> int:
    """How many columns of a terminal a printable text takes: two for each wide character, none for a mark in one."""
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    return sum(
        0 if category(character) in ("Mn", "Me", "Cf") else 2 if east_asian_width(character) in "WF" else 1
        for character in text
    )


def shortened(text: str, columns: int) -> str:
    """A printable text, with … at its end where it takes more columns than these."""
    if columns_of(text) <= columns:
        return text
    kept = text[: columns - 1]
    while columns_of(kept) >= columns:
        kept = kept[:-1]
    return kept + "…"


class SafeOutput:
    """A text stream before another one. What it writes there is ``visible``, with our own colours."""

    def __init__(self, stream: TextIO) -> None:
        self.exact = stream
        """The stream behind it, for what is not text for a person."""

    def write(self, text: str) -> int:
        """Write text, what a terminal could take as a command replaced."""
        first, *marked = text.split(_MARK)
        written = visible(first)
        for part in marked:
            code, _, rest = part.partition("m")
            written += f"\x1b[{code}m{visible(rest)}"
        self.exact.write(written)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write each of some texts."""
        for line in lines:
            self.write(line)

    def write_exact(self, text: str) -> None:
        """Write text for a program: unchanged, unless a terminal gets it."""
        if self.exact.isatty():
            self.write(text)
        else:
            self.exact.write(text)

    @property
    def buffer(self) -> _SafeBuffer:
        """The bytes of text, which is guarded as well: libraries look for it to write text in another encoding."""
        return _SafeBuffer(self.exact.buffer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.exact, name)


class _SafeBuffer:
    """The bytes of a ``SafeOutput``, in UTF-8."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, data: Any) -> int:
        self._stream.write(visible(bytes(data).decode("utf-8", "surrogateescape")).encode("utf-8", "replace"))
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def guard() -> None:
    """Put a ``SafeOutput`` before standard output and standard error of this process."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, SafeOutput):
            setattr(sys, name, SafeOutput(stream))


def write_exact(text: str) -> None:
    """Write text for a program to standard output: unchanged, unless a terminal gets it."""
    if isinstance(sys.stdout, SafeOutput):
        sys.stdout.write_exact(text)
    else:
        sys.stdout.write(text)


def exact_bytes() -> Any:
    """The bytes of standard output, unguarded: for the output of programs, through an ``output_filter``."""
    return (sys.stdout.exact if isinstance(sys.stdout, SafeOutput) else sys.stdout).buffer


def overwrite_line(text: str, width: int) -> None:
    """Write over the last line on standard error, which had ``width`` characters; the cursor stays on it."""
    stream = sys.stderr.exact if isinstance(sys.stderr, SafeOutput) else sys.stderr
    stream.write(f"\r{printable(text):<{width}}")
    if not text:
        stream.write("\r")
    stream.flush()


class OutputFilter:
    """Makes what a program printed safe for a terminal, piece by piece. Its colours stay; all else is replaced.

    A sequence of bytes or a colour may be divided between two pieces.
    """

    def __init__(self, encoding: str = "utf-8") -> None:
        import codecs
        import re

        self._encoding = encoding
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pending = ""
        self._coloured = False
        self._unsafe = re.compile(f"({_COLOUR})|(\r(?=\n))|{_UNSAFE}")
        self._part = re.compile(f"(?:{_PART_OF_COLOUR}|\r\\Z)")

    def feed(self, data: bytes) -> bytes:
        """The next piece, safe; the end of it may come with the next one."""
        text = self._pending + self._decoder.decode(data)
        part = self._part.search(text)
        self._pending = text[part.start() :] if part else ""
        return self._safe(text[: len(text) - len(self._pending)])

    def end(self) -> bytes:
        """What was held back, and the end of the program's colours."""
        text, self._pending = self._pending + self._decoder.decode(b"", final=True), ""
        end = self._safe(text)
        return end + b"\x1b[0m" if self._coloured else end

    def _safe(self, text: str) -> bytes:
        def replaced(match: Any) -> str:
            if match[1]:
                self._coloured = True
                return str(match[1])
            return "" if match[2] else _REPLACEMENT

        return self._unsafe.sub(replaced, text).encode(self._encoding, "replace")


def output_filter(*, raw: bool) -> OutputFilter | None:
    """The filter for the output of a program on standard output; None where its bytes are written as they are.

    They are to a pipe and to a file, and to a terminal with ``raw``.
    """
    return OutputFilter(sys.stdout.encoding or "utf-8") if sys.stdout.isatty() and not raw else None
