"""The context of a request: what a client says about a request beside its fields.

This module knows the fields of a context and their limits. How a context is framed is in ``frame``, how it is decoded
with its command in ``codec``.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgpack
import msgspec

from nexus_protocol.command import FrozenStruct
from nexus_protocol.errors import InvalidArgument
from nexus_protocol.frame import CONTEXT_BYTES

__all__ = [
    "ALL_PROJECTS",
    "CONTEXT_BYTES",
    "Cause",
    "MAX_KEY",
    "MAX_WHY_BYTES",
    "NO_CONTEXT",
    "HeldLease",
    "Key",
    "ProjectReference",
    "ProjectRoot",
    "RequestContext",
    "Why",
    "check_cause",
    "check_key",
    "check_lease",
    "check_project",
    "check_why",
    "encode_context",
]

MAX_KEY = 64
"""Characters of a key."""
MAX_WHY_BYTES = 500
"""Bytes of a why in UTF-8."""
ALL_PROJECTS = "*"
"""In the place of a project: all of them. Only lists and WatchEvents take it."""

_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)"
_KEY_RULE = f"1 to {MAX_KEY} characters, no control characters"
_WHY_RULE = f"text of 1 to {MAX_WHY_BYTES} bytes in UTF-8, no control characters"

Key = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_KEY, pattern=_PATTERN, description=_KEY_RULE)]

Why = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_WHY_BYTES, pattern=_PATTERN, description=_WHY_RULE)]
"""The declaration counts characters; after decoding, ``check_why`` counts the bytes."""


_MAX_CAUSE = 2**63 - 1
_CAUSE_RULE = "the number of an operation, 1 or more"

Cause = Annotated[int, msgspec.Meta(ge=1, le=_MAX_CAUSE, description=_CAUSE_RULE)]

_MAX_EPOCH = 2**63 - 1
_UUID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$(?!\n)"
_LEASE_ID_RULE = "the id of a lease, a UUID in lower case"
_EPOCH_RULE = "the epoch of the lease, 1 or more"

_MAX_PROJECT = 64
_MAX_ROOT = 4096
_PROJECT_RULE = "the id or the name of a project, at most 64 characters, or *"
_ROOT_RULE = "an absolute path, at most 4096 characters"

ProjectReference = Annotated[
    str, msgspec.Meta(min_length=1, max_length=_MAX_PROJECT, pattern=_PATTERN, description=_PROJECT_RULE)
]


class HeldLease(msgspec.Struct, metaclass=FrozenStruct, forbid_unknown_fields=True):
    """A lease as its holder presents it: what it was given at the claim."""

    id: Annotated[str, msgspec.Meta(pattern=_UUID_PATTERN, description=_LEASE_ID_RULE)]
    """The id of the lease."""
    epoch: Annotated[int, msgspec.Meta(ge=1, le=_MAX_EPOCH, description=_EPOCH_RULE)]
    """Its number among the leases of what it holds, which only rises."""


class ProjectRoot(msgspec.Struct, metaclass=FrozenStruct, forbid_unknown_fields=True):
    """Names a project by the folder of its ``nexus.toml``."""

    root: Annotated[str, msgspec.Meta(max_length=_MAX_ROOT, pattern=r"^/[^\x00]*$(?!\n)", description=_ROOT_RULE)]
    """Absolute, with all links resolved."""


class RequestContext(
    msgspec.Struct, metaclass=FrozenStruct, forbid_unknown_fields=True, omit_defaults=True, kw_only=True
):
    """The context of a request. Decoding is strict: an unknown field is refused."""

    key: Key | None = None
    """Identifies the request, so that a repetition of it can be recognised."""
    why: Why | None = None
    """Why the request is made, for people."""
    project: ProjectReference | ProjectRoot | None = None
    """The project in whose names it speaks; without it, ``default``."""
    cause: Cause | None = None
    """The operation that the request is a part of, as BeginOperation gives it."""
    lease: HeldLease | None = None
    """The lease that the request is made under: one that is not live has every change refused."""


NO_CONTEXT = RequestContext()
"""The context of a request that has none."""

_matches = re.compile(_PATTERN).match
_is_uuid = re.compile(_UUID_PATTERN).match


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


def check_cause(cause: int, field: str = "cause") -> int:
    """Return the number of an operation if it is valid; ``field`` names it in the error.

    Raises:
        InvalidArgument: it is no whole number, or none that an operation has.
    """
    if type(cause) is not int or not 1 <= cause <= _MAX_CAUSE:
        raise InvalidArgument(f"cannot accept {field}: expected {_CAUSE_RULE}", details={"path": field})
    return cause


def check_lease(lease: HeldLease, field: str = "lease") -> HeldLease:
    """Return the lease that a client presents if it has a valid form; ``field`` names it in the error.

    Raises:
        InvalidArgument: the id is no UUID in lower case, or the epoch is no number from 1.
    """
    if not _is_uuid(lease.id):
        raise InvalidArgument(f"cannot accept {field}: expected {_LEASE_ID_RULE}", details={"path": f"{field}.id"})
    if type(lease.epoch) is not int or not 1 <= lease.epoch <= _MAX_EPOCH:
        raise InvalidArgument(f"cannot accept {field}: expected {_EPOCH_RULE}", details={"path": f"{field}.epoch"})
    return lease


def check_project(project: str, field: str = "project") -> str:
    """Return the id or name of a project, or ``*``, if it has a valid form; ``field`` names it in the error.

    Raises:
        InvalidArgument: it is empty, longer than 64 characters, or has control characters.
    """
    if not (1 <= len(project) <= _MAX_PROJECT and _matches(project) and _size_bytes(project) is not None):
        raise InvalidArgument(f"cannot accept {field}: expected {_PROJECT_RULE}", details={"path": field})
    return project


def _check_root(root: str) -> str:
    if not (1 <= len(root) <= _MAX_ROOT and root[0] == "/" and "\0" not in root and _size_bytes(root) is not None):
        raise InvalidArgument(f"cannot accept project: expected {_ROOT_RULE}, in UTF-8", details={"path": "project"})
    return root


def encode_context(
    *,
    key: str | None = None,
    why: str | None = None,
    project: str | ProjectRoot | None = None,
    cause: int | None = None,
    lease: HeldLease | None = None,
) -> bytes:
    """Encode a context as a client does, with the fields that are not None; no bytes if there are none.

    Raises:
        InvalidArgument: a field is not valid, or together they are larger than a context may be.
    """
    fields: dict[str, Any] = {}
    if key is not None:
        fields["key"] = check_key(key)
    if why is not None:
        fields["why"] = check_why(why)
    if isinstance(project, str):
        fields["project"] = check_project(project)
    elif project is not None:
        fields["project"] = {"root": _check_root(project.root)}
    if cause is not None:
        fields["cause"] = check_cause(cause)
    if lease is not None:
        fields["lease"] = {"id": check_lease(lease).id, "epoch": lease.epoch}
    encoded: bytes = msgpack.packb(fields) if fields else b""
    if len(encoded) > CONTEXT_BYTES:
        raise InvalidArgument(
            f"cannot send the context: it has {len(encoded)} bytes, the limit is {CONTEXT_BYTES}",
            details={"path": "context", "limit": CONTEXT_BYTES},
        )
    return encoded
