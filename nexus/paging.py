"""Lists in pages that delay nobody: read and encoded chunk by chunk, cut at a limit or at 1 MiB, with a cursor.

It knows records and positions, and no particular capability. A position is a tuple of the columns that the list is
ordered by; the cursor is the last one, bound to the filters.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec
from nexus_protocol import InvalidArgument, encode_record

from nexus.capability import PAGE_BYTES, encoded_list

__all__ = ["decode_cursor", "encode_cursor", "read_page"]

T = TypeVar("T")
PositionT = TypeVar("PositionT", bound=tuple[Any, ...])

_CHUNK = 100
"""Records read at a time: a millisecond or two of the event loop, then others have their turn."""


async def read_page(
    read: Callable[[PositionT | None, int], list[T]],
    position: Callable[[T], PositionT],
    fits: Callable[[T], bool],
    after: PositionT | None,
    limit: int,
) -> tuple[Any, PositionT | None]:
    """A list of encoded records, as a field of a record; and where the next page goes on, if more follow.

    ``read(after, count)`` gives at most ``count`` records behind a position, in order. What does not fit the filters
    is passed over here and not in SQL, where looking for the next one that fits could take as long as the whole table.
    """
    encoded: list[bytes] = []
    size = 0
    follows = True
    while follows:
        # One more than is looked at tells whether more follow.
        records = read(after, _CHUNK + 1)
        follows = len(records) > _CHUNK
        for record in records[:_CHUNK]:
            if fits(record):
                data = encode_record(record)
                if len(encoded) == limit or (encoded and size + len(data) > PAGE_BYTES):
                    return encoded_list(encoded), after
                encoded.append(data)
                size += len(data)
            after = position(record)
        if follows:
            await asyncio.sleep(0)
    return encoded_list(encoded), None


def encode_cursor(filters: tuple[Any, ...], position: tuple[Any, ...]) -> str:
    """The cursor for a position in a list with these filters."""
    return base64.urlsafe_b64encode(encode_record([filters, position])).decode().rstrip("=")


def decode_cursor(
    cursor: str, filters: tuple[Any, ...], position: Any, invalid: type[InvalidArgument], hint: str
) -> Any:
    """The position that a cursor for these filters holds; ``position`` is its type, a tuple.

    Raises:
        InvalidArgument: of the class ``invalid``: this is no such cursor; ``hint`` is for one with other filters.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        given, after = msgspec.msgpack.decode(raw, type=tuple[list[Any], position])
    except (binascii.Error, ValueError):
        raise invalid(
            "cannot go on with the list: this is not one of its cursors", details={"path": "cursor"}
        ) from None
    if tuple(given) != filters:
        raise invalid(
            "cannot go on with the list: the cursor belongs to other filters", hint=hint, details={"path": "cursor"}
        )
    return after
