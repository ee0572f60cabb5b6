"""What Compose 2 (compose-go 2.13) makes of a ``.env`` file, written plainly and without regard to time.

It is what ``nexus.envfile`` is compared with, and it has Compose's faults as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["ComposeError", "compose"]

_BLANK = " \t\v\f\r\x85\xa0"
_SPACE = _BLANK + "\n\u2028\u2029"


class ComposeError(Exception):
    """Compose refuses the file."""


def compose(text: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables of a file, of which a name without ``=`` at the end of the text is not compared."""
    rest, found = text.removeprefix("\ufeff"), dict[str, str]()
    while rest := rest.lstrip(_SPACE):
        if rest[0] == "#":
            rest = rest.partition("\n")[2]
            continue
        if re.match(r"export[\t\n\f\r ]+", rest):
            rest = rest[6:].lstrip(_BLANK)
        key, end = _key(rest)
        rest = rest[len(key) + 1 :].lstrip(_BLANK)
        name = key.rstrip(_SPACE)
        if " " in name:
            raise ComposeError("a space in a name")
        if end == "\n":
            if name in environment:
                found[name] = environment[name]
            continue
        found[name], rest = _value(rest, {**found, **environment})
    return found


def _key(rest: str) -> tuple[str, str]:
    for index, character in enumerate(rest):
        if character in "=:\n":
            return rest[:index], character
        if character not in _BLANK + "_.-[]" and not character.isalnum():
            raise ComposeError("a character in a name")
    raise ComposeError("no end of a name")


def _value(rest: str, known: Mapping[str, str]) -> tuple[str, str]:
    quote = rest[:1]
    if quote not in ("'", '"'):
        line, _, rest = rest.partition("\n")
        return _replace(line.partition(" #")[0].rstrip(_SPACE), known), rest
    value, index = "", 1
    while index < len(rest):
        two = rest[index : index + 2]
        if two == "\\" + quote:
            value, index = value + quote, index + 2
        elif two[0] == "\\" and len(two) == 2:
            value, index = value + two, index + 2
        elif two[0] == quote:
            return _replace(_unescape(value), known) if quote == '"' else value, rest[index + 1 :]
        else:
            value, index = value + two[0], index + 1
    raise ComposeError("an open quote")


def _unescape(value: str) -> str:
    def one(match: re.Match[str]) -> str:
        text = match[0]
        if text == "\\$":
            return "$$"
        if text[1] == "0":
            digits = text[2:]
            octal = len(digits) == 3 and re.fullmatch("[0-7]+", digits) is not None and int(digits, 8) < 256
            return chr(int(digits, 8)) if octal else "\\" + digits
        plain = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", '"': '"', "\\": "\\"}
        return plain.get(text[1], text)

    return re.sub(r'\\(?:[abcfnrtv$"\\]|0[0-9]{0,3})', one, value)


def _replace(text: str, known: Mapping[str, str]) -> str:
    result = ""
    while "$" in text:
        before, _, after = text.partition("$")
        result += before
        if after[:1] == "$":
            result, text = result + "$", after[1:]
        elif (name := re.match("[A-Za-z_][A-Za-z0-9_]*", after)) is not None:
            result, text = result + known.get(name[0], ""), after[name.end() :]
        elif after[:1] == "{":
            piece, text = _braced(after, known)
            result += piece
        else:
            result, text = result + "$", after
    return result + text


def _braced(text: str, known: Mapping[str, str]) -> tuple[str, str]:
    """The result of a reference that begins with ``{``, and the text after it."""
    plain = re.match(r"\{([A-Za-z_][A-Za-z0-9_]*)\}", text)
    if plain is not None:
        return known.get(plain[1], ""), text[plain.end() :]
    longest = re.match(r"\{([A-Za-z_][A-Za-z0-9_]*)(:?[-+?])(.*)\}", text)
    if longest is None:
        raise ComposeError("no reference")
    end = _closing(longest[0])
    whole = longest[0] if end is None else longest[0][: end + 1]
    name, operator = longest[1], longest[2]
    argument = whole[1 + len(name) + len(operator) : -1]
    value = known.get(name)
    usable = bool(value) if operator[0] == ":" else value is not None
    if operator[-1] == "+":
        piece = _replace(argument, known) if usable else ""
    elif usable:
        piece = value or ""
    elif operator[-1] == "-":
        piece = _replace(argument, known)
    else:
        raise ComposeError("a required variable")
    return piece, text[len(whole) :]


def _closing(text: str) -> int | None:
    depth = index = 0
    while index < len(text):
        if text[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        if text[index] == "{":
            depth += 1
            index += 1
        index += 1
    return None
