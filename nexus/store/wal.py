"""The write-ahead log of an open database: whether it is in its place, and when it is to be copied into the database.

Source of the format: https://www.sqlite.org/fileformat2.html#walformat. Reading the log is safe: SQLite holds its locks
on the database and on the log's index, and closing a file gives up only the locks on that file.
"""

from __future__ import annotations

import os
import struct

__all__ = ["WriteAheadLog"]

_HEADER = struct.Struct(">8xI4x8s8x")
"""The page's size in bytes and the salt."""
_FRAME_HEADER = struct.Struct(">8x8s8x")
"""The salt of the frame."""


CHECKPOINT_FRAMES = 1000
"""A checkpoint is due when the log has grown by this many frames, of one page each."""


class WriteAheadLog:
    """The log ``path``, which exists.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDONLY)
        self._link = f"/dev/fd/{self._fd}"
        self._size_bytes = 0
        self._salt = b""
        self._due_at = CHECKPOINT_FRAMES

    @property
    def is_in_place(self) -> bool:
        """Whether the file is still the one at its path; its folder is assumed to be.

        A stat would tell the same, but not for free: Linux gives a file whose times were read a new time at its next
        change, instead of one at each tick of the clock, so that a commit takes half as long again.
        """
        try:
            return os.readlink(self._link) == self.path  # noqa: PTH115 - at every commit
        except OSError:  # no /dev/fd
            return _identity(os.fstat(self._fd)) == identity(self.path)

    @property
    def is_whole(self) -> bool:
        """Whether the file is at least as long as when its size was noted; SQLite itself does not shorten it."""
        return self._end() >= self._size_bytes

    def note_size(self) -> None:
        """Note the size of the file as it is."""
        self._size_bytes = self._end()

    def _end(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)  # which reads no times, see ``is_in_place``

    @property
    def is_due(self) -> bool:
        """Whether a checkpoint is due; False where the log cannot be read.

        The file's size does not tell: after a checkpoint SQLite writes from the start of the file again, which keeps
        its size. Frames that were written since carry the salt of the file's header, older ones another.
        """
        try:
            header = os.pread(self._fd, _HEADER.size, 0)
            if len(header) < _HEADER.size:
                return False
            page_bytes, salt = _HEADER.unpack(header)
            if salt != self._salt:  # SQLite has begun at the start again
                self._salt, self._due_at = salt, CHECKPOINT_FRAMES
            at = _HEADER.size + (self._due_at - 1) * (_FRAME_HEADER.size + page_bytes)
            frame = os.pread(self._fd, _FRAME_HEADER.size, at)
        except OSError:
            return False
        return len(frame) == _FRAME_HEADER.size and _FRAME_HEADER.unpack(frame)[0] == salt

    @property
    def size_bytes(self) -> int:
        """The size of the file."""
        return os.fstat(self._fd).st_size

    def note_checkpoint(self, frames: int) -> None:
        """Note a checkpoint that found ``frames`` frames in the log.

        Where a reader keeps SQLite from writing at the start again, the next is due so many frames later.
        """
        self._due_at = frames + CHECKPOINT_FRAMES

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def identity(name: str) -> tuple[int, int] | None:
    """The device and the inode of a file; None where it cannot be found."""
    try:
        return _identity(os.stat(name))  # noqa: PTH116 - at every commit
    except OSError:
        return None


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
