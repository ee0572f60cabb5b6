"""Turns the bytes of one stream into the lines that a terminal shows, so that a pattern sees what a person sees.

A state machine over ECMA-48 (control functions) as xterm extends it (OSC). Each byte is looked at once. Only the row
under the cursor is kept, cut at a bound, and never the content of a control sequence. It knows one row, no screen: a
control function that moves the cursor to another row ends the line.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Callable, Iterator

__all__ = ["MAX_COLUMNS", "TerminalLines"]

MAX_COLUMNS = 16 * 1024
"""The longest line; what is written beyond is not kept."""
_EDITED_COLUMNS = 1024
"""How far control functions reach: no terminal is wider, and the work of each is bounded by it."""
_CELL_CHARACTERS = 16
"""A character with those that combine with it."""
_PARAMETER_CHARACTERS = 128

_RUN = re.compile("[^\x00-\x1f\x7f-\x9f\udc80-\udcff]+")
_STRING_END = re.compile("[\x07\x18\x1a\x1b\n\x9c\udc9c]")
_C1 = {"\x84": "\n", "\x85": "\n", "\x8d": "\n", "\x9b": "[", "\x9d": "]", "\x90": "P", "\x98": "X", "\x9e": "^"}
_C1["\x9f"] = "_"
_UNSEEN = frozenset("\ufeff\u200b\u200e\u200f\u2060\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_WIDE = ("W", "F")


class _Row:
    """The cells of one row, and the cursor. A cell without text belongs to the wide character or tab before it."""

    def __init__(self) -> None:
        self.cells: list[str] = []
        self.cursor = 0

    def text(self) -> str:
        return "".join(self.cells)

    def clear(self) -> None:
        self.cells.clear()
        self.cursor = 0

    def write(self, text: str) -> None:
        if text.isascii():
            self._put(text)
            return
        for character in text:
            if character in _UNSEEN:
                continue
            if unicodedata.category(character) in ("Mn", "Me", "Cf"):
                self._combine(character)
            else:
                wide = unicodedata.east_asian_width(character) in _WIDE
                self._put([character, ""] if wide else character)

    def _put(self, cells: str | list[str]) -> None:
        cells = cells[: max(MAX_COLUMNS - self.cursor, 0)]
        if cells:
            end = self.cursor + len(cells)
            self._reach(self.cursor)
            self._split(self.cursor)
            self._split(end)
            self.cells[self.cursor : end] = cells
            self.cursor = end

    def _combine(self, character: str) -> None:
        position = min(self.cursor, len(self.cells)) - 1
        while position > 0 and not self.cells[position]:
            position -= 1
        if position >= 0 and len(self.cells[position]) < _CELL_CHARACTERS:
            self.cells[position] += character

    def _reach(self, column: int) -> None:
        self.cells.extend(" " * (column - len(self.cells)))

    def _split(self, column: int) -> None:
        """Blank the wide character or tab that covers both sides of a column."""
        if column < len(self.cells) and not self.cells[column]:
            start = column - 1
            while start > 0 and not self.cells[start]:
                start -= 1
            end = column
            while end < len(self.cells) and not self.cells[end]:
                end += 1
            self.cells[start:end] = " " * (end - start)

    def move(self, column: int) -> None:
        self.cursor = min(max(column, 0), MAX_COLUMNS)

    def tab(self) -> None:
        stop = self.cursor - self.cursor % 8 + 8
        if self.cursor >= len(self.cells):
            # It stays a tab in the text: a pattern may have one.
            self._put(["\t", *[""] * (stop - self.cursor - 1)])
        self.move(stop)

    def erase(self, start: int, end: int) -> None:
        if end >= len(self.cells):
            self._split(start)
            del self.cells[start:]
            self.cursor = min(self.cursor, max(len(self.cells), _EDITED_COLUMNS))
        elif start < end:
            self._split(start)
            self._split(end)
            self.cells[start:end] = " " * (end - start)

    def delete(self, count: int) -> None:
        self._split(self.cursor)
        self._split(self.cursor + count)
        del self.cells[self.cursor : self.cursor + count]

    def insert(self, count: int) -> None:
        if self.cursor < len(self.cells):
            self._split(self.cursor)
            self.cells[self.cursor : self.cursor] = " " * count
            del self.cells[MAX_COLUMNS:]


class TerminalLines:
    """The lines of one stream. ``feed`` takes bytes in pieces of any size, also within a character or sequence."""

    def __init__(self) -> None:
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._row = _Row()
        self._latest = _Row()
        """What was written since the last carriage return: the last state of a progress display may be shorter than
        the one that it is written over."""
        self._returned = False
        self._changed = False
        self._state: Callable[[str, int], int] = self._ground
        self._parameters = ""
        self._held: list[str] | None = None
        self._held_characters = 0
        self._ended: list[tuple[str, ...]] = []

    def feed(self, data: bytes) -> Iterator[tuple[str, ...]]:
        """The lines that end in this piece. Each is the row as it is shown, and, where that differs, what was written
        since the last carriage return.
        """
        text = self._decode(data)
        position = 0
        while position < len(text):
            position = self._state(text, position)
            if self._ended:
                yield from self._ended
                self._ended.clear()

    def present(self) -> tuple[str, ...]:
        """The line that has begun, in the same form; () when it is empty or unchanged since it was last taken."""
        changed, self._changed = self._changed and bool(self._row.cells), False
        return self._shown() if changed else ()

    def lose(self) -> Iterator[tuple[str, ...]]:
        """Note that bytes of the stream are lost: the line ends, and so does a sequence that had begun."""
        self._state = self._ground
        self._decode(b"", True)
        yield from self.feed(b"\n")

    def _shown(self) -> tuple[str, ...]:
        row = self._row.text()
        latest = (self._latest.text() if self._returned else "") or row
        return (row,) if latest == row else (row, latest)

    def _end_line(self, column: int = 0) -> None:
        self._ended.append(self._shown())
        self._row.clear()
        self._latest.clear()
        self._returned = self._changed = False
        self._row.move(column)
        self._latest.move(column)

    # States. Each takes the text and a position, and returns the position after what it has consumed.

    def _ground(self, text: str, position: int) -> int:
        run = _RUN.match(text, position)
        if run is not None:
            self._write(run[0])
            return run.end()
        character = text[position]
        raw = character >= "\udc80"
        if raw:
            # A byte that is no UTF-8: a control character in an 8-bit encoding, or some letter.
            if character > "\udc9f":
                self._write("\ufffd")
                return position + 1
            character = chr(ord(character) - 0xDC00)
        if character >= "\x80":
            self._held = [] if raw else None
            self._control(_C1.get(character, ""))
            if raw and self._state == self._csi:
                self._state = self._raw_csi
        elif character == "\x1b":
            self._held = None
            self._state = self._escape
        else:
            self._execute(character)
        return position + 1

    def _write(self, text: str) -> None:
        self._row.write(text)
        if self._returned:
            self._latest.write(text)
        self._changed = True

    def _execute(self, character: str) -> None:
        if character in "\n\v\f":
            self._end_line()
        elif character == "\r":
            self._returned = True
            self._row.move(0)
            if self._latest.cells or self._latest.cursor:
                self._latest.clear()
        elif character == "\b":
            self._each(lambda row: row.move(row.cursor - 1))
        elif character == "\t":
            self._each(_Row.tab)
            self._changed = True

    def _each(self, edit: Callable[[_Row], None]) -> None:
        edit(self._row)
        if self._returned:
            edit(self._latest)

    def _control(self, what: str) -> None:
        """Begin, or carry out, the control function that ESC and this character stand for."""
        self._parameters = ""
        self._state = self._ground
        if what == "[":
            self._state = self._csi
        elif what and what in "]PX^_":
            self._held_characters = 0
            self._state = self._string
        elif what == "\n":
            self._end_line()

    def _escape(self, text: str, position: int) -> int:
        character = text[position]
        if character < " ":
            return self._inside(character, position)
        if character <= "/":
            self._state = self._escape_intermediate
        else:
            self._control("\n" if character in "DEM" else character if character in "[]PX^_" else "")
            if character == "c":
                self._each(_Row.clear)
            elif character > "~":
                return position  # no sequence: the character is shown
        return position + 1

    def _escape_intermediate(self, text: str, position: int) -> int:
        character = text[position]
        if character < " ":
            return self._inside(character, position)
        if character > "/":
            self._state = self._ground
            return position if character > "~" else position + 1
        return position + 1

    def _inside(self, character: str, position: int) -> int:
        """A control character inside a sequence: it cancels or begins one, or acts as if it stood before."""
        if character == "\x1b":
            self._held = None
            self._state = self._escape
        elif character in "\x18\x1a":
            self._state = self._ground
        else:
            if character == "\n":
                self._state = self._ground  # a program that was killed within a sequence hides no further line
            self._execute(character)
        return position + 1

    def _raw_csi(self, text: str, position: int) -> int:
        """After the one byte 0x9B: a control sequence if it goes on like one, else a letter of another encoding."""
        self._state = self._ground
        if text[position] in "0123456789;?mKJGH":
            self._state = self._csi
        else:
            self._write("\ufffd")
        return position

    def _csi(self, text: str, position: int) -> int:
        character = text[position]
        if character < " ":
            return self._inside(character, position)
        if character < "@":
            if len(self._parameters) < _PARAMETER_CHARACTERS:
                self._parameters += character
            return position + 1
        self._state = self._ground
        if character > "~":
            return position
        self._edit(character)
        return position + 1

    def _string(self, text: str, position: int) -> int:
        """An operating system command, device control string or the like, up to its terminator, unseen."""
        end = _STRING_END.search(text, position)
        stop = len(text) if end is None else end.start()
        if self._held is not None and self._held_characters < MAX_COLUMNS:
            self._held.append(text[position : min(stop, position + MAX_COLUMNS)])
            self._held_characters += len(self._held[-1])
        if end is None:
            return stop
        self._state = self._ground
        if end[0] == "\x1b":
            self._state = self._escape  # ST is ESC \, which does nothing else
        elif end[0] == "\n":
            # It does not go on beyond its line: a program that was killed within one hides no further line. After a
            # byte that is no UTF-8 it was none, but text in another encoding.
            for held in self._held or ():
                self._write("".join(c if c.isprintable() else "\ufffd" for c in held))
            self._execute("\n")
        self._held = None
        return stop + 1

    # Control sequences that change a row

    def _number(self, index: int = 0, default: int = 1) -> int:
        parts = self._parameters.split(";")
        digits = parts[index] if index < len(parts) else ""
        return min(int(digits[:6]), _EDITED_COLUMNS) or default if digits.isascii() and digits.isdigit() else default

    def _edit(self, final: str) -> None:
        if self._parameters[:1] in ("?", ">", "=", "<") or self._parameters[-1:] in tuple(" !\"#$%&'()*+,-./"):
            return  # private, or another function
        count = self._number()
        self._changed = True
        if final in "G`" and count == 1:
            self._execute("\r")
        elif final in "CaDG`@PXKJ":
            self._each(lambda row: self._edit_row(row, final, count))
        elif final in "ABEFHfde":
            column = self._number(1) - 1 if final in "Hf" else 0 if final in "EF" else self._row.cursor
            column = min(column, _EDITED_COLUMNS)
            if self._row.cells:
                self._end_line(column)
            else:
                self._each(lambda row: row.move(column))

    def _edit_row(self, row: _Row, final: str, count: int) -> None:
        if final in "Ca":
            row.move(min(row.cursor + count, max(row.cursor, _EDITED_COLUMNS)))
        elif final == "D":
            row.move(row.cursor - count)
        elif final in "G`":
            row.move(count - 1)
        elif final == "@":
            row.insert(count)
        elif final == "P":
            row.delete(count)
        elif final == "X":
            row.erase(row.cursor, row.cursor + count)
        else:
            what = self._number(default=0)
            start = 0 if what in (1, 2, 3) else row.cursor
            row.erase(start, min(row.cursor + 1, _EDITED_COLUMNS) if what == 1 else MAX_COLUMNS)
