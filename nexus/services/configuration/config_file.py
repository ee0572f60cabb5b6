"""Reads a service's configuration file into variables: the Env format of ``nexus.envfile``, or Java's properties.

Others write the file. Its size is checked before its content, and each step is linear in it and bounded. This module
does not know which other sources override the file (``environment``). It never puts a value into an error.
"""

from __future__ import annotations

import os
import re
import stat
from collections import ChainMap
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nexus import envfile
from nexus.services.configuration.properties import BadEscape, properties
from nexus.services.errors import ServiceConfigFile
from nexus.services.records import Service
from nexus.services.states import ConfigFormat

__all__ = ["MAX_FILE_BYTES", "MAX_TOTAL_BYTES", "MAX_VARIABLES", "config_path", "read_config_file"]

MAX_FILE_BYTES = 1024 * 1024
MAX_VARIABLES = 1000
"""How many assignments a file may have, also to one name."""
MAX_TOTAL_BYTES = 1024 * 1024
"""Of all names and values together, after references were replaced; also of values that a later line replaces."""
_MAX_NAME_CHARACTERS = 256
_MAX_VALUE_CHARACTERS = 32_768

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LIMITS_HINT = "Make the file smaller: a file may have 1 MiB, 1,000 variables, and 1 MiB of names and values together."


class _Line(NamedTuple):
    """A variable, with the line of the file on which it begins."""

    number: int
    name: str
    value: str


class _Unreadable(Exception):
    """The file cannot be read: the problem, and the line if one causes it."""

    def __init__(self, problem: str, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.line, self.hint = problem, line, hint


def config_path(service: Service) -> str | None:
    """The path of the configuration file: in the repository, else in the directory, else in the home directory."""
    if service.config_filename is None:
        return None
    base = service.repo_path or service.directory or os.path.expanduser("~")  # noqa: PTH111 - as the shell expands it
    return os.path.join(base, service.config_filename)  # noqa: PTH118 - Path would normalise it


def read_config_file(service: Service, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables of a service's configuration file, in its order; none if the service declares no file. Blocks.

    Env: ``NAME=value`` lines as python-dotenv reads them. ``${NAME}`` and ``${NAME:-default}`` are replaced in every
    value, however it is quoted, by what the file set before, else by what is ``inherited``.
    Properties: keys become upper case, with ``_`` for each character that is no letter or digit (``db.url`` becomes
    ``DB_URL``); values are not changed. Of a name that occurs twice the last value counts.

    Raises:
        ServiceConfigFile: it cannot be read; the message has the file, and the line if one causes it.
    """
    path = config_path(service)
    if path is None:
        return {}
    assert service.config_filename is not None
    try:
        text = _read(path[: -len(service.config_filename)], path)
        lines = _read_env(text) if service.config_format is ConfigFormat.ENV else _read_properties(text)
        return _resolve(lines, inherited, interpolate=service.config_format is ConfigFormat.ENV)
    except _Unreadable as error:
        where = path if error.line is None else f"{path}, line {error.line}"
        details = {"id": service.id, "name": service.name, "file": path}
        raise ServiceConfigFile(
            f'cannot read the configuration file of service "{service.name}": {where}: {error.problem}',
            hint=error.hint or "Correct the file, or name another one: nexusctl service config --help",
            details=details if error.line is None else details | {"line": error.line},
        ) from None


def _read(base: str, path: str) -> str:
    real = os.path.realpath(path)
    inside = os.path.join(os.path.realpath(base), "")  # noqa: PTH118
    if not real.startswith(inside):
        raise _Unreadable(f"it leads out of {base}", hint="Put the file itself there, not a link to a file outside.")
    try:
        # Looked at before it is opened: to open a device may have an effect, and a FIFO would wait for a writer.
        # O_NOFOLLOW: realpath has resolved every link above.
        _refuse_unsuitable(os.lstat(real))
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    except FileNotFoundError:
        raise _Unreadable("there is no such file") from None
    except OSError as error:
        raise _Unreadable((error.strerror or "it cannot be opened").lower()) from None
    try:
        _refuse_unsuitable(os.fstat(descriptor))
        data = bytearray()
        # It may grow meanwhile, and the size of some files is unknown.
        while len(data) <= MAX_FILE_BYTES and (some := os.read(descriptor, 256 * 1024)):
            data += some
    except OSError as error:
        raise _Unreadable((error.strerror or "it cannot be read").lower()) from None
    finally:
        os.close(descriptor)
    if len(data) > MAX_FILE_BYTES:
        raise _too_large()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable("it is not UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    if "\0" in text:
        raise _Unreadable("it has a NUL character", text.count("\n", 0, text.index("\0")) + 1)
    return text


def _refuse_unsuitable(status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _Unreadable("it has too many levels of symbolic links")
    if not stat.S_ISREG(status.st_mode):
        raise _Unreadable("it is not a regular file")
    if status.st_size > MAX_FILE_BYTES:
        raise _too_large()


def _too_large() -> _Unreadable:
    return _Unreadable("it is larger than 1 MiB", hint=_LIMITS_HINT)


def _read_env(text: str) -> Iterator[_Line]:
    try:
        for number, name, value in envfile.assignments(text):
            if len(name) > _MAX_NAME_CHARACTERS:
                raise _Unreadable(f"the name of a variable is longer than {_MAX_NAME_CHARACTERS} characters", number)
            if not _NAME.fullmatch(name):
                raise _Unreadable(
                    "the name of a variable may have only letters, digits and _, and not begin with a digit", number
                )
            if value is None:
                # The name is not shown: it may be a secret on a line of its own.
                raise _Unreadable("it has no value", number, "For an empty value write NAME=.")
            yield _Line(number, name, value)
    except envfile.BadLine as error:
        raise _Unreadable("it is not of the form NAME=value", error.line) from None


def _read_properties(text: str) -> Iterator[_Line]:
    keys: dict[str, tuple[str, int]] = {}
    try:
        for number, key, value in properties(text):
            if len(key) > _MAX_NAME_CHARACTERS:
                raise _Unreadable(f"a key is longer than {_MAX_NAME_CHARACTERS} characters", number)
            name = re.sub(r"[^A-Za-z0-9]", "_", key).upper()
            if not _NAME.fullmatch(name):
                raise _Unreadable(
                    "a key must not be empty or begin with a digit, as it becomes the name of a variable", number
                )
            other, line = keys.setdefault(name, (key, number))
            if other != key:
                raise _Unreadable(
                    f"its key becomes {name}, like another key on line {line}", number, "Rename one of them."
                )
            yield _Line(number, name, value)
    except BadEscape as error:
        raise _Unreadable(r"\u must be followed by four hexadecimal digits", error.line) from None


def _resolve(lines: Iterator[_Line], inherited: Mapping[str, str], *, interpolate: bool) -> dict[str, str]:
    variables: dict[str, str] = {}
    known = ChainMap(variables, dict(inherited))
    total = 0
    for count, line in enumerate(lines, start=1):
        if count > MAX_VARIABLES:
            raise _Unreadable(f"it has more than {MAX_VARIABLES:,} variables", line.number, _LIMITS_HINT)
        value = _value(line, known, interpolate=interpolate)
        try:
            total += len(line.name) + len(os.fsencode(value))
        except UnicodeEncodeError:
            raise _Unreadable(f"{line.name} is not text", line.number) from None
        if total > MAX_TOTAL_BYTES:
            raise _Unreadable("its names and values come to more than 1 MiB", line.number, _LIMITS_HINT)
        if "\0" in value:
            raise _Unreadable(f"{line.name} has a NUL character", line.number)
        variables[line.name] = value
    return variables


def _value(line: _Line, known: Mapping[str, str], *, interpolate: bool) -> str:
    try:
        if interpolate:
            return envfile.interpolate(line.value, known, _MAX_VALUE_CHARACTERS)
        if len(line.value) <= _MAX_VALUE_CHARACTERS:
            return line.value
    except envfile.TooLong:
        pass
    problem = f"{line.name} is longer than {_MAX_VALUE_CHARACTERS:,} characters"
    raise _Unreadable(problem, line.number, "Shorten the value, and what its ${NAME} stand for.")
