"""Records as a daemon would send them, of which a test says only the fields that it is about."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeVar, get_type_hints

import msgspec
from nexus_protocol.codec import as_reply

R = TypeVar("R", bound=msgspec.Struct)


def record_of(kind: type[R], fields: dict[str, Any]) -> R:
    """A record with these plain values; required fields that are not among them are empty or 0.

    A field that is None is absent, and so is one that the record does not have.
    """
    given = {name: value for name, value in fields.items() if value is not None and name in kind.__struct_fields__}
    hints = get_type_hints(kind)
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in given:
            given[field.name] = _empty(hints[field.name])
    return as_reply(kind, given)


def _empty(hint: Any) -> Any:
    if isinstance(hint, type) and issubclass(hint, Enum):
        return next(iter(hint)).value
    return hint()
