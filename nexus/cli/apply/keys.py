"""The keys of a section's tables: the values that each accepts, and the field that it stands for.

They are derived from the declaration of the command that creates a record. Reading, writing and printing differences
share them. This module knows no key of any capability.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_origin, get_type_hints

from msgspec import Meta
from nexus_protocol.command import Command, hint_parts

from nexus.cli.units import parse_duration, parse_size
from nexus.records.fields import keys_of

__all__ = ["FLAG", "GIVEN_PATH", "InvalidValue", "Key", "Keys", "Kind", "choice"]


class InvalidValue(Exception):
    """A value of the file is not one that its key accepts; the message follows the key's name."""


class Kind(NamedTuple):
    """A type of values: ``read`` converts the file's value to the field's value, ``write`` back."""

    read: Callable[[Any, str], Any]
    """Takes the file's value and the file's directory."""
    write: Callable[[Any], Any] = lambda value: value
    references: bool = False
    """Whether ``${NAME}`` in text of the value is replaced."""
    from_text: Callable[[str], Any] = str
    """Converts a text with references to what ``read`` takes, once they are replaced."""


def _typed(kind: type, expected: str) -> Callable[[Any, str], Any]:
    def read(value: Any, _directory: str) -> Any:
        if type(value) is not kind:
            raise InvalidValue(f"expected {expected}")
        return value

    return read


def _parsed(parse: Callable[[str], int], expected: str) -> Callable[[Any, str], int]:
    def read(value: Any, _directory: str) -> int:
        if type(value) not in (str, int, float):
            raise InvalidValue(f"expected {expected}")
        try:
            return parse(str(value))
        except ValueError as error:
            raise InvalidValue(str(error)) from None

    return read


def _written_time(ms: int) -> str:
    return f"{ms}ms" if ms % 1000 or not ms else f"{ms // 1000}s"


def _written_size(mib: int) -> str:
    return f"{mib}M" if mib % 1024 else f"{mib // 1024}G"


def choice(enum: type[Enum]) -> Kind:
    """The values of an enum."""
    words = [member.value for member in enum]

    def read(value: Any, _directory: str) -> Any:
        if value in words:
            return value
        near = get_close_matches(value, words, 1) if isinstance(value, str) else []
        raise InvalidValue(f"expected one of {', '.join(words)}" + (f" (did you mean {near[0]}?)" if near else ""))

    return Kind(read)


def _read_command(value: Any, _directory: str) -> Any:
    if type(value) is str or (isinstance(value, list) and all(type(word) is str for word in value)):
        return value
    raise InvalidValue("expected a line for the shell, or a list of words")


def _read_words(value: Any, _directory: str) -> Any:
    if isinstance(value, list) and all(type(word) is str for word in value):
        return sorted(set(value)) or None
    raise InvalidValue("expected a list of words")


def _read_path(value: Any, directory: str) -> str | None:
    if type(value) is not str:
        raise InvalidValue("expected a path")
    try:
        return os.path.normpath(directory / Path(value).expanduser()) if value else None
    except RuntimeError:
        raise InvalidValue("expected a path; there is no such home directory") from None


def _read_given_path(value: Any, _directory: str) -> str | None:
    if type(value) is not str:
        raise InvalidValue("expected a path")
    return value or None


def _read_variables(value: Any, _directory: str) -> dict[str, str] | None:
    if not isinstance(value, dict):
        raise InvalidValue("expected a table of variables")
    found = {}
    for name, text in value.items():
        if type(text) is bool:
            text = "true" if text else "false"
        elif type(text) not in (str, int, float):
            raise InvalidValue(f"expected text for {name}")
        found[name] = str(text)
    return found or None


def _whole_number(text: str) -> int:
    if re.fullmatch("[0-9]{1,18}", text.strip()):
        return int(text)
    raise InvalidValue("expected a whole number")


FLAG = Kind(_typed(bool, "true or false"))
_TEXT = Kind(_typed(str, "text"))
_WHOLE = Kind(_typed(int, "a whole number"), from_text=_whole_number)
_TIME = Kind(_parsed(parse_duration, "a time such as 500ms, 5s, 2m or 1h"), _written_time)
_SIZE = Kind(_parsed(parse_size, "a size such as 256M or 1G"), _written_size)
_COMMAND = Kind(_read_command)
_PATH = Kind(_read_path, references=True)
GIVEN_PATH = Kind(_read_given_path, references=True)
"""A path as it is given: one of another machine."""
_VARIABLES = Kind(_read_variables, references=True)
_WORDS = Kind(_read_words)


class Key(NamedTuple):
    """One key of a table; ``path`` is relative to that table."""

    path: tuple[str, ...]
    field: str
    kind: Kind


class Keys:
    """The keys of the tables of one section.

    ``kinds`` are those of fields whose values are written in a form of their own. ``short`` has, for keys that take a
    table, the key in it that a single value stands for. In the values of the fields in ``references``, of paths and of
    variables, ``${NAME}`` is replaced.
    """

    def __init__(
        self,
        create: type[Command[Any]],
        *,
        kinds: Mapping[str, Kind] | None = None,
        short: Mapping[str, str] | None = None,
        references: Iterable[str] = (),
    ) -> None:
        hints = get_type_hints(create, include_extras=True)
        own, replaced = kinds or {}, set(references)

        def kind(field: str) -> Kind:
            found = own[field] if field in own else _kind(field, hints[field])
            return found._replace(references=True) if field in replaced else found

        self.create = create
        self.short = short or {}
        self.all = tuple(Key(path, field, kind(field)) for field, path in keys_of(create).items())
        """In the order in which they are written."""
        self.by_path = {key.path: key for key in self.all}
        self.by_field = {key.field: key for key in self.all}
        self.secret_maps = frozenset(key.field for key in self.all if key.kind.read is _read_variables)
        """The fields of variables, whose values are never shown."""

    def defaults(self) -> dict[str, Any]:
        """The default of each field, as a plain value."""
        return dict(self._defaults)

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        import msgspec

        return {
            field.name: field.default.value if isinstance(field.default, Enum) else field.default
            for field in msgspec.structs.fields(self.create)
            if not field.required and field.name not in ("id", "managed_by")
        }

    def fields_of(self, record: object) -> dict[str, Any]:
        """The fields of the command that would create the same record."""
        import msgspec

        plain: dict[str, Any] = msgspec.to_builtins(record)
        return {name: plain.get(name, default) for name, default in self.defaults().items()}

    def path(self, field: str) -> tuple[str, ...]:
        """The path of a field's key; of an unknown field none."""
        return self.by_field[field].path if field in self.by_field else ()

    def shown_key(self, field: str) -> str:
        """The key of a field, as it is written in the file."""
        return ".".join(self.path(field)) or field

    def shown_value(self, field: str, value: Any) -> str:
        """A field's value as it would be written in the file."""
        import msgspec

        if value is None:
            return "none"
        kind = self.by_field[field].kind if field in self.by_field else _TEXT
        return msgspec.json.encode(kind.write(value)).decode()

    def table(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The table for the file, without defaults."""
        defaults = self.defaults()
        table: dict[str, Any] = {}
        for key in self.all:
            value = fields[key.field]
            if value == defaults[key.field]:
                continue
            inner = table
            for name in key.path[:-1]:
                inner = inner.setdefault(name, {})
            written = key.kind.write(value)
            inner[key.path[-1]] = _escaped(written) if key.kind.references else written
        for name, short in self.short.items():
            if list(table.get(name, ())) == [short]:
                table[name] = table[name][short]
        return table


def _escaped(value: Any) -> Any:
    """The value with each dollar doubled, so that none begins a reference."""
    if isinstance(value, str):
        return value.replace("$", "$$")
    if isinstance(value, list):
        return [_escaped(one) for one in value]
    return {name: _escaped(one) for name, one in value.items()} if isinstance(value, dict) else value


def _kind(field: str, hint: Any) -> Kind:
    """The kind of a field, from its type and the unit in its name."""
    parts = list(hint_parts(hint))
    if field == "tags":
        return _WORDS
    if any(isinstance(part, Meta) and part.extra and part.extra.get("path") for part in parts):
        return _PATH
    types = {part for part in parts if isinstance(part, type)}
    enums = [part for part in types if issubclass(part, Enum)]
    if enums:
        return choice(enums[0])
    if any(get_origin(part) is dict for part in parts):
        return _VARIABLES
    if any(get_origin(part) is list for part in parts):
        return _COMMAND
    if bool in types:
        return FLAG
    if int in types:
        return _TIME if field.endswith("_ms") else _SIZE if field.endswith("_mib") else _WHOLE
    return _TEXT
