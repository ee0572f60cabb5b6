"""What a git that was ended may leave behind, and the folder in which a clone grows until it is whole.

Everything here touches the file system and blocks; what is a coroutine does so in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from nexus_protocol.errors import NexusError

from nexus.git import errors
from nexus.git.process import to_its_end
from nexus.runtime import procfs

__all__ = ["Leftovers", "Nursery"]


class Leftovers:
    """The locks and temporary objects of a repository that were there before an operation, and so are not its own."""

    def __init__(self, work_tree: Path, git_dir: Path) -> None:
        self._work_tree = Path(os.path.realpath(work_tree))
        self._git_dirs = {Path(os.path.realpath(git_dir))}
        with contextlib.suppress(OSError):
            common = (git_dir / "commondir").read_text(encoding="utf-8", errors="surrogateescape").strip()
            self._git_dirs.add(Path(os.path.realpath(git_dir / common)))
        self._before = set(self._present())

    @classmethod
    async def before(cls, work_tree: Path, git_dir: Path) -> Leftovers:
        """Look what is there before an operation begins."""
        return await asyncio.to_thread(cls, work_tree, git_dir)

    async def remove(self) -> None:
        """Remove what came since, now that the operation's processes are gone; nothing while a git works there."""
        await to_its_end(asyncio.to_thread(self._remove))

    def _remove(self) -> None:
        found = [path for path in self._present() if path not in self._before]
        if found and not self._somebody_works():
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

    def _somebody_works(self) -> bool:
        """Whether a git of anybody's runs inside the repository."""
        places = {self._work_tree, *self._git_dirs}
        return any(
            directory == place or place in directory.parents
            for directory in procfs.working_directories("git")
            for place in places
        )


class Nursery:
    """A hidden folder beside ``path``, removed with all that is in it unless the clone was moved out.

    A lock on the folder is held by this process and inherited by git: a folder that nobody holds is a leftover.
    """

    def __init__(self, path: Path, doing: str) -> None:
        self._doing = doing
        self.path = path
        self._parents: list[Path] = []
        self._made = self._moved = False
        self.folder = path
        self.lock = -1

    @property
    def clone(self) -> Path:
        """Where the clone grows."""
        return self.folder / "repository"

    def make(self) -> None:
        """Make the folder, and the missing folders above it; remove what earlier clones to the path left.

        Raises:
            GitPathTaken: something other than an empty folder is there already.
            GitPermission, GitDiskFull, GitFailed: the folder cannot be made.
        """
        path = self.path = Path(os.path.realpath(self.path))
        _refuse_taken(path, self._doing)
        self._parents = [parent for parent in path.parents if not os.path.lexists(parent)]
        prefix = f".{os.fsdecode(os.fsencode(path.name)[:180])}.nexus-clone-"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(path.parent, prefix)
            while self.lock < 0:
                # Another daemon may take it for a leftover until it is locked.
                self.folder = path.with_name(f"{prefix}{os.urandom(6).hex()}")
                self.folder.mkdir(mode=0o700)
                self._made = True
                self.lock = _locked(self.folder)
        except OSError as error:
            raise _place_error(error, path.parent, self._doing) from None

    def move(self) -> None:
        """Put the clone where it belongs.

        Raises:
            GitPathTaken: something came there meanwhile.
            GitPermission, GitFailed: it cannot be moved.
        """
        _refuse_taken(self.path, self._doing)
        try:
            with contextlib.suppress(FileNotFoundError):
                self.clone.chmod(self.path.stat().st_mode & 0o7777)
            self.clone.rename(self.path)
        except OSError as error:
            raise _place_error(error, self.path, self._doing) from None
        self._moved = True

    def remove(self) -> None:
        """Remove what was made: the folder, and those above it unless they are needed now."""
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
        raise _place_error(error, path, doing) from None
    if taken:
        raise errors.GitPathTaken(
            f"cannot {doing}: it is there and not an empty folder",
            hint="Choose another path, or move away what is there.",
        )


def _place_error(error: OSError, path: Path, doing: str) -> NexusError:
    text = f"cannot {doing}: {error.strerror}"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return errors.GitPermission(text, hint=f"Look at the owner and the permissions of {path}.")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.GitDiskFull(text, hint="Make room, and try again.")
    return errors.GitFailed(text, hint=f"Look at {path}.")


def _locked(folder: Path) -> int:
    """A descriptor that holds the folder's lock; -1 when somebody else has it, or has removed the folder."""
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
            lock = _locked(Path(entry.path))
            if lock >= 0:
                _remove_tree(Path(entry.path))
                os.close(lock)


def _remove_tree(folder: Path) -> None:
    # With its compressors it is 2 MiB, which a daemon that clones nothing need not have.
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
