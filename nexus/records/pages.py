"""Paged lists: read and encoded in chunks that do not block the event loop, up to a limit or 1 MiB, with a cursor.

It knows records and positions, and no particular capability. A position is a tuple of the columns that the list is
sorted by; the cursor encodes the position of the last record and the filters.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from nexus_protocol import InvalidArgument, encode_record

from nexus.capability import PAGE_BYTES, encoded_list

__all__ = ["MAX_PASSED_OVER", "decode_cursor", "encode_cursor", "read_page"]

T = TypeVar("T")
PositionT = TypeVar("PositionT", bound=tuple[Any, ...])

_CHUNK = 100
"""Records read at a time: one or two milliseconds, after which the event loop runs other tasks."""
MAX_PASSED_OVER = 5000
"""Records that do not fit and that one page looks at. It then ends with a cursor, be it empty."""


async def read_page(
    read: Callable[[PositionT | None, int], Awaitable[list[T]]],
    position: Callable[[T], PositionT],
    fits: Callable[[T], bool] | None,
    after: PositionT | None,
    limit: int,
) -> tuple[Any, PositionT | None]:
    """Return a list of encoded records, for a field of a record, and the position of the next page if more follow.

    ``read(after, count)`` returns at most ``count`` records after a position, in order. What no index finds is filtered
    by ``fits`` here and not in SQL, where the search for the next match could read the whole table in one step; None
    filters nothing.
    """
    encoded: list[bytes] = []
    size = passed_over = 0
    follows = True
    last: T | None = None
    """The record after which the next page begins; None: at ``after``."""
    while follows and passed_over < MAX_PASSED_OVER:
        # One record more than is used shows whether more follow.
        records = await read(after, _CHUNK + 1)
        follows = len(records) > _CHUNK
        for record in records[:_CHUNK]:
            if fits is None or fits(record):
                data = encode_record(record)
                if len(encoded) == limit or (encoded and size + len(data) > PAGE_BYTES):
                    return encoded_list(encoded), after if last is None else position(last)
                encoded.append(data)
                size += len(data)
            else:
                passed_over += 1
            last = record
        if follows:
            assert last is not None
            after = position(last)
            last = None
            await asyncio.sleep(0)
    return encoded_list(encoded), after if follows else None


def encode_cursor(filters: tuple[Any, ...], position: tuple[Any, ...]) -> str:
    """Encode the cursor for a position in a list, which ``filters`` begin with."""
    return base64.urlsafe_b64encode(encode_record([filters, position])).decode().rstrip("=")


def decode_cursor(
    cursor: str, filters: tuple[Any, ...], position: Any, invalid: type[InvalidArgument], hint: str
) -> Any:
    """Decode a cursor and return its position; ``position`` is the type of the position, a tuple.

    Raises:
        InvalidArgument: the cursor is malformed, or belongs to another list or to other filters (then with ``hint``).
            The error is of class ``invalid``.
    """
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        given, after = msgspec.msgpack.decode(raw, type=tuple[list[Any], position])
        if not all(-(2**63) <= part < 2**63 for part in after if isinstance(part, int)):
            raise ValueError("a number that no column has")
    except (binascii.Error, ValueError):
        raise invalid("cannot continue the list: the cursor is invalid", details={"path": "cursor"}) from None
    if tuple(given) != filters:
        raise invalid(
            "cannot continue the list: the cursor belongs to another list, or to other filters",
            hint=hint,
            details={"path": "cursor"},
        )
    return after
