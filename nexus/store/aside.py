"""Sets a database aside: its files get dated names beside their old ones, and nothing is deleted."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nexus.store.backup import fsync_directory, timestamp
from nexus.store.base import StoreConflict

__all__ = ["COMPANIONS", "free_name", "set_aside"]

COMPANIONS = ("-wal", "-shm", "-journal")
"""The files beside a database. Without its own, it may lack committed data; with those of another, it is corrupted."""


def set_aside(path: Path, *, replacement: Path | None = None, name: Path | None = None) -> Path | None:
    """Rename a database, with its ``-wal`` and ``-shm``, to a dated name beside it; returns the new name.

    ``name`` is the new one, by default ``free_name``. ``replacement`` is atomically renamed to ``path``. Returns None
    when there was no file to set aside.

    Raises:
        StoreConflict: no name is free.
        OSError: the directory cannot be changed.
    """
    suffixes = [suffix for suffix in (*COMPANIONS, "") if os.path.lexists(f"{path}{suffix}")]
    aside = name or free_name(path)
    # The log goes first: the next database under this name must never be opened with it.
    for suffix in suffixes:
        old, new = path.with_name(path.name + suffix), aside.with_name(aside.name + suffix)
        if suffix or replacement is None or not _link(old, new):
            with contextlib.suppress(FileNotFoundError):
                old.rename(new)
    if replacement is not None:
        replacement.rename(path)
    fsync_directory(path.parent)
    return aside if suffixes else None


def free_name(path: Path) -> Path:
    """A dated name beside ``path`` that no file has, with any suffix of a database.

    Raises:
        StoreConflict: there is none.
    """
    base = f"{path.name}.set-aside-{timestamp()}"
    for number in ("", *(f".{count}" for count in range(1, 100))):
        aside = path.with_name(base + number)
        if not any(os.path.lexists(f"{aside}{suffix}") for suffix in ("", *COMPANIONS)):
            return aside
    raise StoreConflict(f"cannot set {path} aside: no free name for it")


def _link(old: Path, new: Path) -> bool:
    """Give a file a second name, so that ``old`` exists until it is replaced; False without hard links."""
    try:
        os.link(old, new)
    except OSError:
        return False
    return True
