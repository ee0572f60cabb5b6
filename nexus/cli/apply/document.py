"""Reads and writes the project file, ``nexus.toml``. Reading reports all of its errors; it does not ask the daemon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nexus.cli.apply.reader import ProjectFile, ProjectFileInvalid, Reader
from nexus.cli.apply.references import References
from nexus.cli.apply.sections import AnySection
from nexus.cli.apply.target import is_name

__all__ = ["read_project", "write_project"]

_MAX_BYTES = 16 << 20


def read_project(path: str, sections: Sequence[AnySection]) -> ProjectFile:
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
    except OSError as error:
        raise ProjectFileInvalid(f"cannot read {path}: {error.strerror}") from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProjectFileInvalid(f"cannot read {path}: {error}") from None
    except RecursionError:
        raise ProjectFileInvalid(f"cannot read {path}: it is nested too deeply") from None
    return _read_document(path, document, sections, text)


def _read_text(path: str) -> str:
    with Path(path).open("rb") as file:
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise ProjectFileInvalid(f"cannot read {path}: it is larger than {_MAX_BYTES >> 20} MiB")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ProjectFileInvalid(f"cannot read {path}, line {line}: it is not UTF-8") from None


def _read_document(path: str, document: Mapping[str, Any], sections: Sequence[AnySection], text: str) -> ProjectFile:
    by_table = {section.table: section for section in sections}

    def refer(table: str, key: str, at: tuple[str, ...]) -> str:
        return by_table[table].refer(document.get(table, {}), key, at, lambda value: references.replaced(value, at))

    references = References(str(Path(path).parent), by_table, refer)
    reader = Reader(path, text, references)
    known = ("project", *(section.table for section in sections))
    for key in document:
        if key not in known:
            reader.unknown((key,), known)
    name = document.get("project")
    if name is not None and (type(name) is not str or not is_name(name)):
        reader.wrong(("project",), "expected a name of 1 to 64 letters, digits and . _ -, the first a letter or digit")
    wanted = {
        section.table: {
            name: section.read(reader, (section.table, name), table)
            for name, table in reader.table((section.table,), document.get(section.table, {})).items()
        }
        for section in sections
    }
    reader.finish()
    return ProjectFile(reader.path, name, wanted, text)


_HEAD = """\
# {records} for `nexusctl apply`.
# It may hold secrets: the values of variables are stored in plain text. Keep this file private, and out of version
# control.
"""


def write_project(name: str | None, sections: Sequence[AnySection], tables: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a project file from the tables of each section; ``name`` is its key ``project``."""
    import tomli_w

    document: dict[str, Any] = {"project": name} if name is not None else {}
    document |= {table: dict(records) for table, records in tables.items() if records}
    *others, last = [section.called for section in sections]
    records = f"{', '.join(others)} and {last}" if others else last
    return _HEAD.format(records=records[:1].upper() + records[1:]) + f"\n{tomli_w.dumps(document)}"
