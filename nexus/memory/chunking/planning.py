"""Compares the chunks of files with those in the index, and tells what is to be written: as little as possible.

A chunk that is the same keeps its row, and with it its embedding, wherever it has gone. It is pure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

from nexus.memory.chunking.outline import Chunk

__all__ = ["Create", "Delete", "Move", "OldChunk", "Operation", "Plan", "Planner", "batches", "plan"]

_OPERATION_BYTES = 200
"""What an operation takes beside its texts."""


class OldChunk(NamedTuple):
    """A row of the index."""

    id: str
    file: str
    hash: str
    start_line: int
    end_line: int


class Create(NamedTuple):
    """A chunk that is new."""

    chunk: Chunk
    like: str | None
    """The id of a row with the same hash that stays, whose embedding is that of this chunk too."""


class Move(NamedTuple):
    """A row whose file or lines change, and nothing else."""

    id: str
    file: str
    start_line: int
    end_line: int


class Delete(NamedTuple):
    """A row whose text is not there any more."""

    id: str


Operation: TypeAlias = Create | Move | Delete


class Plan(NamedTuple):
    """What makes the index that of the files."""

    create: list[Create]
    move: list[Move]
    delete: list[Delete]
    kept: int
    """How many rows stay as they are."""

    @property
    def operations(self) -> list[Operation]:
        """All, in the order in which they are best sent: the index never has a text twice that is there once."""
        return [*self.delete, *self.move, *self.create]


class Planner:
    """Plans file by file; it holds the old rows, and only those new chunks that may turn out to have moved.

    ``add`` is called once for each file that was looked at, with no chunks if it has none, was skipped or is gone, and
    ``finish`` once after all.
    """

    def __init__(self, old: Iterable[OldChunk]) -> None:
        self._by_file: dict[str, list[OldChunk]] = defaultdict(list)
        self._ids: dict[str, str] = {}
        for row in old:
            self._by_file[row.file].append(row)
            self._ids.setdefault(row.hash, row.id)
        self._left: dict[str, list[OldChunk]] = defaultdict(list)
        self._pending: list[Chunk] = []
        self.kept = 0

    def add(self, file: str, chunks: Sequence[Chunk]) -> list[Operation]:
        """What is already certain after this file."""
        operations: list[Operation] = []
        old: dict[str, list[OldChunk]] = defaultdict(list)
        for row in self._by_file.pop(file, ()):
            old[row.hash].append(row)
        new: dict[str, list[Chunk]] = defaultdict(list)
        for chunk in chunks:
            new[chunk.hash].append(chunk)
        for digest, its_chunks in new.items():
            rows = sorted(old.pop(digest, ()), key=_lines)
            its_chunks, rows = self._without_same(sorted(its_chunks, key=_lines), rows)
            paired = min(len(its_chunks), len(rows))
            operations += [_move(row, chunk) for row, chunk in zip(rows, its_chunks, strict=False)]
            if rows[paired:]:
                self._left[digest] += rows[paired:]
            for chunk in its_chunks[paired:]:
                if digest in self._ids:
                    self._pending.append(chunk)
                else:
                    operations.append(Create(chunk, None))
        for digest, rows in old.items():
            self._left[digest] += rows
        return operations

    def finish(self, *, complete: bool = True) -> list[Operation]:
        """The rest: what has moved between files, what has gone, what is there once more.

        The rows of files that were not added are deleted or moved as well, unless ``complete`` is False: then not all
        files were looked at, and these rows stay.
        """
        if complete:
            for rows in self._by_file.values():
                for row in rows:
                    self._left[row.hash].append(row)
        self._by_file.clear()
        left = {digest: sorted(rows, key=lambda row: (row.file, *_lines(row))) for digest, rows in self._left.items()}
        moves: list[Operation] = []
        creates: list[Operation] = []
        for chunk in sorted(self._pending, key=lambda chunk: (chunk.file, *_lines(chunk))):
            rows = left.get(chunk.hash, [])
            if rows:
                moves.append(_move(rows.pop(0), chunk))
            else:
                creates.append(Create(chunk, self._ids[chunk.hash]))
        deletes: list[Operation] = [Delete(row.id) for rows in left.values() for row in rows]
        self._left.clear()
        self._pending.clear()
        return [*deletes, *moves, *creates]

    def _without_same(self, chunks: list[Chunk], rows: list[OldChunk]) -> tuple[list[Chunk], list[OldChunk]]:
        """Those that are not at the same lines as before."""
        places: dict[tuple[int, int], list[OldChunk]] = defaultdict(list)
        for row in rows:
            places[_lines(row)].append(row)
        rest = []
        for chunk in chunks:
            at = places.get(_lines(chunk))
            if at:
                at.pop()
                self.kept += 1
            else:
                rest.append(chunk)
        return rest, [row for at in places.values() for row in at]


def _lines(part: Chunk | OldChunk) -> tuple[int, int]:
    return part.start_line, part.end_line


def _move(row: OldChunk, chunk: Chunk) -> Move:
    return Move(row.id, chunk.file, chunk.start_line, chunk.end_line)


def plan(old: Iterable[OldChunk], new: Iterable[Chunk], *, complete: bool = True) -> Plan:
    """Plan all at once. Files of ``old`` that are not in ``new`` are gone, unless ``complete`` is False."""
    planner = Planner(old)
    files: dict[str, list[Chunk]] = defaultdict(list)
    for chunk in new:
        files[chunk.file].append(chunk)
    operations = [operation for file, chunks in files.items() for operation in planner.add(file, chunks)]
    operations += planner.finish(complete=complete)
    return Plan(
        [one for one in operations if isinstance(one, Create)],
        [one for one in operations if isinstance(one, Move)],
        [one for one in operations if isinstance(one, Delete)],
        planner.kept,
    )


def batches(
    operations: Iterable[Operation], *, max_items: int = 500, max_bytes: int = 512 * 1024
) -> Iterator[list[Operation]]:
    """The operations in lists of bounded length and size, for one request each; an operation has 32 KiB at most."""
    batch: list[Operation] = []
    size = 0
    for operation in operations:
        its_size = _size(operation)
        if batch and (len(batch) >= max_items or size + its_size > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(operation)
        size += its_size
    if batch:
        yield batch


def _size(operation: Operation) -> int:
    if isinstance(operation, Delete):
        return _OPERATION_BYTES
    if isinstance(operation, Move):
        return _OPERATION_BYTES + len(operation.file.encode())
    chunk = operation.chunk
    texts = (chunk.file, chunk.content, *chunk.symbols)
    return 2 * _OPERATION_BYTES + sum(len(text.encode()) + 5 for text in texts)
