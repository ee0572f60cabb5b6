"""What a section reads the tables of a project file with: values, and errors with file, line and key.

It collects all errors of a file, so that they are reported together. It reads no file and knows no section.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from nexus_protocol.codec import expected_value
from nexus_protocol.command import Command
from nexus_protocol.errors import InvalidArgument

from nexus.cli.apply.keys import InvalidValue, Keys, Kind
from nexus.cli.apply.references import EnvFileInvalid, References

__all__ = ["ProjectFile", "ProjectFileInvalid", "Reader", "find_line"]

_NAME_RULE = "expected a name of 1 to 64 letters, digits and . _ -, the first a letter or digit"
_VARIABLES_RULE = "expected names of letters, digits and _, and values without NUL, 32768 characters at most"


class ProjectFileInvalid(InvalidArgument):
    """The project file cannot be used; the message names the file, the key and, where it is known, the line."""

    type = "project.file_invalid"


class ProjectFile(NamedTuple):
    """The content of a project file."""

    path: str
    key: str | None
    """The value of its key ``project``: the name that its project is to have."""
    wanted: Mapping[str, Mapping[str, Any]]
    """For each section, by the name of its table, what its tables ask for, by name."""
    text: str = ""
    """The file's text, to find lines for error messages."""

    def where(self, at: Sequence[str]) -> str:
        """The file, and the line of a key."""
        line = find_line(self.text, at)
        return f"{self.path}, line {line}" if line else self.path

    def wrong(self, at: Sequence[str], problem: str, hint: str | None = None) -> ProjectFileInvalid:
        """The error for a valid value that cannot be used."""
        return ProjectFileInvalid(f"cannot use {self.where(at)}: {_dotted(at)}: {problem}", hint=hint)


class Reader:
    """Reads one document."""

    def __init__(self, path: str, text: str, references: References | None = None) -> None:
        self.path = path
        self._references = references
        self.folder = str(Path(path).parent)
        """What relative paths in the file are relative to."""
        self._text = text
        self._problems: list[str] = []

    def finish(self) -> None:
        """Raise the error that names all problems, if there are any.

        Raises:
            ProjectFileInvalid: as it says.
        """
        if self._problems:
            first, *others = self._problems
            raise ProjectFileInvalid(first, hint="\n".join(f"Also: {one}" for one in others[:20]) or None)

    @property
    def problems(self) -> int:
        """How many problems were found so far."""
        return len(self._problems)

    def table(self, at: Sequence[str], value: Any) -> dict[str, Any]:
        """The value as a table; an empty one after a problem."""
        if isinstance(value, dict):
            return value
        self.wrong(at, "expected a table")
        return {}

    def value(self, at: Sequence[str], kind: Kind, value: Any) -> Any:
        """The value of a field; None after a problem."""
        before = self.problems
        try:
            if kind.references and self._references is not None:
                value = self._replaced(tuple(at), kind, value)
                if self.problems > before:
                    return None
            return kind.read(value, self.folder)
        except InvalidValue as error:
            self.wrong(at, str(error))
            return None

    def _replaced(self, at: tuple[str, ...], kind: Kind, value: Any) -> Any:
        """The value with its references replaced; None, or without an entry, after a problem."""
        assert self._references is not None
        if isinstance(value, dict):
            return {name: self._replaced((*at, name), kind, one) for name, one in value.items()}
        if isinstance(value, list):
            return [self._replaced(at, kind, one) for one in value]
        if type(value) is not str or "$" not in value:
            return value
        try:
            return kind.from_text(self._references.replaced(value, at))
        except InvalidValue as error:
            self.wrong(at, str(error))
        except EnvFileInvalid as error:
            if str(error) not in self._problems:
                self._problems.append(str(error))
        return None

    def fields(
        self, at: Sequence[str], keys: Keys, table: Mapping[str, Any], others: Sequence[str] = ()
    ) -> dict[str, Any]:
        """The fields that the keys of a table set. The keys in ``others`` are the section's own matter."""
        known = {path[0] for path in keys.by_path}
        fields = {}
        for key, value in table.items():
            if key in others:
                continue
            if key not in known:
                self.unknown((*at, key), (*known, *others))
                continue
            entries: dict[tuple[str, ...], Any]
            if (key,) in keys.by_path:
                entries = {(key,): value}
            else:
                inner = {keys.short[key]: value} if key in keys.short and not isinstance(value, dict) else value
                entries = {(key, name): one for name, one in self.table((*at, key), inner).items()}
            for path, one in entries.items():
                if path not in keys.by_path:
                    self.unknown((*at, *path), tuple(other[1] for other in keys.by_path if other[0] == key))
                    continue
                entry = keys.by_path[path]
                fields[entry.field] = self.value((*at, *path), entry.kind, one)
        return fields

    def check(self, at: Sequence[str], keys: Keys, fields: Mapping[str, Any]) -> Command[Any] | None:
        """The command that would create a record with these fields; None after a problem."""
        import msgspec

        try:
            command: Command[Any] = msgspec.convert({"name": at[-1], **fields}, keys.create)
            return command
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `")
            match = re.match(r"\w*", where.removeprefix("key in `").removeprefix("$."))
            field = match[0] if match else ""
            message = expected_value(message, get_type_hints(keys.create, include_extras=True).get(field)) or message
            if field == "name":
                message = _NAME_RULE
            if field in keys.secret_maps:
                message = _VARIABLES_RULE
            self.wrong((*at, *keys.path(field)), message[:1].lower() + message[1:].replace("`", ""))
            return None

    def wrong(self, at: Sequence[str], message: str) -> None:
        """Note a problem; of one key only the first is kept."""
        start = f"{self._at(at)}{_dotted(at)}: "
        if not any(one.startswith(start) for one in self._problems):
            self._problems.append(start + message)

    def unknown(self, at: Sequence[str], known: Sequence[str]) -> None:
        """Note that a key is none of those that are known."""
        near = get_close_matches(at[-1], known, 1)
        hint = f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(sorted(known))})"
        self._problems.append(f"{self._at(at)}unknown key {_dotted(at)}{hint}")

    def _at(self, at: Sequence[str]) -> str:
        line = find_line(self._text, at)
        return f"cannot use {self.path}, line {line}: " if line else f"cannot use {self.path}: "


_BARE = r"[A-Za-z0-9_-]+"
_PART = rf"""(?:{_BARE}|"(?:[^"\\]|\\.)*"|'[^']*')"""


def _dotted(path: Sequence[str]) -> str:
    """A key's path as it would be written in the file."""
    return ".".join(part if re.fullmatch(_BARE, part) else f'"{part}"' for part in path)


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(part[1:-1] if part[0] in "\"'" else part for part in re.findall(_PART, dotted))


def find_line(text: str, path: Sequence[str]) -> int | None:
    """The line of a key in a TOML text, or of the innermost table around it; tomllib does not report lines."""
    best, found = 0, None
    table: tuple[str, ...] = ()
    quoted: str | None = None
    for number, line in enumerate(text.splitlines(), start=1):
        if quoted is None:
            header = re.match(rf"\s*\[+\s*({_PART}(?:\s*\.\s*{_PART})*)\s*\]", line)
            key = re.match(rf"\s*({_PART}(?:\s*\.\s*{_PART})*)\s*=", line)
            if header:
                table = _parts(header[1])
            here = table if header else table + _parts(key[1]) if key else ()
            if len(here) > best and tuple(path[: len(here)]) == here:
                best, found = len(here), number
            elif header and len(path) > best and here[: len(path)] == tuple(path):
                best, found = len(path), number
        for mark in re.findall(r'"""|\'\'\'', line):
            quoted = mark if quoted is None else None if mark == quoted else quoted
    return found
