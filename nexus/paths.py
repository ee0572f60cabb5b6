"""Where things are: the XDG folders, the socket, the database. Daemon and clients share these functions.

Nothing here is in a folder that others could make first: the runtime directory is ``XDG_RUNTIME_DIR`` if it is ours,
else ``/run/user/UID`` if that is ours, else a private folder under the state directory.

Paths are plain text here: every start of ``nexusctl`` comes by, and importing pathlib takes as long as its answer.
"""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from nexus_protocol.errors import ReportedError

__all__ = [
    "MAX_SOCKET_PATH",
    "PathError",
    "RuntimeDirectory",
    "check_socket_path",
    "config_directory",
    "default_database_path",
    "default_socket_path",
    "environment_path",
    "runtime_directory",
    "state_directory",
]

MAX_SOCKET_PATH = 107
"""Bytes that the path of a Unix socket may have on Linux (unix(7): sun_path without its final zero)."""


class PathError(ReportedError):
    """A directory or a socket path cannot be used."""


class RuntimeDirectory(NamedTuple):
    """The directory for sockets, and a warning where it is not the usual one."""

    path: str
    warning: str | None = None


def _home_based(variable: str, fallback: str) -> str:
    value = os.environ.get(variable, "")
    # The XDG base directory specification has relative paths ignored.
    return value if value.startswith("/") else os.path.join(_home(variable), fallback)


def _home(instead: str) -> str:
    """The home directory; ``instead`` is the variable that would make it needless.

    Raises:
        PathError: nobody knows it.
    """
    home = os.path.expanduser("~")
    if os.environ.get("HOME") == "" or not home.startswith("/"):
        raise PathError(
            f"cannot tell where your files are: HOME is empty, and {instead} is not set", f"Set HOME, or {instead}."
        )
    return home


def environment_path(variable: str) -> str | None:
    """The path that a variable of our own gives; None where it is not set, or empty.

    Raises:
        PathError: it is a relative one, which would mean another place to each program that inherits it.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    if not value.startswith("/"):
        whole = os.path.abspath(os.path.expanduser(value))
        raise PathError(f"cannot use {variable} {value}: it is not an absolute path", f"Give it whole, such as {whole}")
    return os.path.abspath(value)


def config_directory() -> str:
    """``NEXUS_CONFIG_DIR``, else ``nexus`` in ``$XDG_CONFIG_HOME`` (``~/.config``).

    Raises:
        PathError: the first is relative, or nobody knows the home directory.
    """
    own = environment_path("NEXUS_CONFIG_DIR")
    return own or os.path.join(_home_based("XDG_CONFIG_HOME", ".config"), "nexus")


def state_directory() -> str:
    """``nexus`` in ``$XDG_STATE_HOME`` (``~/.local/state``): the database, its backups, logs.

    Raises:
        PathError: nobody knows the home directory.
    """
    if not os.environ.get("XDG_STATE_HOME", "").startswith("/"):
        # platformdirs takes a relative one as it is, which the specification has ignored.
        return os.path.join(_home("XDG_STATE_HOME"), ".local/state/nexus")
    from platformdirs import user_state_dir

    return user_state_dir("nexus", appauthor=False)


def default_database_path() -> str:
    """``nexus.db`` in the state directory."""
    return os.path.join(state_directory(), "nexus.db")


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
        return RuntimeDirectory(value)
    usual = f"/run/user/{os.geteuid()}"
    if _not_ours(usual) is None:
        return RuntimeDirectory(usual)
    own = os.path.join(_home_based("XDG_STATE_HOME", ".local/state"), "nexus", "run")
    return RuntimeDirectory(own, f"XDG_RUNTIME_DIR is not set and {usual} is not there: the socket is under {own}")


def _not_ours(directory: str) -> str | None:
    if not directory.startswith("/"):
        return "it is not an absolute path"
    try:
        status = os.stat(directory)
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
    return RuntimeDirectory(os.path.join(directory, "nexus", "nexus.sock"), warning)


def check_socket_path(path: str | os.PathLike[str]) -> None:
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
