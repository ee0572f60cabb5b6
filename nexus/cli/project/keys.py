"""The keys of a project file: the values that each accepts, and the field that it stands for.

Reading, writing and printing differences share these tables.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple, get_origin, get_type_hints

from msgspec import Meta
from nexus_protocol.command import Command, hint_parts

from nexus.cli.verbs import parse_duration, parse_size
from nexus.records.fields import keys_of
from nexus.services.commands import AddService
from nexus.services.states import (
    DependencyCondition,
    ServiceType,
    WhenLost,
)
from nexus.vms.commands import CreateVm
from nexus.vms.states import VmRole

__all__ = [
    "BY_PATH",
    "EDGE_KEYS",
    "KEYS",
    "OTHER_KEYS",
    "SHORT",
    "VM_KEYS",
    "Edge",
    "Key",
    "Kind",
    "InvalidValue",
    "key_of",
    "service_defaults",
    "shown_value",
    "vm_defaults",
]


class Edge(NamedTuple):
    """The attributes of a dependency."""

    condition: str = DependencyCondition.STARTED.value
    tunnel: bool = False
    when_lost: str = WhenLost.IGNORE.value


class InvalidValue(Exception):
    """A value of the file is not one that its key accepts; the message follows the key's name."""


class Kind(NamedTuple):
    """A type of values: ``read`` converts the file's value to the field's value, ``write`` back."""

    read: Callable[[Any, str], Any]
    """Takes the file's value and the file's directory."""
    write: Callable[[Any], Any] = lambda value: value


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


def _choice(enum: type[Enum]) -> Kind:
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


def _read_files(value: Any, _directory: str) -> Any:
    if (type(value) is str and value) or (isinstance(value, list) and all(type(name) is str for name in value)):
        return value or None
    raise InvalidValue("expected the name of a file, or a list of names")


def _read_path(value: Any, directory: str) -> str | None:
    if type(value) is not str:
        raise InvalidValue("expected a path")
    try:
        return os.path.normpath(directory / Path(value).expanduser()) if value else None
    except RuntimeError:
        raise InvalidValue("expected a path; there is no such home directory") from None


def _read_umask(value: Any, _directory: str) -> str:
    if type(value) is str and re.fullmatch("0?[0-7]{3}", value):
        return value
    raise InvalidValue('expected three octal digits in quotes, such as "022"')


def _read_tcp(value: Any, _directory: str) -> int:
    if value is True:
        return 0
    if type(value) is not int:
        raise InvalidValue("expected a port, or true for the service's own")
    return value


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


_TEXT = Kind(_typed(str, "text"))
_WHOLE = Kind(_typed(int, "a whole number"))
_FLAG = Kind(_typed(bool, "true or false"))
_TIME = Kind(_parsed(parse_duration, "a time such as 500ms, 5s, 2m or 1h"), _written_time)
_SIZE = Kind(_parsed(parse_size, "a size such as 256M or 1G"), _written_size)
_COMMAND = Kind(_read_command)
_PATH = Kind(_read_path)
_ONESHOT = Kind(
    lambda value, directory: ServiceType.ONESHOT.value if _FLAG.read(value, directory) else ServiceType.SIMPLE.value,
    lambda value: value == ServiceType.ONESHOT.value,
)


class Key(NamedTuple):
    """One key of a service's table; ``path`` is relative to that table."""

    path: tuple[str, ...]
    field: str
    kind: Kind


_OWN_KINDS = {
    "type": _ONESHOT,
    "umask": Kind(_read_umask),
    "tags": Kind(_read_words),
    "environment": Kind(_read_variables),
    "config_filename": Kind(_read_files),
    "health_tcp": Kind(_read_tcp, lambda value: value or True),
}
"""The kinds of the fields whose values are written in a form of their own."""


def _kind(field: str, hint: Any) -> Kind:
    """The kind of a field, from its type and the unit in its name."""
    parts = list(hint_parts(hint))
    if field in _OWN_KINDS:
        return _OWN_KINDS[field]
    if any(isinstance(part, Meta) and part.extra and part.extra.get("path") for part in parts):
        return _PATH
    types = {part for part in parts if isinstance(part, type)}
    enums = [part for part in types if issubclass(part, Enum)]
    if enums:
        return _choice(enums[0])
    if any(get_origin(part) is list for part in parts):
        return _COMMAND
    if bool in types:
        return _FLAG
    if int in types:
        return _TIME if field.endswith("_ms") else _SIZE if field.endswith("_mib") else _WHOLE
    return _TEXT


def _keys(command: type[Command[Any]]) -> tuple[Key, ...]:
    hints = get_type_hints(command, include_extras=True)
    return tuple(Key(path, field, _kind(field, hints[field])) for field, path in keys_of(command).items())


KEYS = _keys(AddService)
"""In the order in which they are written."""
BY_PATH: dict[tuple[str, ...], Key] = {key.path: key for key in KEYS}
BY_FIELD = {key.field: key for key in KEYS}
SHORT = {"restart": "policy", "stop": "signal", "config": "file", "repo": "url"}
"""For keys that take a table: the key in it that a single value stands for."""
OTHER_KEYS = ("depends_on", "start")

VM_KEYS = {
    "role": ("role", _choice(VmRole)),
    "vcpu": ("vcpu_count", _WHOLE),
    "mem": ("mem_size_mib", _SIZE),
}
EDGE_KEYS = {
    "condition": _choice(DependencyCondition),
    "tunnel": _FLAG,
    "when_lost": _choice(WhenLost),
}


def _defaults(command: type[Command[Any]]) -> dict[str, Any]:
    import msgspec

    return {
        field.name: field.default.value if isinstance(field.default, Enum) else field.default
        for field in msgspec.structs.fields(command)
        if not field.required and field.name not in ("id", "managed_by")
    }


def service_defaults() -> dict[str, Any]:
    """The default of each field of a service."""
    return _defaults(AddService)


def vm_defaults() -> dict[str, Any]:
    """The default of each field of a VM record."""
    return _defaults(CreateVm)


def key_of(field: str) -> str:
    """The key of a field in the file."""
    if field in BY_FIELD:
        return ".".join(BY_FIELD[field].path)
    return next((key for key, (name, _kind) in VM_KEYS.items() if name == field), field)


def shown_value(field: str, value: Any) -> str:
    """A field's value as it would be written in the file."""
    import msgspec

    if value is None:
        return "none"
    kind = BY_FIELD[field].kind if field in BY_FIELD else dict(VM_KEYS.values())[field]
    return msgspec.json.encode(kind.write(value)).decode()
