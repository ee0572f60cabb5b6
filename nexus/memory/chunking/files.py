"""Reads files below a folder: regular ones that a path without links reaches, of bounded size, as text.

It knows nothing of what is in them. Nothing outside of the folder is opened, also when another process replaces
folders by links meanwhile: each step of a path is opened below the one before it, with ``O_NOFOLLOW``.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import NamedTuple

__all__ = ["GONE", "MAX_FILE_BYTES", "Skipped", "Text", "check_name", "open_below", "open_root", "read_text", "shown"]

MAX_FILE_BYTES = 1024 * 1024
"""A larger file is not read."""
MAX_NAME_BYTES = 1024
"""A longer path is not taken."""
GONE = "it is gone"
"""The reason of a file that is not there any more."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: a pipe in the place of a file must not hold this process.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC

_KINDS = (
    (stat.S_ISLNK, "it is a link"),
    (stat.S_ISDIR, "it is a folder with a repository of its own"),
    (stat.S_ISFIFO, "it is a pipe"),
    (stat.S_ISSOCK, "it is a socket"),
)


class Skipped(NamedTuple):
    """A file that has no chunks, and why."""

    file: str
    """Its path, as it can be shown."""
    reason: str


class Text(NamedTuple):
    """The text of a file, without a byte order mark; each end of a line is a newline."""

    text: str
    replaced: int
    """How many bytes or sequences were no UTF-8; each is U+FFFD in the text."""


def shown(name: str) -> str:
    """A path without what a terminal would act on, and short enough for a message."""
    text = "".join(c if c.isprintable() else "?" for c in name[:200])
    return text if len(name) <= 200 else f"{text}…"


def check_name(name: str) -> str | None:
    """Why a path cannot be in the index; None if it can."""
    if "\ufffd" in name or not name.isprintable():
        try:
            name.encode()
        except UnicodeEncodeError:
            return "its name is not UTF-8"
        return "its name is not UTF-8" if "\ufffd" in name else "its name has a character that cannot be shown"
    if len(name.encode()) > MAX_NAME_BYTES:
        return "its path is longer than 1 KiB"
    if name.startswith("/") or not {"", ".", ".."}.isdisjoint(name.split("/")):
        return "its path leads elsewhere"
    return None


def open_root(path: str) -> int:
    """A descriptor of the folder, which a link may name.

    Raises:
        OSError: there is none, or it cannot be read.
    """
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_below(root: int, path: str, flags: int = _DIRECTORY) -> int:
    """Open ``path`` below the folder ``root``, following no link; "" is the folder itself.

    Raises:
        OSError: with ELOOP or ENOTDIR for a link on the way.
    """
    *folders, last = path.split("/")
    here = root
    try:
        for folder in folders:
            inner = os.open(folder, _DIRECTORY, dir_fd=here)
            if here != root:
                os.close(here)
            here = inner
        return os.open(last or ".", flags, dir_fd=here)
    finally:
        if here != root:
            os.close(here)


def read_text(root: int, file: str) -> Text | Skipped:
    """Read the file ``file`` below the folder whose descriptor is ``root``.

    It is skipped, with the reason, if it is not a regular file, is larger than 1 MiB, has a NUL (then it is binary), or
    cannot be read. What is not UTF-8 is replaced.
    """
    problem = check_name(file)
    if problem is None:
        try:
            data = _read(root, file)
        except OSError as error:
            problem = _reason(error)
        else:
            if isinstance(data, str):
                problem = data
            elif b"\0" in data:
                problem = "it is binary"
            else:
                return _decoded(data)
    return Skipped(shown(file), problem)


def _read(root: int, file: str) -> bytes | str:
    folder, _, name = file.rpartition("/")
    above = open_below(root, folder) if folder else root
    try:
        # Opening a device can have an effect, so that it is looked at before.
        problem = _not_regular(os.stat(name, dir_fd=above, follow_symlinks=False))
        if problem is not None:
            return problem
        descriptor = os.open(name, _FILE, dir_fd=above)
    finally:
        if above != root:
            os.close(above)
    try:
        problem = _not_regular(os.fstat(descriptor))
        if problem is not None:
            return problem
        # A file of /proc has no size, and any other may grow.
        parts, left = [], MAX_FILE_BYTES + 1
        while left > 0 and (part := os.read(descriptor, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(descriptor)
    return "it is larger than 1 MiB" if left <= 0 else b"".join(parts)


def _not_regular(status: os.stat_result) -> str | None:
    if stat.S_ISREG(status.st_mode):
        return "it is larger than 1 MiB" if status.st_size > MAX_FILE_BYTES else None
    return next((reason for is_kind, reason in _KINDS if is_kind(status.st_mode)), "it is a device")


def _reason(error: OSError) -> str:
    if error.errno == errno.ENOENT:
        return GONE
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a link leads to it"
    return f"it cannot be read: {error.strerror}"


def _decoded(data: bytes) -> Text:
    replaced = 0
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = data.decode("utf-8", "replace")
        replaced = text.count("\ufffd") - data.count("\ufffd".encode())
    text = text.removeprefix("\ufeff")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return Text(text, replaced)
