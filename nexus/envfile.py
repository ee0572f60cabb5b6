"""Reads files of ``NAME=value`` lines and replaces ``${NAME}``, by the rules of Compose for ``.env`` files.

docs/files.md has the rules, and where this differs. It owns the syntax alone, for the daemon and for nexusctl: it
reads no file and knows no environment. Time and memory are linear in the text and bounded by limits. An error has the
line, and never a value: it may be a secret.
"""

from __future__ import annotations

import os
import re
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

__all__ = [
    "Assignment",
    "BadLine",
    "BadReference",
    "Limits",
    "Reading",
    "Required",
    "TooLong",
    "assignments",
    "interpolate",
    "is_name",
    "read",
]

_BLANK = " \t\v\f\r\x85\xa0"
_SPACE = (
    _BLANK + "\n\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
)
_BLANKS = re.compile(f"[{_BLANK}]*")
_SPACES = re.compile(f"[{_SPACE}]*")
_LINE = re.compile(r"[^\n]*")
_UNTIL_EQUALS = re.compile(f"[^=#{_SPACE}]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UNCLEAR_COMMENT = re.compile(f"[{_BLANK.strip(' ')}]#")
# Of each pattern above one match takes time linear in what it consumes: one class, and no alternatives. What has
# alternatives (quoted values) is stepped through below, as a pattern would keep a state for each character.
_QUOTE_END = {"'": re.compile(r"['\\]"), '"': re.compile(r'["\\]')}
_ESCAPED = re.compile(r"\\(0[0-9]{0,3}|.)", re.DOTALL)
_ESCAPES = {
    "a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", '"': '"',
    "$": "$$",  # a reference is replaced later, and $$ stands for $
}  # fmt: skip

_FORM = "it is not of the form NAME=value"
_BAD_NAME = "the name of a variable may have only letters, digits and _, and not begin with a digit"


class Assignment(NamedTuple):
    """A name and its value, with the line on which they begin; the value of a name without ``=`` is None."""

    line: int
    name: str
    value: str | None
    literal: bool = False
    """Whether the value is in single quotes, so that no reference in it is replaced."""

    def __repr__(self) -> str:
        return f"Assignment(line={self.line})"


class BadLine(Exception):
    """A line is neither an assignment nor a comment, or its value is refused."""

    def __init__(self, line: int, problem: str = _FORM, hint: str | None = None) -> None:
        super().__init__(f"line {line}: {problem}")
        self.line, self.problem, self.hint = line, problem, hint


class TooLong(Exception):
    """A value with its references replaced exceeds the bound."""


class BadReference(Exception):
    """A ``${`` of the value begins no reference, or is not closed."""


class Required(Exception):
    """A reference needs a variable that is unset, or with ``:?`` empty."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(f"{name} is required" + (f": {message}" if message else ""))
        self.name = name
        self.message = message
        """The text after ``?``, as it is written: no reference in it is replaced. Empty if there is none."""


class Limits(NamedTuple):
    """The bounds of what a ``Reading`` collects."""

    variables: int = 1000
    """How many assignments, also to one name."""
    name_characters: int = 256
    value_characters: int = 32_768
    """With references replaced."""
    total_bytes: int = 1024 * 1024
    """Of all names and values, with references replaced; also of values that a later line replaces."""


def is_name(text: str) -> bool:
    """Whether the text may be the name of a variable."""
    return _NAME.fullmatch(text) is not None


# Lines


def assignments(text: str) -> Iterator[Assignment]:
    r"""The assignments of a text, in order.

    Values are quoted with ``'`` or ``"`` or not at all; ``export`` before a name, comments and a byte order mark are
    left out; references are left as they are, with ``\$`` in double quotes as ``$$``. ``\r\n`` is the end of a line,
    and ``\n`` in a value.

    Raises:
        BadLine: a line is neither an assignment nor a comment, or a quote is not closed.
    """
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    position, line, counted = 0, 1, 0
    while True:
        position = _after(_SPACES, text, position)
        line += text.count("\n", counted, position)
        counted = position
        if position == len(text):
            return
        if text.startswith("#", position):
            position = _after(_LINE, text, position)
            continue
        start = _after_export(text, position)
        position = _after(_UNTIL_EQUALS, text, start)
        name = text[start:position]
        position = _after(_BLANKS, text, position)
        if not name or (not text.startswith(("=", "\n"), position) and position < len(text)):
            raise BadLine(line)
        if not is_name(name):
            raise BadLine(line, _BAD_NAME)
        value, literal = None, False
        if text.startswith("=", position):
            value, literal, position = _value(text, position + 1, line)
        yield Assignment(line, name, value, literal)


def _after(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    assert match is not None  # each of these patterns matches nothing, too
    return match.end()


def _after_export(text: str, position: int) -> int:
    if not text.startswith("export", position):
        return position
    after = _after(_BLANKS, text, position + 6)
    return after if after > position + 6 and not text.startswith(("=", "\n"), after) else position


def _value(text: str, position: int, line: int) -> tuple[str, bool, int]:
    """The value that begins here, whether it is literal, and where its line ends."""
    start = _after(_BLANKS, text, position)
    quote = text[start : start + 1]
    if quote in _QUOTE_END:
        value, position = _quoted(text, start, quote, line)
        position = _after(_BLANKS, text, position)
        if text.startswith("#", position):
            position = _after(_LINE, text, position)
        elif position < len(text) and text[position] != "\n":
            raise BadLine(line, f"{_FORM}: there is text after the closing quote")
        return value, quote == "'", position
    end = _after(_LINE, text, start)
    if quote == "#" and start > position:
        return "", False, end
    comment = text.find(" #", start, end)
    stop = end if comment < 0 else comment
    if _UNCLEAR_COMMENT.search(text, start, stop) is not None:
        raise BadLine(
            line, "a # after a tab begins no comment", "Put a space before the #, or quotes around the value."
        )
    value = text[start:stop].rstrip(_SPACE)
    if "\r" in value:
        raise BadLine(line, "it has a carriage return that ends no line", "Let lines end with LF or CR LF.")
    return value, False, end


def _quoted(text: str, start: int, quote: str, line: int) -> tuple[str, int]:
    search, position = _QUOTE_END[quote].search, start + 1
    while (found := search(text, position)) is not None:
        position = found.start()
        if text[position] == quote:
            inside = text[start + 1 : position]
            return (_unescape(inside, line) if quote == '"' else _unquote(inside)), position + 1
        position += 2  # a backslash, and what it escapes
    raise BadLine(line, f"{_FORM}: its quote is not closed")


def _unquote(text: str) -> str:
    return _ESCAPED.sub(lambda escape: "'" if escape[1] == "'" else escape[0], text)


def _unescape(text: str, line: int) -> str:
    def replace(escape: re.Match[str]) -> str:
        what = escape[1]
        if not what.startswith("0"):
            return _ESCAPES.get(what, escape[0])
        try:
            code = int(what[1:], 8) if len(what) == 4 else 256
        except ValueError:
            code = 256
        if code > 255:
            raise BadLine(line, r"\0 must be followed by three octal digits, 377 at most")
        return chr(code)

    return _ESCAPED.sub(replace, text)


# References


_SPECIAL = re.compile(r"[${}]")
_OPERATOR = re.compile(r":?[-+?]")


class _Brace(NamedTuple):
    """An opened brace: that of a reference with an operator, or one that is text inside of it."""

    active: bool
    """Whether what is around it is a part of the result; of a brace that is text it does not count."""
    is_text: bool = False
    required: str | None = None
    """The variable that is missing, where the rest up to the closing brace is the message."""
    start: int = 0


_TEXT_BRACE = _Brace(active=True, is_text=True)


def interpolate(
    value: str,
    known: Mapping[str, str],
    limit: int,
    *,
    strict: bool = False,
    also: re.Pattern[str] | None = None,
) -> str:
    """The value with its references replaced; a name that is not known, without a default, is empty.

    A reference is ``$NAME``, ``${NAME}``, ``${NAME:-default}``, ``${NAME:+alternative}`` or ``${NAME:?message}``, the
    last three also without ``:``, where an empty value counts as set. Defaults may hold references; only those that are
    used are replaced. ``$$`` is a dollar, and so is a ``$`` before anything else.

    ``strict``: a name that is not known needs a default. ``also``: further names that braces may have, in ``known``
    as well.

    Raises:
        TooLong: the result has more than ``limit`` characters; not more than that is built.
        Required: a variable is needed, and there is none.
        BadReference: a ``${`` begins no reference, or is not closed.
    """
    pieces: list[str] = []
    left = limit

    def add(piece: str) -> None:
        nonlocal left
        if active:
            left -= len(piece)
            if left < 0:
                raise TooLong
            pieces.append(piece)

    def look_up(name: str) -> str:
        found = known.get(name) if active else ""
        if found is None and strict:
            raise Required(name, "")
        return found or ""

    braces: list[_Brace] = []
    active, position = True, 0
    while (special := _SPECIAL.search(value, position)) is not None:
        at = special.start()
        add(value[position:at])
        position = at + 1
        if value[at] == "{":
            add("{")
            if braces:
                braces.append(_TEXT_BRACE)
        elif value[at] == "}":
            brace = braces.pop() if braces else None
            if brace is None or brace.is_text:
                add("}")
                continue
            active = brace.active
            if brace.required is not None:
                raise Required(brace.required, value[brace.start : at])
        elif value.startswith("$", position):
            add("$")
            position += 1
        elif not value.startswith("{", position):
            if (name := _NAME.match(value, position)) is None:
                add("$")
            else:
                add(look_up(name[0]))
                position = name.end()
        else:
            name = (also.match(value, at + 2) if also is not None else None) or _NAME.match(value, at + 2)
            if name is None:
                raise BadReference
            position = name.end()
            if value.startswith("}", position):
                add(look_up(name[0]))
                position += 1
                continue
            operator = _OPERATOR.match(value, position)
            if operator is None:
                raise BadReference
            position = operator.end()
            found = known.get(name[0]) if active else None
            usable = bool(found) if operator[0][0] == ":" else found is not None
            kind = operator[0][-1]
            if kind != "+" and usable:
                add(found or "")
            missing = name[0] if kind == "?" and active and not usable else None
            braces.append(_Brace(active, required=missing, start=position))
            active = active and kind != "?" and usable == (kind == "+")
    if braces:
        raise BadReference
    add(value[position:])
    return "".join(pieces)


# Variables


class Reading:
    """Collects the variables of one or more files, of which later lines override earlier ones.

    A reference is replaced by what was collected before, else by what is ``known``; with ``known_first`` the other way
    round. A name without ``=`` has its value from ``known``.
    """

    def __init__(self, known: Mapping[str, str], limits: Limits | None = None, *, known_first: bool = False) -> None:
        self.variables: dict[str, str] = {}
        """By name, in the order of their first lines."""
        self._limits = limits or Limits()
        self._known = dict(known)
        first, second = (self._known, self.variables) if known_first else (self.variables, self._known)
        self._all = ChainMap(first, second)
        self._count = self._bytes = 0

    def add(self, assignments: Iterable[Assignment]) -> None:
        """Collect the assignments of a file.

        Raises:
            BadLine: a value is refused, or a limit exceeded.
        """
        for line, name, value, literal in assignments:
            self._count += 1
            if self._count > self._limits.variables:
                raise BadLine(line, f"there are more than {self._limits.variables:,} variables", self._hint)
            if len(name) > self._limits.name_characters:
                problem = f"the name of a variable is longer than {self._limits.name_characters} characters"
                raise BadLine(line, problem)
            replaced = self._value(line, name, value, literal=literal)
            if "\0" in replaced:
                raise BadLine(line, f"{name} has a NUL character")
            try:
                self._bytes += len(name) + len(os.fsencode(replaced))
            except UnicodeEncodeError:
                raise BadLine(line, f"{name} is not text") from None
            if self._bytes > self._limits.total_bytes:
                problem = f"names and values come to more than {_size(self._limits.total_bytes)}"
                raise BadLine(line, problem, self._hint)
            self.variables[name] = replaced

    @property
    def _hint(self) -> str:
        size = _size(self._limits.total_bytes)
        return f"There may be {self._limits.variables:,} variables, and {size} of names and values together."

    def _value(self, line: int, name: str, value: str | None, *, literal: bool) -> str:
        if value is None:
            value, literal = self._known.get(name, self.variables.get(name)), True
            if value is None:
                # The name is not shown: it may be a secret on a line of its own.
                raise BadLine(line, "it has no value, and the environment has none of this name", _NO_VALUE_HINT)
        limit = self._limits.value_characters
        try:
            if not literal:
                return interpolate(value, self._all, limit)
            if len(value) <= limit:
                return value
        except Required as error:
            words = " ".join(error.message[:_MAX_MESSAGE_CHARACTERS].split())
            words = f": {words}" if words else ""
            raise BadLine(line, f"{error.name} is required and has no value{words}", _REQUIRED_HINT) from None
        except BadReference:
            raise BadLine(line, "a ${ begins no reference, or is not closed", _REFERENCE_HINT) from None
        except TooLong:
            pass
        problem = f"{name} is longer than {limit:,} characters"
        raise BadLine(line, problem, "Shorten the value, and what its ${NAME} stand for.")


_MAX_MESSAGE_CHARACTERS = 200
_NO_VALUE_HINT = "For an empty value write NAME=."
_REFERENCE_HINT = "Write $$ for a dollar, or put the value into single quotes."
_REQUIRED_HINT = "Set it in an earlier line, or in the environment."


def _size(size_bytes: int) -> str:
    return f"{size_bytes // (1024 * 1024)} MiB" if size_bytes % (1024 * 1024) == 0 else f"{size_bytes:,} bytes"


def read(
    text: str, known: Mapping[str, str], limits: Limits | None = None, *, known_first: bool = False
) -> dict[str, str]:
    """The variables of a text, by name, with references replaced, as ``Reading`` does.

    Raises:
        BadLine: a line is neither an assignment nor a comment, a value is refused, or a limit exceeded.
    """
    reading = Reading(known, limits, known_first=known_first)
    reading.add(assignments(text))
    return reading.variables
