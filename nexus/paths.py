"""Where things are: the XDG folders, the socket, the database. Daemon and clients share these functions.

Nothing here is in a folder that others could make first: the runtime directory is ``XDG_RUNTIME_DIR`` if it is ours,
else ``/run/user/UID`` if that is ours, else a private folder under the state directory.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

__all__ = [
    "MAX_SOCKET_PATH",
    "PathError",
    "RuntimeDirectory",
    "check_socket_path",
    "config_directory",
    "default_database_path",
    "default_socket_path",
    "runtime_directory",
    "state_directory",
]

MAX_SOCKET_PATH = 107
"""Bytes that the path of a Unix socket may have on Linux (unix(7): sun_path without its final zero)."""


class PathError(Exception):
    """A folder cannot be used; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class RuntimeDirectory(NamedTuple):
    """The directory for sockets, and a warning where it is not the usual one."""

    path: Path
    warning: str | None = None


def _home_based(variable: str, fallback: str) -> Path:
    value = os.environ.get(variable, "")
    # The XDG base directory specification has relative paths ignored.
    return Path(value) if value.startswith("/") else Path.home() / fallback


def config_directory() -> Path:
    """``NEXUS_CONFIG_DIR``, else ``nexus`` in ``$XDG_CONFIG_HOME`` (``~/.config``)."""
    own = os.environ.get("NEXUS_CONFIG_DIR")
    if own:
        return Path(own).absolute()
    # By hand, since every start of nexusctl needs it and importing platformdirs takes longer than all the rest.
    return _home_based("XDG_CONFIG_HOME", ".config") / "nexus"


def state_directory() -> Path:
    """``nexus`` in ``$XDG_STATE_HOME`` (``~/.local/state``): the database, its backups, logs."""
    from platformdirs import user_state_path

    return user_state_path("nexus", appauthor=False)


def default_database_path() -> Path:
    """``nexus.db`` in the state directory."""
    return state_directory() / "nexus.db"


def runtime_directory() -> RuntimeDirectory:
    """The directory that holds the ``nexus`` folder with the socket.

    Raises:
        PathError: ``XDG_RUNTIME_DIR`` is set, but cannot be used.
    """
    value = os.environ.get("XDG_RUNTIME_DIR")
    if value:
        problem = _not_ours(value)
        if problem is not None:
            raise PathError(
                f"cannot use XDG_RUNTIME_DIR {value}: {problem}",
                "Log in again, or set it to a directory of your own with mode 0700, or unset it.",
            )
        return RuntimeDirectory(Path(value))
    usual = f"/run/user/{os.geteuid()}"
    if _not_ours(usual) is None:
        return RuntimeDirectory(Path(usual))
    own = _home_based("XDG_STATE_HOME", ".local/state") / "nexus" / "run"
    return RuntimeDirectory(own, f"XDG_RUNTIME_DIR is not set and {usual} is not there: the socket is under {own}")


def _not_ours(directory: str) -> str | None:
    if not directory.startswith("/"):
        return "it is not an absolute path"
    try:
        status = os.stat(directory)  # noqa: PTH116
    except FileNotFoundError:
        return "there is no such directory"
    except OSError as error:
        return str(error.strerror)
    if not stat.S_ISDIR(status.st_mode):
        return "it is not a directory"
    if status.st_uid != os.geteuid():
        return f"it belongs to user {status.st_uid}, not to you ({os.geteuid()})"
    if status.st_mode & 0o022:
        return f"others can write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return None


def default_socket_path() -> RuntimeDirectory:
    """``nexus/nexus.sock`` in the runtime directory, with that directory's warning.

    Raises:
        PathError: the runtime directory cannot be used.
    """
    directory, warning = runtime_directory()
    return RuntimeDirectory(directory / "nexus" / "nexus.sock", warning)


def check_socket_path(path: Path) -> None:
    """Refuse a path that no Unix socket can have.

    Raises:
        PathError: it is too long.
    """
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise PathError(
            f"cannot use socket {path}: the path has {size} bytes, a Unix socket's may have {MAX_SOCKET_PATH}",
            "Choose a shorter one: --socket PATH, or NEXUS_SOCKET.",
        )
