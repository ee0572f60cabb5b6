"""Where plugins are found, and which files are not trusted. It reads names and permissions, and runs no plugin.

The daemon uses it to decide whether a plugins' process is needed, the process to read the files.
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
from nexus.trust import Distrust, distrust, distrust_of_status

__all__ = ["ENTRY_POINT_GROUP", "Found", "Source", "find", "name_problem", "read_trusted"]

ENTRY_POINT_GROUP = "nexus.plugins"

_KINDS = {".py": PluginKind.PYTHON, ".lua": PluginKind.LUA}
_MAX_FILE_BYTES = 4 * 1024 * 1024
_GROUP_HEADER = re.compile(rb"^\s*\[\s*nexus\.plugins\s*\]", re.MULTILINE)


class Source(msgspec.Struct, frozen=True, array_like=True):
    """One plugin's file; ``problem`` says why it is refused."""

    name: str
    kind: PluginKind
    path: str
    problem: str | None = None


class Found(NamedTuple):
    """The plugins that were found."""

    files: list[Source]
    problem: str | None
    """Why no plugin of the directory is loaded."""
    entry_points: bool
    """Whether an installed package has plugins."""

    @property
    def anything(self) -> bool:
        """Whether there is a plugin to load, which needs a process."""
        return self.entry_points or any(source.problem is None for source in self.files)


def find(directory: str) -> Found:
    """Look for plugins in ``directory`` and in the installed packages. Reads files: not to be called on the loop."""
    files, problem = _files(directory)
    return Found(files, problem, _any_entry_point())


def _files(directory: str) -> tuple[list[Source], str | None]:
    try:
        status = Path(directory).stat()
        problem = _trust_problem(directory, distrust(directory))
        if not stat.S_ISDIR(status.st_mode):
            problem = "it is not a directory"
        if problem:
            return [], f"cannot load plugins from {directory}: {problem}"
        paths = sorted(Path(directory).iterdir())
    except FileNotFoundError:
        return [], None
    except OSError as error:
        return [], f"cannot load plugins from {directory}: {error.strerror}"
    found = []
    for path in paths:
        if path.suffix in _KINDS and not path.name.startswith((".", "_")):
            problem = name_problem(path.stem) or _file_problem(path)
            found.append(Source(path.stem, _KINDS[path.suffix], os.fspath(path), problem))
    return found, None


def name_problem(name: str) -> str | None:
    """Why ``name`` is not a valid name of a plugin; None if it is valid."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name):
        return None
    return "its name is not 1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit"


def _file_problem(path: Path) -> str | None:
    try:
        return _kind_problem(path.stat()) or _trust_problem(str(path), distrust(str(path)))
    except OSError as error:
        return f"it cannot be read: {error.strerror}"


def _kind_problem(status: os.stat_result) -> str | None:
    if not stat.S_ISREG(status.st_mode):
        return "it is not a file"
    if status.st_size > _MAX_FILE_BYTES:
        return f"it has {status.st_size} bytes; the maximum is {_MAX_FILE_BYTES}"
    return None


def _trust_problem(path: str, problem: Distrust | None) -> str | None:
    """Why another user may have written this file or directory, in words."""
    if problem is None:
        return None
    sentence = problem.sentence(path)
    if problem.remedy.startswith("chmod"):
        return f"{sentence}; remove their access: {problem.remedy if problem.path == path else problem.command}"
    return sentence


def read_trusted(path: str) -> bytes:
    """Read a plugin's file. It is checked again, the open file as well, so that no other user can swap it.

    Raises:
        ValueError: it is not trusted.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        problem = _kind_problem(status) or _trust_problem(path, distrust_of_status(path, status) or distrust(path))
        if problem:
            raise ValueError(problem)
        return file.read(_MAX_FILE_BYTES)


def _any_entry_point() -> bool:
    # importlib.metadata could do this, but costs a daemon without plugins 3 MiB and 40 ms.
    return any(_folder_has_entry_point(folder) for folder in dict.fromkeys(sys.path))


def _folder_has_entry_point(folder: str) -> bool:
    try:
        packages = [path for path in Path(folder).iterdir() if path.suffix in (".dist-info", ".egg-info")]
    except OSError:  # missing, or a zip file
        return False
    return any(_has_entry_point(package / "entry_points.txt") for package in packages)


def _has_entry_point(path: Path) -> bool:
    try:
        return _GROUP_HEADER.search(path.read_bytes()) is not None
    except OSError:
        return False
