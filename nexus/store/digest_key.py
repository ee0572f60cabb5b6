"""The key of a database's digests, in a file beside it: who has the database alone learns nothing from its digests.

The file is ``.nexus.db.key`` for ``nexus.db``: 32 random bytes that only the user can read. A database without its
file, such as a restored backup on another machine, gets a new key: the keys of earlier requests then fit no request.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
from pathlib import Path

__all__ = ["digest_key", "key_file"]

_log = logging.getLogger("nexus.store")

_BYTES = 32


def key_file(database: str | os.PathLike[str]) -> Path:
    """The file beside the database; beside the real one, where the path is a symbolic link."""
    folder, name = os.path.split(os.path.realpath(database))
    return Path(folder, f".{name}.key")


def digest_key(database: str | os.PathLike[str]) -> bytes:
    """The key of a database, which is made where there is none. The caller holds the lock of the database.

    Where it cannot be written, the key is one of this process alone: the daemon works, and a request that is repeated
    under its key after a restart is taken for another one.
    """
    path = key_file(database)
    present = _read(path)
    if present is not None:
        return present
    key = os.urandom(_BYTES)
    try:
        _write(path, key)
        _log.info("made %s: keys of requests that were made before fit none", path)
    except OSError as error:
        _log.warning("cannot write %s: %s; keys of requests hold until the next start", path, error.strerror)
    return key


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
            _log.warning("%s is not a file of this user alone: it is replaced", path)
            return None
        key = os.read(descriptor, _BYTES + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return key if len(key) == _BYTES else None


def _write(path: Path, key: bytes) -> None:
    """Write the file, durably: a key that a power failure takes away would fit no digest of the database."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "wb") as file:
            file.write(key)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
