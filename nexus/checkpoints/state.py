"""How the rows of a checkpoint are kept: frames of MessagePack, compressed.

A state is one or more zlib streams, one after the other. Each has frames: a length in 4 bytes, big-endian, and that
many bytes of MessagePack. The first frame of a stream is ``["nexus", 1, position]``, with the number of the last event
that the rows tell; the last is ``["end", frames]``, with how many there are. In between, ``[kind, columns, rows]`` has
rows, and ``[kind, nil, ids]`` has ids of rows that are gone. What a later stream says of a row holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import msgspec

from nexus.records.checkpointed import ABSENT, Part, Rowset

__all__ = ["State", "StateDamaged", "decode", "encode", "position_of"]

_VERSION = 1
_MAGIC, _END = "nexus", "end"
_ROWS = 200
"""In a frame: its encoding holds the interpreter for less than a millisecond."""
_HEAD_BYTES = 256
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class StateDamaged(Exception):
    """The bytes are no state, or not all of one; the text says why."""


class State(NamedTuple):
    """The rows of a checkpoint, by kind."""

    position: int
    """The number of the last event that the rows of the first stream tell."""
    rows: dict[str, Rowset]


def encode(
    position: int, rows: Mapping[str, tuple[Sequence[str], Iterable[Sequence[Any]]]], gone: Mapping[str, list[str]]
) -> bytes:
    """Make a stream of rows, by kind their columns and values, and of ids that are gone."""
    compressor = zlib.compressobj(6)
    made: list[bytes] = []
    count = 0

    def add(frame: list[Any]) -> None:
        nonlocal count
        count += 1
        data = _encode(frame)
        made.append(compressor.compress(len(data).to_bytes(4, "big") + data))

    add([_MAGIC, _VERSION, position])
    for kind, (columns, every) in rows.items():
        some: list[Sequence[Any]] = []
        for row in every:
            some.append(row)
            if len(some) == _ROWS:
                add([kind, columns, some])
                some = []
        if some:
            add([kind, columns, some])
    for kind, ids in gone.items():
        add([kind, None, ids])
    add([_END, count])
    return b"".join([*made, compressor.flush()])


def decode(data: bytes, parts: Sequence[Part]) -> State:
    """Read a state, with the rows as the parts have their columns at present; kinds that are no part are left out.

    Raises:
        StateDamaged: it is damaged, or of a newer version.
    """
    position: int | None = None
    known = {part.kind: Rowset(part.columns, {}) for part in parts}
    try:
        for stream in _streams(data):
            frames = list(_frames(stream))
            if len(frames) < 2 or frames[0][0] != _MAGIC or frames[-1] != [_END, len(frames) - 1]:
                raise StateDamaged("a part of it is missing")
            if frames[0][1] != _VERSION:
                raise StateDamaged(f"it has the format {frames[0][1]}, which a newer version wrote")
            position = frames[0][2] if position is None else position
            for kind, columns, values in frames[1:-1]:
                if kind in known:
                    _take(known[kind], columns, values)
    except (zlib.error, msgspec.DecodeError, ValueError, TypeError, LookupError) as error:
        raise StateDamaged(f"it cannot be read ({error})") from None
    if position is None:
        raise StateDamaged("it is empty")
    return State(position, known)


def _take(known: Rowset, columns: list[str] | None, values: list[Any]) -> None:
    if columns is None:
        for id_ in values:
            known.rows.pop(id_, None)
        return
    if tuple(columns) == known.columns:
        place = known.places["id"]
        known.rows.update((row[place], tuple(row)) for row in values)
        return
    given = {column: place for place, column in enumerate(columns)}
    for row in values:
        id_ = row[given["id"]]
        known.rows[id_] = tuple(row[given[c]] if c in given else ABSENT for c in known.columns)


def _streams(data: bytes) -> Iterator[bytes]:
    while data:
        decompressor = zlib.decompressobj()
        found = decompressor.decompress(data)
        if not decompressor.eof:
            raise StateDamaged("its end is missing")
        yield found
        data = decompressor.unused_data


def _frames(stream: bytes) -> Iterator[list[Any]]:
    at = 0
    while at < len(stream):
        size = int.from_bytes(stream[at : at + 4], "big")
        frame = stream[at + 4 : at + 4 + size]
        if len(frame) != size:
            raise StateDamaged("a part of it is missing")
        yield _decode(frame)
        at += 4 + size


def position_of(head: bytes) -> int | None:
    """The position in the first bytes of a state; None where they are damaged."""
    try:
        stream = zlib.decompressobj().decompress(head, _HEAD_BYTES)
        magic, version, position = _decode(stream[4 : 4 + int.from_bytes(stream[:4], "big")])
    except (zlib.error, msgspec.DecodeError, ValueError, TypeError):
        return None
    return position if (magic, version) == (_MAGIC, _VERSION) and isinstance(position, int) else None
