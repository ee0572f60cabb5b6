"""Reads the segment files of a log: its bytes in order, each chunk with its place in its stream.

Nothing here waits; what may take long is a generator that yields between steps. It knows bytes and streams, and no
lines. The format is described at the top of ``native/nexus-shim.c``.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
from collections import deque
from collections.abc import Generator, Iterator, Mapping
from itertools import compress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

__all__ = [
    "BLOCK_ENTRIES",
    "CHUNK_BYTES",
    "ENTRY",
    "LOST",
    "MARK",
    "STREAMS",
    "WITHIN_LINE",
    "Chunk",
    "Entry",
    "Position",
    "Reader",
    "bytes_before",
    "first_offsets",
    "list_segments",
    "open_oldest",
    "open_part",
    "read_entries",
    "stream_of",
]

ENTRY = struct.Struct("=QII")
"""One entry of an index: time in ms, length in bytes, stream."""
STREAMS = (1, 2)
LOST = 0x80
"""Flag in an entry's stream: ``length`` bytes were lost at this point, and none are in the data file."""
MARK = 0x40
"""Flag in an entry's stream: it has no bytes, and instead of a time the number of the stream's bytes before it."""
WITHIN_LINE = 0x20
"""Flag in the stream of either mark: the stream's next byte is not the first one of a line."""

BLOCK_ENTRIES = 4096
CHUNK_BYTES = 64 * 1024
_STREAM_BYTE = 12 if sys.byteorder == "little" else 15
"""Offset in an entry of the byte that holds the stream."""
_IS_SECOND = bytes(number == 2 for number in range(256))
_TICKS_BETWEEN_CHECKS = 8
_MAX_LISTINGS = 16
"""How often the segments are listed until one of those listed can be opened."""
_IDLE_TICKS = 100
"""After this many ticks without new data, a reader checks only on every fourth tick."""


class Position(NamedTuple):
    """A position between two bytes of a log: segment, entry of its index, byte offset in that entry."""

    segment: int
    entry: int
    offset: int


class Entry(NamedTuple):
    """An entry of an index."""

    at: int
    length: int
    stream: int


class Chunk(NamedTuple):
    """What a reader found next: at most 64 KiB of one entry, ``lost`` bytes, or a mark with neither.

    ``offset`` is how many bytes its stream had before it since the log began, deleted and lost ones included. After
    lost bytes and marks, ``within_line`` says that the next byte is not the first one of a line. ``anew``: the log was
    begun anew, or is damaged, and no offset from before counts. Stream 0 only gives the caller a turn.
    """

    stream: int
    offset: int
    at: int = 0
    data: bytes = b""
    lost: int = 0
    within_line: bool = False
    run_begins: bool = False
    anew: bool = False


def stream_of(entry: Entry) -> int:
    """The stream of an entry, which may be a mark."""
    return entry.stream & 3


def list_segments(folder: Path | int) -> list[int]:
    """The numbers of the existing segments, the oldest first; ``folder`` may be a descriptor."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(
        int(stem) for stem, dot, kind in (name.partition(".") for name in names) if kind == "idx" and stem.isdigit()
    )


def open_part(folder: Path | int, number: int, kind: str) -> int:
    """Open the ``log`` or ``idx`` file of a segment.

    Raises:
        FileNotFoundError: the writer has deleted it.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    if isinstance(folder, int):
        return os.open(f"{number}.{kind}", flags, dir_fd=folder)
    return os.open(folder / f"{number}.{kind}", flags)


def open_oldest(folder: Path | int, first: int = 0) -> tuple[int, int, int] | None:
    """Open the oldest existing segment from number ``first`` on: its number, and its ``log`` and ``idx`` files.

    None where there is none. Between the list and the opening, a fast writer may delete all that was listed: it does so
    only after it has begun a newer segment, so the list is made again as long as it changes.
    """
    before: list[int] = []
    for _ in range(_MAX_LISTINGS):
        numbers = [number for number in list_segments(folder) if number >= first]
        if numbers == before:
            break
        for number in numbers:
            with contextlib.ExitStack() as files, contextlib.suppress(FileNotFoundError):
                data = open_part(folder, number, "log")
                files.callback(os.close, data)
                index = open_part(folder, number, "idx")
                files.pop_all()
                return number, data, index
        before = numbers
    return None


def _read_raw(index: int, first: int, count: int) -> bytes:
    """Entries as bytes. Read twice: an entry that another one followed in the first read is final in the second."""
    present = len(os.pread(index, count * ENTRY.size, first * ENTRY.size)) // ENTRY.size
    raw = os.pread(index, present * ENTRY.size, first * ENTRY.size)
    return raw[: len(raw) // ENTRY.size * ENTRY.size]


def read_entries(index: int, first: int, end: int) -> Iterator[Entry]:
    """The entries from number ``first`` on, before ``end``."""
    while first < end and (raw := _read_raw(index, first, min(end - first, BLOCK_ENTRIES))):
        for fields in ENTRY.iter_unpack(raw):
            yield Entry(*fields)
        first += len(raw) // ENTRY.size


def _is_plain(raw: bytes) -> bool:
    """Whether there is no mark among entries."""
    return not raw[_STREAM_BYTE :: ENTRY.size].translate(None, bytes(STREAMS))


def _add_plain(raw: bytes, totals: list[int]) -> None:
    """Add the bytes of entries without marks. Makes no object per entry: there may be a million."""
    lengths = memoryview(raw).cast("I")[2::4]
    second = sum(compress(lengths, raw[_STREAM_BYTE :: ENTRY.size].translate(_IS_SECOND)))
    totals[2] += second
    totals[1] += sum(lengths) - second


def bytes_before(index: int, end: int) -> int:
    """The number of bytes in the data file of the first ``end`` entries."""
    totals = [0, 0, 0]
    at = 0
    while at < end and (raw := _read_raw(index, at, min(end - at, BLOCK_ENTRIES))):
        if _is_plain(raw):
            _add_plain(raw, totals)
        else:
            totals[1] += sum(length for _at, length, stream in ENTRY.iter_unpack(raw) if not stream & (LOST | MARK))
        at += len(raw) // ENTRY.size
    return sum(totals)


def first_offsets(index: int, number: int) -> dict[int, int] | None:
    """How many bytes each stream had before a segment; None where the segment has no output yet, or is damaged."""
    first = list(read_entries(index, 0, 2))
    if len(first) == 2 and all(entry.stream & MARK for entry in first):
        return {stream_of(entry): entry.at for entry in first}
    return None if number else dict.fromkeys(STREAMS, 0)


class Reader:
    """Reads streams of a log; ``next`` returns None at the end of the log, and later what was added since.

    It begins at the oldest segment, or where ``seek`` or ``skip_to`` moved it. A segment that it has opened it reads to
    the end, even if the writer deletes it meanwhile; from there it continues with the oldest that exists.
    """

    def __init__(self, folder: Path, streams: tuple[int, ...] = STREAMS) -> None:
        self.segment = 0
        """The number of the segment that is read, or the lowest one to be read next."""
        self.offsets = [0, 0, 0]
        """How many bytes each stream had before the reader's position."""
        self._path = folder
        self._streams = streams
        self._folder = self._data = self._index = -1
        self._ended = False
        self._entry = self._entry_offset = 0
        self._data_offset = self._data_size = 0
        self._next_name = ""
        self._idle_ticks = 0
        self._block: list[Entry] = []
        self._block_start = 0
        self._pending: deque[Chunk] = deque()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1
        self._ended = True

    def _close(self) -> None:
        for fd in (self._data, self._index):
            if fd >= 0:
                os.close(fd)
        self._data = self._index = -1

    # Moving

    def log_id(self) -> int:
        """Tells the log from one that is written in its place after it was deleted; 0 while there is none."""
        return os.fstat(self._folder).st_ino if self._open_folder() else 0

    def seek(self, position: Position) -> Generator[None]:
        """Move to a position; if its segment was deleted, to the beginning of the next one."""
        if not self._open_from(position.segment) or self.segment != position.segment:
            return
        yield from self._pass_to(position.entry)
        found = self._peek_entry() if position.offset and self._entry == position.entry else None
        if found is not None:
            self._advance(stream_of(found[0]), min(position.offset, self._data_size - self._data_offset))

    def _pass_to(self, entry: int) -> Generator[None]:
        """Move to an entry of the open segment, which another entry follows or will follow."""
        while self._entry < entry:
            raw = _read_raw(self._index, self._entry, min(entry - self._entry, BLOCK_ENTRIES))
            if not raw:
                return
            self._pass_entries(raw)
            yield

    def skip_to(self, offsets: Mapping[int, int]) -> Generator[None]:
        """Move towards these offsets, and not beyond any of them; to the oldest segment if they are deleted."""
        for number in reversed(list_segments(self._folder) if self._open_folder() else []):
            yield
            try:
                index = open_part(self._folder, number, "idx")
            except FileNotFoundError:
                break
            try:
                first = first_offsets(index, number)
            finally:
                os.close(index)
            if first is not None and all(first[stream] <= offset for stream, offset in offsets.items()):
                if self._open_from(number) and self.segment == number:
                    yield from self._skip_entries(offsets)
                return
        self._open_from(0)

    def _skip_entries(self, offsets: Mapping[int, int]) -> Generator[None]:
        # The last entry may grow, so it is never passed.
        while raw := _read_raw(self._index, self._entry, BLOCK_ENTRIES + 1)[: -ENTRY.size]:
            after = list(self.offsets)
            if _is_plain(raw):
                _add_plain(raw, after)
                if all(after[stream] <= offset for stream, offset in offsets.items()):
                    self._pass_entries(raw)
                    yield
                    continue
            for number, fields in enumerate(ENTRY.iter_unpack(raw)):
                entry = Entry(*fields)
                stream = stream_of(entry)
                if entry.stream & MARK:
                    is_before = stream not in offsets or entry.at < offsets[stream]
                else:
                    is_before = stream not in offsets or self.offsets[stream] + entry.length <= offsets[stream]
                if not is_before:
                    return
                self._pass_entries(raw[number * ENTRY.size : (number + 1) * ENTRY.size])
            yield

    def to_end(self) -> Generator[None, None, Position | None]:
        """Move to the present end of the log, and return that; None where there is no output.

        What a fast writer adds meanwhile may count, too. The segment is opened once: the place is one of what was
        opened, even if the writer deletes it meanwhile.
        """
        for number in reversed(list_segments(self._folder) if self._open_folder() else []):
            if not self._open_from(number):
                continue
            number = self.segment
            count = os.fstat(self._index).st_size // ENTRY.size
            if not count:
                self._close()
                continue
            yield from self._pass_to(count - 1)
            last = next(read_entries(self._index, count - 1, count), None)
            if last is None:
                return Position(number, self._entry, 0)
            if last.stream & (LOST | MARK):
                self._pass_entries(ENTRY.pack(*last))
                return Position(number, count, 0)
            # An entry is written before its bytes.
            self._data_size = os.lseek(self._data, 0, os.SEEK_END)
            size = max(0, min(last.length, self._data_size - self._data_offset))
            self._advance(stream_of(last), size)
            return Position(number, count - 1, size)
        return None

    def _pass_entries(self, raw: bytes) -> None:
        """Move behind entries that are final."""
        self._entry, self._entry_offset = self._entry + len(raw) // ENTRY.size, 0
        if _is_plain(raw):
            before = sum(self.offsets)
            _add_plain(raw, self.offsets)
            self._data_offset += sum(self.offsets) - before
            return
        for fields in ENTRY.iter_unpack(raw):
            entry = Entry(*fields)
            if entry.stream & MARK:
                self.offsets[stream_of(entry)] = entry.at
                continue
            self.offsets[stream_of(entry)] += entry.length
            if not entry.stream & LOST:
                self._data_offset += entry.length

    def _advance(self, stream: int, size: int) -> None:
        """Move on within an entry."""
        self._entry_offset += size
        self._data_offset += size
        self.offsets[stream] += size

    def known_offsets(self) -> dict[int, int]:
        """How many bytes each stream had before the reader's position, as far as that is known by now."""
        if self._index < 0:
            return {}
        if self._entry or self._entry_offset:
            return {stream: self.offsets[stream] for stream in STREAMS}
        return first_offsets(self._index, self.segment) or {}

    # Reading

    def next(self) -> Chunk | None:
        """The next chunk, or None when there is no more data at present."""
        while True:
            if self._index < 0 and not self._open_from(self.segment):
                return None
            if self._pending:
                return self._pending.popleft()
            chunk = self._next_in_segment()
            if chunk is not None:
                return chunk
            following = self._find_following()
            if following is None:
                return None
            # Read again: the writer adds nothing to a segment once the next one exists, so this segment is complete.
            chunk = self._next_in_segment()
            if chunk is not None:
                return chunk
            self._close()
            self.segment = following

    def has_changed(self, tick: int) -> bool:
        """Whether ``next`` may have something new.

        Takes about a microsecond. The checks for a new or deleted segment cost more, and run every few ticks.
        """
        self._idle_ticks += 1
        if self._idle_ticks > _IDLE_TICKS and tick % 4:
            return False
        if self._data >= 0 and os.lseek(self._data, 0, os.SEEK_END) != self._data_size:
            return True
        if self._index < 0:
            return bool(list_segments(self._path)) or self.is_gone()
        if tick % _TICKS_BETWEEN_CHECKS:
            return False
        return os.fstat(self._index).st_nlink == 0 or self._next_exists()

    def is_gone(self) -> bool:
        """Whether the log has been deleted since the reader opened it."""
        if self._folder < 0:
            return False
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._folder))
        except (FileNotFoundError, NotADirectoryError):
            return True

    def _open_folder(self) -> bool:
        if self._folder < 0:
            assert not self._ended, "nothing would close it"
            try:
                self._folder = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                return False
        return True

    def _open_from(self, first: int) -> bool:
        """Open the oldest existing segment from number ``first`` on, at its beginning."""
        if not self._open_folder():
            return False
        self._close()
        found = open_oldest(self._folder, first)
        if found is None:
            return False
        self.segment, self._data, self._index = found
        if self.segment == 0:
            if any(self.offsets):
                self._pending.extend(Chunk(stream, 0, anew=True) for stream in STREAMS)
            self.offsets = [0, 0, 0]
        self._entry = self._entry_offset = self._data_offset = self._data_size = 0
        self._block, self._block_start = [], 0
        self._next_name = f"{self.segment + 1}.idx"
        return True

    def _next_exists(self) -> bool:
        return os.access(self._next_name, os.F_OK, dir_fd=self._folder)

    def _find_following(self) -> int | None:
        """The number of the next existing segment."""
        if self._next_exists():
            return self.segment + 1
        # Asked for before the list: the writer deletes a segment only after all older ones.
        is_deleted = os.fstat(self._index).st_nlink == 0
        numbers = list_segments(self._folder)
        following = next((number for number in numbers if number > self.segment), None)
        if following is None and is_deleted and numbers:
            return numbers[0]  # the files were deleted, and the log was begun anew
        return following

    def _next_in_segment(self) -> Chunk | None:
        skipped = 0
        while (found := self._peek_entry()) is not None:
            entry, is_final = found
            stream = stream_of(entry)
            if entry.stream & (LOST | MARK):
                return self._read_mark(entry)
            left = entry.length - self._entry_offset
            if stream in self._streams:
                data = os.pread(self._data, min(left, CHUNK_BYTES), self._data_offset) if left > 0 else b""
                if data:
                    self._idle_ticks = 0
                    chunk = Chunk(stream, self.offsets[stream], entry.at, data)
                    self._advance(stream, len(data))
                    return chunk
            elif left > 0:
                self._advance(stream, left if is_final else max(0, min(left, self._data_size - self._data_offset)))
            if not is_final:
                return None
            # If the writer was killed, bytes of an entry may be missing for good.
            self._entry, self._entry_offset = self._entry + 1, 0
            skipped += 1
            if skipped == BLOCK_ENTRIES:
                return Chunk(0, 0)
        return None

    def _read_mark(self, entry: Entry) -> Chunk:
        stream = stream_of(entry)
        within_line = bool(entry.stream & WITHIN_LINE)
        offset = self.offsets[stream]
        self._entry, self._entry_offset = self._entry + 1, 0
        if entry.stream & LOST:
            self.offsets[stream] += entry.length
            return Chunk(stream, offset, entry.at, lost=entry.length, within_line=within_line)
        self.offsets[stream] = entry.at
        return Chunk(stream, entry.at, within_line=within_line, run_begins=bool(entry.length), anew=entry.at < offset)

    def _peek_entry(self) -> tuple[Entry, bool] | None:
        """The next entry, and whether it is final: the last entry of an index may still grow."""
        at = self._entry - self._block_start
        if not 0 <= at < len(self._block) - 1:
            self._data_size = os.lseek(self._data, 0, os.SEEK_END)
            self._block_start = self._entry
            self._block = [
                Entry(*fields) for fields in ENTRY.iter_unpack(_read_raw(self._index, self._entry, BLOCK_ENTRIES))
            ]
            at = 0
        if at >= len(self._block):
            return None
        return self._block[at], at < len(self._block) - 1
