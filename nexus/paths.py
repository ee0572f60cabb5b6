"""The paths of the XDG directories, the socket and the database. The daemon and the clients share these functions.

No path is in a directory that another user could create first: the runtime directory is ``XDG_RUNTIME_DIR`` if this
user owns it, else ``/run/user/UID`` if this user owns that, else a private directory under the state directory.

Paths are ``str``: every start of ``nexusctl`` imports this module, and importing pathlib takes as long as a short call.
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
    "usual_runtime_directory",
]

MAX_SOCKET_PATH = 107
"""Maximum length in bytes of a Unix socket's path on Linux (unix(7): sun_path without its final zero)."""


class PathError(ReportedError):
    """A directory or a socket path cannot be used."""


class RuntimeDirectory(NamedTuple):
    """The directory for sockets, and a warning if it is not the usual one."""

    path: str
    warning: str | None = None


def _home_based(variable: str, fallback: str) -> str:
    value = os.environ.get(variable, "")
    # The XDG base directory specification says to ignore relative paths.
    return value if value.startswith("/") else os.path.join(_home(variable), fallback)


def _home(instead: str) -> str:
    """The home directory; ``instead`` is the variable that could be set instead of HOME.

    Raises:
        PathError: it cannot be determined.
    """
    home = os.path.expanduser("~")
    if os.environ.get("HOME") == "" or not home.startswith("/"):
        raise PathError(
            f"cannot find your home directory: HOME is empty, and {instead} is not set", f"Set HOME, or {instead}."
        )
    return home


def environment_path(variable: str) -> str | None:
    """The path in one of the ``NEXUS_`` variables; None if it is not set, or empty.

    Raises:
        PathError: the path is relative; each program that inherits the variable would resolve it differently.
    """
    value = os.environ.get(variable)
    if not value:
        return None
    if not value.startswith("/"):
        absolute = os.path.abspath(os.path.expanduser(value))
        raise PathError(
            f"cannot use {variable} {value}: it is not an absolute path", f"Use an absolute path, such as {absolute}"
        )
    return os.path.abspath(value)


def config_directory() -> str:
    """``NEXUS_CONFIG_DIR``, else ``nexus`` in ``$XDG_CONFIG_HOME`` (``~/.config``).

    Raises:
        PathError: the first is relative, or the home directory cannot be determined.
    """
    own = environment_path("NEXUS_CONFIG_DIR")
    return own or os.path.join(_home_based("XDG_CONFIG_HOME", ".config"), "nexus")


def state_directory() -> str:
    """``nexus`` in ``$XDG_STATE_HOME`` (``~/.local/state``): the database, its backups, logs.

    Raises:
        PathError: the home directory cannot be determined.
    """
    if not os.environ.get("XDG_STATE_HOME", "").startswith("/"):
        # platformdirs would use a relative path, which the specification says to ignore.
        return os.path.join(_home("XDG_STATE_HOME"), ".local/state/nexus")
    from platformdirs import user_state_dir

    return user_state_dir("nexus", appauthor=False)


def default_database_path() -> str:
    """``nexus.db`` in the state directory."""
    return os.path.join(state_directory(), "nexus.db")


def usual_runtime_directory() -> str:
    """Where a login manager makes the runtime directory of this user."""
    return f"/run/user/{os.geteuid()}"


def runtime_directory() -> RuntimeDirectory:
    """The directory that holds the ``nexus`` directory with the socket.

    Raises:
        PathError: ``XDG_RUNTIME_DIR`` is set, but cannot be used.
    """
    value = os.environ.get("XDG_RUNTIME_DIR")
    if value:
        problem = _ownership_problem(value)
        if problem is not None:
            raise PathError(
                f"cannot use XDG_RUNTIME_DIR {value}: {problem}",
                "Log in again, or set it to a directory of your own with mode 0700, or unset it.",
            )
        return RuntimeDirectory(value)
    usual = usual_runtime_directory()
    if _ownership_problem(usual) is None:
        return RuntimeDirectory(usual)
    own = os.path.join(_home_based("XDG_STATE_HOME", ".local/state"), "nexus", "run")
    return RuntimeDirectory(own, f"XDG_RUNTIME_DIR is not set and {usual} does not exist: the socket is under {own}")


def _ownership_problem(directory: str) -> str | None:
    """Why a directory is not safe for the socket, in a few words; None if this user alone can write to it."""
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
    """Check the length of a socket's path.

    Raises:
        PathError: the path is too long for a Unix socket.
    """
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH:
        raise PathError(
            f"cannot use socket {path}: the path has {size} bytes, the limit of a Unix socket is {MAX_SOCKET_PATH}",
            "Choose a shorter one: --socket PATH, or NEXUS_SOCKET.",
        )
