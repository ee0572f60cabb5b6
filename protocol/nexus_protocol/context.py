"""The context of a request: what a client says about a request beside its fields.

This module knows the fields of a context and their limits. How a context is framed is in ``frame``, how it is decoded
with its command in ``codec``.
"""

from __future__ import annotations

import re
from typing import Annotated

import msgpack
import msgspec

from nexus_protocol.command import FrozenStruct
from nexus_protocol.errors import InvalidArgument
from nexus_protocol.frame import CONTEXT_BYTES

__all__ = [
    "CONTEXT_BYTES",
    "MAX_KEY",
    "MAX_WHY_BYTES",
    "NO_CONTEXT",
    "Key",
    "RequestContext",
    "Why",
    "check_key",
    "check_why",
    "encode_context",
]

MAX_KEY = 64
"""Characters of a key."""
MAX_WHY_BYTES = 500
"""Bytes of a why in UTF-8."""

_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)"
_KEY_RULE = f"1 to {MAX_KEY} characters, no control characters"
_WHY_RULE = f"text of 1 to {MAX_WHY_BYTES} bytes in UTF-8, no control characters"

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY, pattern=_PATTERN, description=_KEY_RULE)]

Why = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_WHY_BYTES, pattern=_PATTERN, description=_WHY_RULE)]
"""The declaration counts characters; after decoding, ``check_why`` counts the bytes."""


class RequestContext(
    msgspec.Struct, metaclass=FrozenStruct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """The context of a request. Decoding is strict: an unknown field is refused."""

    key: Key | None = None
    """Identifies the request, so that a repetition of it can be recognised."""
    why: Why | None = None
    """Why the request is made, for people."""


NO_CONTEXT = RequestContext()
"""The context of a request that has none."""

_matches = re.compile(_PATTERN).match


def check_key(key: str, field: str = "key") -> str:
    """Return the key if it is valid; ``field`` names it in the error.

    Raises:
        InvalidArgument: it is empty, longer than 64 characters, or has control characters.
    """
    if not (1 <= len(key) <= MAX_KEY and _matches(key) and _size_bytes(key) is not None):
        raise InvalidArgument(f"cannot accept {field}: expected {_KEY_RULE}", details={"path": field})
    return key


def check_why(why: str, field: str = "why") -> str:
    """Return the why if it is valid; ``field`` names it in the error.

    Raises:
        InvalidArgument: it is empty, longer than 500 bytes in UTF-8, or has control characters.
    """
    size = _size_bytes(why)
    if size is None or not 1 <= size <= MAX_WHY_BYTES or not _matches(why):
        raise InvalidArgument(f"cannot accept {field}: expected {_WHY_RULE}", details={"path": field})
    return why


def _size_bytes(text: str) -> int | None:
    """The size of a text in UTF-8; None if it has surrogates, which UTF-8 has not."""
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return None


def encode_context(*, key: str | None = None, why: str | None = None) -> bytes:
    """Encode a context as a client does, with the fields that are not None; no bytes if there are none.

    Raises:
        InvalidArgument: a field is not valid.
    """
    fields = {}
    if key is not None:
        fields["key"] = check_key(key)
    if why is not None:
        fields["why"] = check_why(why)
    return msgpack.packb(fields) if fields else b""
