"""Where plugins are found, and which files are not trusted. It reads names and permissions, and runs nothing.

Daemon and plugins' process share it: the daemon asks whether there is anything to start a process for.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from pathlib import Path
from typing import NamedTuple

import msgspec

from nexus.plugins.commands import PluginKind

__all__ = ["ENTRY_POINT_GROUP", "Found", "Source", "find", "name_problem", "read_trusted"]

ENTRY_POINT_GROUP = "nexus.plugins"

_KINDS = {".py": PluginKind.PYTHON, ".lua": PluginKind.LUA}
_MAX_FILE_BYTES = 4 * 1024 * 1024
_GROUP_HEADER = re.compile(rb"^\s*\[\s*nexus\.plugins\s*\]", re.MULTILINE)


class Source(msgspec.Struct, frozen=True, array_like=True):
    """One plugin's file, and why it is refused, if it is."""

    name: str
    kind: PluginKind
    path: str
    problem: str | None = None


class Found(NamedTuple):
    """What there is to load."""

    files: list[Source]
    problem: str | None
    """Why nothing is taken from the directory."""
    entry_points: bool
    """Whether some installed package has plugins."""

    @property
    def anything(self) -> bool:
        """Whether there is something that a process must be started for."""
        return self.entry_points or any(source.problem is None for source in self.files)


def find(directory: str) -> Found:
    """Look for plugins in ``directory`` and among the installed packages. It reads files; not for the event loop."""
    files, problem = _files(directory)
    return Found(files, problem, _some_entry_point())


def _files(directory: str) -> tuple[list[Source], str | None]:
    try:
        status = Path(directory).stat()
        problem = _distrust(status)
        if not stat.S_ISDIR(status.st_mode):
            problem = "it is not a directory"
        if problem:
            return [], f"cannot take plugins from {directory}: {problem}"
        paths = sorted(Path(directory).iterdir())
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"cannot take plugins from {directory}: {error.strerror}"
    found = []
    for path in paths:
        if path.suffix in _KINDS and not path.name.startswith((".", "_")):
            problem = name_problem(path.stem) or _file_problem(path)
            found.append(Source(path.stem, _KINDS[path.suffix], os.fspath(path), problem))
    return found, None


def name_problem(name: str) -> str | None:
    """Why a plugin cannot be called this."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        return None
    return "its name is not 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit"


def _file_problem(path: Path) -> str | None:
    try:
        return _distrust_file(path.stat())
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _distrust_file(status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "it is not a file"
    if status.st_size > _MAX_FILE_BYTES:
        return f"it has {status.st_size} bytes, and {_MAX_FILE_BYTES} are the most"
    return _distrust(status)


def _distrust(status: os.stat_result) -> str | None:
    """Why what lies there may not be what this user has put there."""
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    if status.st_mode & 0o022:
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):04o}); for you alone: chmod go-w"
    return None


def read_trusted(path: str) -> bytes:
    """The content of a plugin's file, which is looked at once more as it is open.

    Raises:
        ValueError: it is not trusted.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        problem = _distrust_file(os.fstat(file.fileno()))
        if problem:
            raise ValueError(problem)
        return file.read(_MAX_FILE_BYTES)


def _some_entry_point() -> bool:
    # importlib.metadata would tell as well, at the price of 3 MiB and 40 ms for a daemon that has no plugins.
    return any(_folder_has_entry_point(folder) for folder in dict.fromkeys(sys.path))


def _folder_has_entry_point(folder: str) -> bool:
    try:
        packages = [path for path in Path(folder).iterdir() if path.suffix in (".dist-info", ".egg-info")]
    except OSError:  # not there, or a zip file
        return False
    return any(_has_entry_point(package / "entry_points.txt") for package in packages)


def _has_entry_point(path: Path) -> bool:
    try:
        return _GROUP_HEADER.search(path.read_bytes()) is not None
    except OSError:
        return False
