"""The types of fields that record types share. A contract adds what differs with a further ``Meta``."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import msgspec
from msgspec import Meta
from nexus_protocol.command import field_types, hint_parts

__all__ = [
    "NEXT_START",
    "NAME_PATTERN",
    "UUID_PATTERN",
    "ClientId",
    "Cursor",
    "METADATA_BYTES",
    "METADATA_DEPTH",
    "ManagedBy",
    "Match",
    "Metadata",
    "Name",
    "PageLimit",
    "QUERY_CHARACTERS",
    "Reference",
    "Revision",
    "StateRevision",
    "Tag",
    "Tags",
    "clearable_fields",
    "fields_of_next_start",
    "key",
    "keys_of",
    "metadata_fields",
]

# "$" also matches before a final newline, hence the lookahead.
UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"
NAME_PATTERN = (
    r"^(?![0-9A-Fa-f]{8}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{12}$)"
    r"[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
)

Name = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=NAME_PATTERN,
        description="1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, and not in the form of a UUID",
    ),
]
"""A name that is unique among the records of its kind in a project. It is for people; the identity is the id."""

Reference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="the id, else the name, else a unique prefix of the id of 4 or more characters; PROJECT/NAME is "
        "the name in another project",
        extra={"metavar": "NAME"},
    ),
]
"""Names one record. A contract adds ``Meta(extra={"completes": KIND})``."""

ClientId = Annotated[
    str,
    Meta(
        pattern=UUID_PATTERN,
        description="a UUID chosen by the client, in lower case, which makes the request safe to repeat",
    ),
]

ManagedBy = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=4096,
        pattern=r"^[^\x00]*$",
        description="the file that apply makes it from, as a path from the root of its project",
        extra={"option": None},
    ),
]
"""Whose file a record is from: apply removes only records that its own file made."""

QUERY_CHARACTERS = 1000
"""The longest query."""
Match = Annotated[
    str,
    Meta(
        min_length=1,
        description="only those that a search finds: words, phrases in quotes, word*, -not, OR",
        extra={"metavar": "QUERY"},
    ),
]
"""A query without filters. ``records.matching`` reads it."""

PageLimit = Annotated[int, Meta(ge=1, le=10_000, description="records in a page, 1 to 10000")]
Cursor = Annotated[str, Meta(max_length=512, description="next_cursor of the previous page")]

Revision = Annotated[
    int, Meta(ge=1, le=2**63 - 1, description="refuse the change if the record's revision is another one")
]
StateRevision = Annotated[
    int, Meta(ge=0, le=2**63 - 1, description="refuse the command if the record's state_revision is another one")
]

METADATA_BYTES = 16 * 1024
METADATA_DEPTH = 8
Metadata = Annotated[
    dict[str, Any],
    Meta(description="free-form values, 16 KiB at most, nested 8 deep at most", extra={"metadata": True}),
]
"""A map that comes back as it went in. ``records.handlers`` holds its bounds."""

Tag = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$(?!\n)",
        description="1 to 64 of A-Z a-z 0-9 . _ : / -, the first a letter or digit",
    ),
]
Tags = Annotated[
    list[Tag], Meta(max_length=64, description="tags to find it by", extra={"option": "--tag", "metavar": "TAG"})
]

NEXT_START = Meta(extra={"takes_effect": "next start"})
"""Marks a field whose change takes effect at the next start of what the record stands for."""


def key(path: str) -> Meta:
    """Marks a field with its key in ``nexus.toml``, such as ``stop.grace`` for ``grace`` in the table ``stop``."""
    return Meta(extra={"key": path})


@functools.cache
def keys_of(command: type[Any]) -> dict[str, tuple[str, ...]]:
    """The fields of a Create command that have a key in ``nexus.toml``, with the path of the key."""
    hints = field_types(command)
    return {
        name: tuple(part.extra["key"].split("."))
        for name in command.__struct_fields__
        for part in hint_parts(hints[name])
        if isinstance(part, Meta) and part.extra and "key" in part.extra
    }


@functools.cache
def metadata_fields(command: type[Any]) -> tuple[str, ...]:
    """The fields of a command that are ``Metadata``."""
    hints = field_types(command)
    return tuple(
        name
        for name in command.__struct_fields__
        if any(isinstance(part, Meta) and part.extra and part.extra.get("metadata") for part in hint_parts(hints[name]))
    )


@functools.cache
def fields_of_next_start(command: type[Any]) -> frozenset[str]:
    """The fields of a Create or Update command that are marked with ``NEXT_START``."""
    hints = field_types(command)
    return frozenset(
        name for name in command.__struct_fields__ if any(part is NEXT_START for part in hint_parts(hints[name]))
    )


@functools.cache
def clearable_fields(create: type[Any]) -> tuple[str, ...]:
    """The fields of a Create command that may be left out without a default: an Update can unset them."""
    return tuple(field.name for field in msgspec.structs.fields(create) if field.default is None and field.name != "id")
