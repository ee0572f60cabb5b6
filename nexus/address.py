"""Where a daemon listens, in a small file beside its database: for clients that find nothing at the usual place.

The file is ``.nexus.db.address`` for ``nexus.db``: JSON with ``socket`` and ``pid``. It counts only while that process
has the lock file of the database open, so a file that a killed daemon left is worth nothing. This module knows no
configuration.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from nexus.runtime.procfs import has_open

__all__ = ["Address", "address_file", "read_address", "remove_address", "write_address"]

_MAX_BYTES = 16 * 1024


class Address(NamedTuple):
    """The socket of a running daemon, and its process."""

    socket: str
    pid: int


def address_file(database: str | os.PathLike[str]) -> Path:
    """The file beside the database; beside the real one, where the path is a symbolic link."""
    folder, name = os.path.split(os.path.realpath(database))
    return Path(folder, f".{name}.address")


def write_address(database: str | os.PathLike[str], socket: str) -> None:
    """Write where this process listens. The caller holds the lock of the database.

    A reader finds the old file or the new one, never a part (rename(2)).

    Raises:
        OSError: the file cannot be written.
    """
    path = address_file(database)
    new = _unfinished(path)
    new.unlink(missing_ok=True)
    # JSON has only ASCII here: bytes of the path that are not UTF-8 are escaped, as os.fsdecode gives them.
    text = json.dumps({"socket": socket, "pid": os.getpid()})
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(text + "\n")
    new.replace(path)


def remove_address(database: str | os.PathLike[str]) -> None:
    """Remove the file, and what an interrupted write left. The caller holds the lock of the database."""
    path = address_file(database)
    for each in (path, _unfinished(path)):
        with contextlib.suppress(OSError):
            each.unlink()


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + ".new")


def read_address(database: str | os.PathLike[str]) -> Address | None:
    """Where the running daemon of this database listens; None where none runs, or its file cannot be trusted.

    A file is trusted if this user owns it and no other can write to it.
    """
    path = address_file(database)
    found = _parse(_read_own(path))
    if found is None:
        return None
    try:
        lock = Path(os.path.realpath(database) + ".lock").lstat()
    except OSError:
        return None
    held = stat.S_ISREG(lock.st_mode) and lock.st_uid == os.geteuid() and has_open(found.pid, lock)
    return found if held else None


def _read_own(path: Path) -> bytes:
    """The content of a small file that this user alone can write; nothing of any other."""
    try:
        # A pipe in its place must not block, and a link must not lead elsewhere.
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            return b""
        return os.read(descriptor, _MAX_BYTES)
    except OSError:
        return b""
    finally:
        os.close(descriptor)


def _parse(text: bytes) -> Address | None:
    try:
        content: Any = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    socket, pid = content.get("socket"), content.get("pid")
    if not isinstance(socket, str) or not socket.startswith("/") or "\0" in socket:
        return None
    return Address(socket, pid) if type(pid) is int and pid > 0 else None
