"""Which folders and files are trusted: those that no other user can have written, and that no other user can replace.

It looks at every step of a path, as the kernel takes it, with the symbolic links in it. It changes nothing but the
folders that it is asked to make, and knows nothing of what they are for.

Paths are ``str``: every start of ``nexusctl`` imports this module.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from typing import NamedTuple

from nexus_protocol.errors import ReportedError

from nexus.hints import command_line

__all__ = ["Distrust", "Untrusted", "distrust", "distrust_of_status", "make_trusted", "require_trusted"]

_MAX_LINKS = 40
"""As the kernel: path_resolution(7)."""


class Untrusted(ReportedError):
    """A folder or a file that another user may have written is not used."""


class Distrust(NamedTuple):
    """Why a path is not trusted."""

    path: str
    """What is wrong on the way: the path itself, a folder above it, or a link."""
    before: str
    after: str
    """The sentence, without the path in its middle."""
    remedy: tuple[str, ...]
    """A command that helps, without the path at its end."""

    def sentence(self, path: str) -> str:
        """The reason, where ``path`` was asked for: "it" is the path itself."""
        return self.before + ("it" if self.path == path else self.path) + self.after

    @property
    def command(self) -> str:
        """The command that helps."""
        return command_line(*self.remedy, self.path)


def distrust_of_status(path: str, status: os.stat_result) -> Distrust | None:
    """Why another user may have written the folder or file with this status; None if no other user may."""
    if status.st_uid not in (os.geteuid(), 0):
        return _foreign(path, status)
    if status.st_mode & 0o022:
        return _writable(path, status)
    return None


def _foreign(path: str, status: os.stat_result) -> Distrust:
    user = os.geteuid()
    return Distrust(path, "", f" belongs to user {status.st_uid}, not to you ({user})", ("chown", "-h", str(user)))


def _writable(path: str, status: os.stat_result) -> Distrust:
    return Distrust(path, "other users can write to ", f" (mode {stat.S_IMODE(status.st_mode):04o})", ("chmod", "go-w"))


def distrust(path: str) -> Distrust | None:
    """Why another user may have written ``path``, or could put another file or folder in its place; None if none could.

    The path and each folder above it must belong to this user or to root, and others must not be able to write to them.
    A folder above it may be one where only owners can rename, as /tmp is (sticky). The links on the way must belong to
    this user or to root. What does not exist is trusted, if what is above it is.
    """
    # The owner of / can replace everything. In a user namespace without root that is the overflow user.
    owners = {os.geteuid(), 0, os.stat("/").st_uid}
    for step, status, above in _steps(path if path.startswith("/") else os.path.join(os.getcwd(), path)):
        if isinstance(status, OSError):
            return Distrust(step, "", f" cannot be looked at: {status.strerror}", ("ls", "-ld"))
        is_link = stat.S_ISLNK(status.st_mode)
        if not (is_link or above):
            return distrust_of_status(step, status)
        if status.st_uid not in owners:
            return _foreign(step, status)
        if status.st_mode & 0o022 and not (is_link or status.st_mode & stat.S_ISVTX):
            return _writable(step, status)
    return None


def _steps(path: str) -> Iterator[tuple[str, os.stat_result | OSError, bool]]:
    """Each folder, link and file that the kernel passes on its way to ``path``, and whether the path goes on from it.

    It ends early at what does not exist.
    """
    ahead = _parts(path)
    here, links = "/", 0
    status = os.lstat(here)
    while True:
        yield here, status, bool(ahead)
        if not ahead:
            return
        part = ahead.pop()
        step = os.path.dirname(here) if part == ".." else os.path.join(here, part)
        try:
            status = os.lstat(step)
        except FileNotFoundError:
            return
        except OSError as error:
            yield step, error, False
            return
        if not stat.S_ISLNK(status.st_mode):
            here = step
            continue
        yield step, status, True
        links += 1
        if links > _MAX_LINKS:
            yield step, OSError(0, "too many symbolic links"), False
            return
        target = os.readlink(step)
        ahead += _parts(target)
        if target.startswith("/"):
            here = "/"
        status = os.lstat(here)


def _parts(path: str) -> list[str]:
    """The names in a path, the last one first."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]


def require_trusted(path: str, what: str) -> None:
    """Check that ``path`` is trusted; ``what`` names it in the sentence, such as "the state folder".

    Raises:
        Untrusted: it is not.
    """
    problem = distrust(path)
    if problem is not None:
        raise Untrusted(
            f"cannot use {what} {path}: {problem.sentence(path)}",
            f"Another user may have changed what is in it. Look at it, then: {problem.command}",
        )


def make_trusted(path: str, what: str) -> None:
    """Make a folder with those above it, each of mode 0700, unless they exist; none is made in an untrusted one.

    Raises:
        Untrusted: it is not trusted.
        OSError: it cannot be made.
    """
    require_trusted(path, what)
    if not os.path.isdir(path):
        _make(path)
        require_trusted(path, what)  # in a folder such as /tmp another user may have made it first


def _make(path: str) -> None:
    above = os.path.dirname(path)
    if above and not os.path.isdir(above):
        _make(above)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
