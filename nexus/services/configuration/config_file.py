"""Reads a service's configuration files into variables: the Env format of ``nexus.envfile``, or Java's properties.

Others write the files. Their size is checked before their content, and each step is linear in it and bounded. This
module does not know which other sources override the files (``environment``). It never puts a value into an error.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from nexus import envfile
from nexus.services.configuration.properties import BadEscape, properties
from nexus.services.errors import ServiceConfigFile
from nexus.services.records import Service
from nexus.services.states import ConfigFormat

__all__ = ["LIMITS", "MAX_FILES_BYTES", "ConfigFile", "config_files", "read_config_files"]

MAX_FILES_BYTES = 1024 * 1024
"""Of all files of a service together, as are ``LIMITS``."""
LIMITS = envfile.Limits()
_MAX_LINKS = 40
"""How many links a path may lead through, as in the kernel."""

_NAMES = "Correct the file, or name another one: nexusctl service config --help"
_MISSING = "Create it, or declare it with a ? before it: then it may be missing."


class ConfigFile(NamedTuple):
    """A configuration file of a service."""

    path: str
    """Absolute; its links are not resolved."""
    optional: bool
    """Whether it may be missing."""


class _Unreadable(Exception):
    """The file cannot be read: the problem, and the line if one causes it."""

    def __init__(self, problem: str, line: int | None = None, hint: str | None = None) -> None:
        super().__init__(problem)
        self.problem, self.line, self.hint = problem, line, hint


def config_files(service: Service) -> list[ConfigFile]:
    """The configuration files of a service, in the order in which they are read.

    A relative path is one in the repository, else in the directory, else in the home directory; ``~/`` is the latter.
    """
    declared = service.config_filename
    names = [declared] if isinstance(declared, str) else declared or []
    base = service.repo_path or service.directory or "~"
    return [ConfigFile(_absolute(base, name.removeprefix("?")), name.startswith("?")) for name in names]


def _absolute(base: str, name: str) -> str:
    path = name if name.startswith("~/") else os.path.join(base, name)  # noqa: PTH118 - Path would normalise it
    return os.path.expanduser(path) if path.startswith("~/") else path  # noqa: PTH111 - as the shell expands it


def read_config_files(service: Service, inherited: Mapping[str, str]) -> dict[str, str]:
    """The variables of a service's configuration files, of which later ones override earlier ones. Blocks.

    Env: ``NAME=value`` lines as ``nexus.envfile`` reads them. A reference is replaced by what an earlier line or file
    set, else by what is ``inherited``.
    Properties: keys become upper case, with ``_`` for each character that is no letter or digit (``db.url`` becomes
    ``DB_URL``); values are not changed. Of a name that occurs twice the last value counts.

    Raises:
        ServiceConfigFile: a file cannot be read; the message has the file, and the line if one causes it.
    """
    reading = envfile.Reading(inherited, LIMITS)
    left_bytes = MAX_FILES_BYTES
    for path, optional in config_files(service):
        try:
            data = _read(path, service.repo_path, left_bytes)
            if data is None and not optional:
                raise _Unreadable("there is no such file", hint=_MISSING)
            if data is not None:
                left_bytes -= len(data)
                reading.add(_assignments(_decode(data), service.config_format))
        except envfile.BadLine as error:
            raise _refusal(service, path, error.problem, error.line, error.hint) from None
        except _Unreadable as error:
            raise _refusal(service, path, error.problem, error.line, error.hint) from None
    return reading.variables


def _refusal(service: Service, path: str, problem: str, line: int | None, hint: str | None) -> ServiceConfigFile:
    where = path if line is None else f"{path}, line {line}"
    details = {"id": service.id, "name": service.name, "file": path}
    return ServiceConfigFile(
        f'cannot read the configuration file of service "{service.name}": {where}: {problem}',
        hint=hint or _NAMES,
        details=details if line is None else details | {"line": line},
    )


def _read(path: str, repository: str | None, limit_bytes: int) -> bytearray | None:
    """The content of a file; None if there is no such file."""
    try:
        real = _resolve(path, None if repository is None else os.path.realpath(repository))
        # Looked at before it is opened: to open a device may have an effect, and a FIFO would wait for a writer.
        # O_NOFOLLOW: every link was resolved above.
        _refuse_unsuitable(os.lstat(real), limit_bytes)
        descriptor = os.open(real, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _Unreadable((error.strerror or "it cannot be opened").lower()) from None
    try:
        _refuse_unsuitable(os.fstat(descriptor), limit_bytes)
        data = bytearray()
        # It may grow meanwhile, and the size of some files is unknown.
        while len(data) <= limit_bytes and (some := os.read(descriptor, 256 * 1024)):
            data += some
    except OSError as error:
        raise _Unreadable((error.strerror or "it cannot be read").lower()) from None
    finally:
        os.close(descriptor)
    if len(data) > limit_bytes:
        raise _too_large(limit_bytes)
    return data


def _decode(data: bytearray) -> str:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _Unreadable("it is not UTF-8", data.count(b"\n", 0, error.start) + 1) from None
    if "\0" in text:
        raise _Unreadable("it has a NUL character", text.count("\n", 0, text.index("\0")) + 1)
    return text


def _resolve(path: str, repository: str | None) -> str:
    """The path with its links resolved. A link that lies in the repository must not lead out of it.

    Links of the owner may lead anywhere, also out of the repository and back.

    Raises:
        OSError: a part of the path is missing, or cannot be looked at.
    """
    pending, current, links = path.split("/")[::-1], "/", 0
    brought: str | None = None
    """The last link of the repository that was followed."""

    def refuse_if_outside() -> None:
        if brought is not None and not _is_inside(current, repository):
            raise _Unreadable(
                f"{brought} is a link of the repository {repository}, and leads out of it",
                hint=f"If the service is to read the file behind it, declare that: {os.path.realpath(path)}",
            )

    while pending:
        part = pending.pop()
        if part in ("", "."):
            continue
        if part == "..":
            current = os.path.dirname(current)  # noqa: PTH120
            continue
        step = os.path.join(current, part)  # noqa: PTH118
        try:
            target = os.readlink(step)  # noqa: PTH115
        except OSError as error:
            if error.errno != errno.EINVAL:
                refuse_if_outside()
                raise
            current = step  # it is no link
            continue
        links += 1
        if links > _MAX_LINKS:
            raise _Unreadable("it has too many levels of symbolic links")
        if _is_inside(current, repository):
            brought = step
        if target.startswith("/"):
            current = "/"
        pending += target.split("/")[::-1]
    refuse_if_outside()
    return current


def _is_inside(path: str, folder: str | None) -> bool:
    return folder is not None and (path == folder or path.startswith(os.path.join(folder, "")))  # noqa: PTH118


def _refuse_unsuitable(status: os.stat_result, limit_bytes: int) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise _Unreadable("it has too many levels of symbolic links")
    if not stat.S_ISREG(status.st_mode):
        raise _Unreadable("it is not a regular file")
    if status.st_size > limit_bytes:
        raise _too_large(limit_bytes)


def _too_large(limit_bytes: int) -> _Unreadable:
    alone = limit_bytes == MAX_FILES_BYTES
    return _Unreadable("it is larger than 1 MiB" if alone else "with the files before it, it is larger than 1 MiB")


def _assignments(text: str, format: ConfigFormat) -> Iterator[envfile.Assignment]:
    return envfile.assignments(text) if format is ConfigFormat.ENV else _of_properties(text)


def _of_properties(text: str) -> Iterator[envfile.Assignment]:
    keys: dict[str, tuple[str, int]] = {}
    try:
        for number, key, value in properties(text):
            if len(key) > LIMITS.name_characters:
                raise _Unreadable(f"a key is longer than {LIMITS.name_characters} characters", number)
            name = re.sub(r"[^A-Za-z0-9]", "_", key).upper()
            if not envfile.is_name(name):
                raise _Unreadable(
                    "a key must not be empty or begin with a digit, as it becomes the name of a variable", number
                )
            other, line = keys.setdefault(name, (key, number))
            if other != key:
                raise _Unreadable(
                    f"its key becomes {name}, like another key on line {line}", number, "Rename one of them."
                )
            yield envfile.Assignment(number, name, value, literal=True)
    except BadEscape as error:
        raise _Unreadable(r"\u must be followed by four hexadecimal digits", error.line) from None
