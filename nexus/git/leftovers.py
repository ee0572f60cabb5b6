"""What an interrupted git leaves behind, and the hidden folder in which a clone is made until it is complete.

Functions here touch the file system and block; coroutines call them in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.git import errors
from nexus.git.process import finish_despite_cancel
from nexus.runtime import procfs
from nexus.runtime.inheritance import UMASK

__all__ = ["Leftovers", "StagingFolder", "first_line"]

_LINE_BYTES = 16 * 1024


def first_line(path: Path) -> str:
    """The first line of a regular file, cut at 16 KiB.

    Raises:
        OSError: it cannot be read, or is no regular file, which could be endless.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "It is not a regular file")
        return os.fsdecode(os.read(descriptor, _LINE_BYTES).partition(b"\n")[0])
    finally:
        os.close(descriptor)


class Leftovers:
    """Tells the locks and temporary objects that an operation leaves from those that were there before it."""

    def __init__(self, work_tree: Path, git_dir: Path) -> None:
        self._work_tree = Path(os.path.realpath(work_tree))
        self._git_dirs = {Path(os.path.realpath(git_dir))}
        with contextlib.suppress(OSError):
            common = first_line(git_dir / "commondir").strip()
            self._git_dirs.add(Path(os.path.realpath(git_dir / common)))
        self._before = set(self._present())

    @classmethod
    async def before(cls, work_tree: Path, git_dir: Path) -> Leftovers:
        """Record the locks and temporary objects that exist before an operation starts."""
        return await asyncio.to_thread(cls, work_tree, git_dir)

    async def remove(self) -> None:
        """Remove what the operation has left, once its processes have ended; nothing while another git runs there."""
        await finish_despite_cancel(asyncio.to_thread(self._remove))

    def _remove(self) -> None:
        found = [path for path in self._present() if path not in self._before]
        if found and not self._git_is_running():
            for path in found:
                with contextlib.suppress(OSError):
                    Path(path).unlink()

    def _present(self) -> Iterator[str]:
        for git_dir in self._git_dirs:
            with contextlib.suppress(OSError):
                yield from (entry.path for entry in os.scandir(git_dir) if entry.name.endswith(".lock"))
            with contextlib.suppress(OSError):
                for folder in os.scandir(git_dir / "objects"):
                    if folder.is_dir():
                        yield from (entry.path for entry in os.scandir(folder) if entry.name.startswith("tmp_"))
            for folder_name, _, names in os.walk(git_dir / "refs"):
                yield from (os.path.join(folder_name, name) for name in names if name.endswith(".lock"))  # noqa: PTH118

    def _git_is_running(self) -> bool:
        """Whether any git process has its working directory inside the repository."""
        folders = {self._work_tree, *self._git_dirs}
        return any(
            directory == folder or folder in directory.parents
            for directory in procfs.working_directories("git")
            for folder in folders
        )


class StagingFolder:
    """A hidden folder beside ``path`` for a clone, removed with its content unless the clone was moved out.

    This process holds a lock on the folder, which git inherits: a folder whose lock is free is a leftover.
    """

    def __init__(self, path: Path, doing: str, umask: int | None = None) -> None:
        self._doing = doing
        self.path = path
        self.umask = UMASK if umask is None else umask
        self._parents: list[Path] = []
        self._made = self._moved = False
        self.folder = path
        self.lock = -1

    @property
    def clone(self) -> Path:
        """Where git makes the clone."""
        return self.folder / "repository"

    def make(self) -> None:
        """Make the folder and its missing parents; remove what earlier clones to the path left.

        Raises:
            GitPathTaken: the path exists, and is not an empty folder.
            GitPermission, GitDiskFull, GitFailed: the folder cannot be made.
        """
        path = self.path = Path(os.path.realpath(self.path))
        _refuse_taken(path, self._doing)
        self._parents = [parent for parent in path.parents if not os.path.lexists(parent)]
        prefix = f".{os.fsdecode(os.fsencode(path.name)[:180])}.nexus-clone-"
        try:
            for parent in reversed(self._parents):
                with contextlib.suppress(FileExistsError):
                    parent.mkdir()
                    parent.chmod(0o777 & ~self.umask)  # the daemon's own umask is private
            _remove_leftovers(path.parent, prefix)
            while self.lock < 0:
                # Until it is locked, another daemon may remove it as a leftover: then another one is made.
                self.folder = path.with_name(f"{prefix}{os.urandom(6).hex()}")
                self.folder.mkdir(mode=0o700)
                self._made = True
                self.lock = _lock_folder(self.folder)
        except OSError as error:
            raise _path_error(error, path.parent, self._doing) from None

    def move(self) -> None:
        """Move the clone to ``path``.

        Raises:
            GitPathTaken: the path was created in the meantime.
            GitPermission, GitFailed: it cannot be moved.
        """
        _refuse_taken(self.path, self._doing)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.clone.chmod(self.path.stat().st_mode & 0o7777)
            self.clone.rename(self.path)
        except OSError as error:
            raise _path_error(error, self.path, self._doing) from None
        self._moved = True

    def remove(self) -> None:
        """Remove the folder, and the parents that were made for it unless they are used by now."""
        if self._made:
            _remove_tree(self.folder)
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1
        if not self._moved:
            _remove_empty(self._parents)


def _refuse_taken(path: Path, doing: str) -> None:
    try:
        with os.scandir(path) as entries:
            taken = next(entries, None) is not None
    except FileNotFoundError:
        return
    except NotADirectoryError:
        taken = True
    except OSError as error:
        raise _path_error(error, path, doing) from None
    if taken:
        raise errors.GitPathTaken(
            f"cannot {doing}: the path exists and is not an empty folder",
            hint="Choose another path, or move the existing one away.",
        )


def _path_error(error: OSError, path: Path, doing: str) -> NexusError:
    text = f"cannot {doing}: {error.strerror}"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return errors.GitPermission(text, hint=f"Look at the owner and the permissions of {path}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.GitDiskFull(text, hint="Make room, and try again.")
    return errors.GitFailed(text, hint=f"Look at {path}.")


def _lock_folder(folder: Path) -> int:
    """A descriptor that holds the folder's lock; -1 when another process holds it, or has removed the folder."""
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return -1
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.path.samestat(os.fstat(fd), folder.stat()):
            return fd
    except (BlockingIOError, FileNotFoundError):
        pass
    except BaseException:
        os.close(fd)
        raise
    os.close(fd)
    return -1


def _remove_leftovers(parent: Path, prefix: str) -> None:
    with os.scandir(parent) as entries:
        found = [entry for entry in entries if entry.name.startswith(prefix)]
    for entry in found:
        with contextlib.suppress(OSError):
            if entry.stat(follow_symlinks=False).st_uid != os.geteuid():
                continue
            lock = _lock_folder(Path(entry.path))
            if lock >= 0:
                _remove_tree(Path(entry.path))
                os.close(lock)


def _remove_tree(folder: Path) -> None:
    # Imported here: it and its compressors take 2 MiB, which only a daemon that clones needs.
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
