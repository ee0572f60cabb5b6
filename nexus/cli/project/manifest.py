"""Reads and writes the project file, ``nexus.toml``. Reading reports all of its errors; it does not ask the daemon."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

from nexus_protocol.command import Command
from nexus_protocol.errors import InvalidArgument

from nexus.cli.project.keys import (
    BY_PATH,
    EDGE_KEYS,
    KEYS,
    OTHER_KEYS,
    SHORT,
    VM_KEYS,
    Edge,
    InvalidValue,
    Kind,
    service_defaults,
    vm_defaults,
)
from nexus.records.fields import NAME_PATTERN
from nexus.services.commands import AddService
from nexus.vms.commands import CreateVm

__all__ = [
    "ProjectFile",
    "ProjectFileInvalid",
    "WantedService",
    "find_line",
    "is_name",
    "project_name",
    "read_project",
    "service_table",
    "vm_table",
    "write_project",
]


_MAX_BYTES = 16 << 20


class ProjectFileInvalid(InvalidArgument):
    """The project file cannot be used; the message names the file, the key and, where it is known, the line."""

    type = "project.file_invalid"


class WantedService(NamedTuple):
    """The desired state of a service."""

    fields: dict[str, Any]
    """All fields of ``AddService`` except name and id, as plain values, with defaults for those not in the file."""
    needs: dict[str, Edge]
    start: bool = True
    """Whether it should run."""


class ProjectFile(NamedTuple):
    """The content of a project file."""

    path: str
    key: str | None
    """The value of its key ``project``: the name that its project is to have."""
    services: dict[str, WantedService]
    vms: dict[str, dict[str, Any]]
    text: str = ""
    """The file's text, to find lines for error messages."""

    def wrong(self, at: Sequence[str], problem: str, hint: str) -> ProjectFileInvalid:
        """The error for a valid value that cannot be used."""
        line = find_line(self.text, at)
        where = f"{self.path}, line {line}" if line else self.path
        return ProjectFileInvalid(f"cannot use {where}: {_dotted(at)}: {problem}", hint=hint)


def read_project(path: str) -> ProjectFile:
    """Read a project file of 16 MiB at most; relative paths in it are relative to its directory.

    Raises:
        ProjectFileInvalid: it cannot be read, or has an unknown key or an invalid value.
    """
    import tomllib

    path = str(Path(path).absolute())
    try:
        text = _read_text(path)
    except FileNotFoundError:
        raise ProjectFileInvalid(
            f"cannot read {path}: there is no such file",
            hint="Name another file: -f FILE; or write one: nexusctl export",
        ) from None
    except UnicodeDecodeError:
        raise ProjectFileInvalid(f"cannot read {path}: it is not UTF-8") from None
    except OSError as error:
        raise ProjectFileInvalid(f"cannot read {path}: {error.strerror}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectFileInvalid(f"cannot read {path}: {error}") from None
    except RecursionError:
        raise ProjectFileInvalid(f"cannot read {path}: it is nested too deeply") from None
    return _Reader(path, text).project(document)


def _read_text(path: str) -> str:
    with Path(path).open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ProjectFileInvalid(f"cannot read {path}: it is larger than {_MAX_BYTES >> 20} MiB")
    return data.decode()


def project_name(path: str) -> str:
    """The name by which versions before projects knew a file without the key ``project``: FOLDER-HASH8.

    A database from before has a project of this name for the records of such a file.
    """
    import hashlib

    folder = re.sub(r"[^A-Za-z0-9_-]", "-", Path(path).parent.name)[:40].lstrip("_-") or "root"
    return f"{folder}-{hashlib.sha256(os.fsencode(Path(path).resolve())).hexdigest()[:8]}"


def is_name(text: str) -> bool:
    """Whether a project can have this name."""
    return len(text) <= 64 and re.match(NAME_PATTERN, text) is not None


class _Reader:
    """Reads one document and collects all errors, so that they are reported together."""

    def __init__(self, path: str, text: str) -> None:
        self._path = path
        self._folder = str(Path(path).parent)
        self._text = text
        self._problems: list[str] = []

    def project(self, document: dict[str, Any]) -> ProjectFile:
        for key in document:
            if key not in ("project", "services", "vms"):
                self._unknown((key,), ("project", "services", "vms"))
        wanted = document.get("project")
        if wanted is not None and (type(wanted) is not str or not is_name(wanted)):
            self._wrong(
                ("project",), "expected a name of 1 to 64 letters, digits and . _ -, the first a letter or digit"
            )
        services = {
            name: self._service(("services", name), table)
            for name, table in self._table(("services",), document.get("services", {})).items()
        }
        vms = {
            name: self._vm(("vms", name), table)
            for name, table in self._table(("vms",), document.get("vms", {})).items()
        }
        if self._problems:
            first, *others = self._problems
            raise ProjectFileInvalid(first, hint="\n".join(f"Also: {one}" for one in others[:20]) or None)
        return ProjectFile(self._path, wanted, services, vms, self._text)

    def _service(self, at: tuple[str, ...], value: Any) -> WantedService:
        table = self._table(at, value)
        fields = service_defaults()
        if "repo" not in table:
            fields["directory"] = self._folder
        fields |= self._fields(at, table)
        self._check(at, AddService, {"name": at[-1], **fields}, {key.field: key.path for key in KEYS})
        start = table.get("start", True)
        if type(start) is not bool:
            self._wrong((*at, "start"), "expected true or false")
        needs = self._needs((*at, "depends_on"), table.get("depends_on", []))
        if at[-1] in needs:
            self._wrong((*at, "depends_on"), "a service cannot depend on itself")
        return WantedService(fields, needs, start)

    def _fields(self, at: tuple[str, ...], table: dict[str, Any]) -> dict[str, Any]:
        """The fields that the keys of a service's table set."""
        known = {path[0] for path in BY_PATH}
        fields = {}
        for key, value in table.items():
            if key in OTHER_KEYS:
                continue
            if key not in known:
                self._unknown((*at, key), (*known, *OTHER_KEYS))
                continue
            entries: dict[tuple[str, ...], Any]
            if (key,) in BY_PATH:
                entries = {(key,): value}
            else:
                inner = {SHORT[key]: value} if key in SHORT and not isinstance(value, dict) else value
                entries = {(key, name): one for name, one in self._table((*at, key), inner).items()}
            for path, one in entries.items():
                if path not in BY_PATH:
                    self._unknown((*at, *path), tuple(other[1] for other in BY_PATH if other[0] == key))
                    continue
                entry = BY_PATH[path]
                fields[entry.field] = self._value((*at, *path), entry.kind, one)
        return fields

    def _needs(self, at: tuple[str, ...], value: Any) -> dict[str, Edge]:
        if isinstance(value, list) and all(type(name) is str for name in value):
            return {name: Edge() for name in value}
        if not isinstance(value, dict):
            self._wrong(at, "expected a list of names, or a table of them")
            return {}
        needs = {}
        for name, asked in value.items():
            given = {}
            for key, one in self._table((*at, name), asked).items():
                if key not in EDGE_KEYS:
                    self._unknown((*at, name, key), tuple(EDGE_KEYS))
                else:
                    given[key] = self._value((*at, name, key), EDGE_KEYS[key], one)
            needs[name] = Edge(**given)
        return needs

    def _vm(self, at: tuple[str, ...], value: Any) -> dict[str, Any]:
        fields = vm_defaults()
        for key, one in self._table(at, value).items():
            if key not in VM_KEYS:
                self._unknown((*at, key), tuple(VM_KEYS))
                continue
            field, kind = VM_KEYS[key]
            fields[field] = self._value((*at, key), kind, one)
        self._check(at, CreateVm, {"name": at[-1], **fields}, {field: (key,) for key, (field, _) in VM_KEYS.items()})
        return fields

    def _check(
        self,
        at: tuple[str, ...],
        command: type[Command[Any]],
        fields: dict[str, Any],
        paths: Mapping[str, Sequence[str]],
    ) -> None:
        """Validate the fields against the declaration of the command that will be sent."""
        import msgspec

        try:
            msgspec.convert(fields, command)
        except msgspec.ValidationError as error:
            message, _, where = str(error).partition(" - at `")
            field = re.match(r"\w*", where.removeprefix("key in `").removeprefix("$."))
            path = paths.get(field[0] if field else "", ())
            if field and field[0] == "name":
                message = "expected a name of 1 to 64 letters, digits and . _ -, the first a letter or digit"
            if field and field[0] == "environment":
                message = "expected names of letters, digits and _, and values without NUL, 32768 characters at most"
            self._wrong((*at, *path), message[:1].lower() + message[1:].replace("`", ""))

    def _table(self, at: tuple[str, ...], value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self._wrong(at, "expected a table")
        return {}

    def _value(self, at: tuple[str, ...], kind: Kind, value: Any) -> Any:
        try:
            return kind.read(value, self._folder)
        except InvalidValue as error:
            self._wrong(at, str(error))
            return None

    def _wrong(self, at: Sequence[str], message: str) -> None:
        problem = f"{self._at(at)}{_dotted(at)}: {message}"
        if not any(one.startswith(f"{self._at(at)}{_dotted(at)}: ") for one in self._problems):
            self._problems.append(problem)

    def _unknown(self, at: Sequence[str], known: Sequence[str]) -> None:
        near = get_close_matches(at[-1], known, 1)
        hint = f" (did you mean {near[0]}?)" if near else f" (known: {', '.join(sorted(known))})"
        self._problems.append(f"{self._at(at)}unknown key {_dotted(at)}{hint}")

    def _at(self, at: Sequence[str]) -> str:
        line = find_line(self._text, at)
        return f"cannot use {self._path}, line {line}: " if line else f"cannot use {self._path}: "


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


# Writing


def service_table(fields: Mapping[str, Any], needs: Mapping[str, Edge], start: bool) -> dict[str, Any]:
    """The table of a service for the file, without defaults."""
    defaults = service_defaults()
    table: dict[str, Any] = {}
    for key in KEYS:
        value = fields[key.field]
        if value == defaults[key.field]:
            continue
        inner = table
        for name in key.path[:-1]:
            inner = inner.setdefault(name, {})
        inner[key.path[-1]] = key.kind.write(value)
    if fields["directory"] is None and "repo" not in table:
        table["dir"] = ""
    if not start:
        table["start"] = False
    for name, short in SHORT.items():
        if list(table.get(name, ())) == [short]:
            table[name] = table[name][short]
    if needs:
        table["depends_on"] = (
            sorted(needs)
            if set(needs.values()) == {Edge()}
            else {
                name: {key: value for key, value in needs[name]._asdict().items() if value != getattr(Edge(), key)}
                for name in sorted(needs)
            }
        )
    return table


def vm_table(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The table of a VM record for the file, without defaults."""
    defaults = vm_defaults()
    return {
        key: kind.write(fields[field]) for key, (field, kind) in VM_KEYS.items() if fields[field] != defaults[field]
    }


_HEAD = """\
# Services and VM records for `nexusctl apply`. It may hold secrets: the values of services' variables are stored in
# plain text. Keep this file private, and out of version control.
"""


def write_project(name: str | None, services: Mapping[str, Any], vms: Mapping[str, Any]) -> str:
    """Format a project file from the tables of its services and VM records; ``name`` is its key ``project``."""
    import tomli_w

    document: dict[str, Any] = {"project": name} if name is not None else {}
    if services:
        document["services"] = dict(services)
    if vms:
        document["vms"] = dict(vms)
    return f"{_HEAD}\n{tomli_w.dumps(document)}"
