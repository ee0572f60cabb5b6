"""Encoding of records and commands as MessagePack: strict for requests, tolerant for replies.

The daemon decodes untrusted bytes with msgspec's typed decoders, in one pass, so that a hostile payload never becomes
Python objects. The clients trust their daemon and use the msgpack package, so that every exchange tests two independent
implementations of the format against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, TypeVar, get_type_hints

import msgpack
import msgspec

from nexus_protocol.command import Command, CommandInfo, Empty, hint_parts, tolerant
from nexus_protocol.errors import BadFrame, InvalidArgument

__all__ = [
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "as_reply",
    "command_decoder",
    "decode_map",
    "decode_reply",
    "encode_command",
    "encode_record",
]

MAX_DEPTH = 32
"""The greatest nesting depth of a free-form value."""
MAX_ELEMENTS = 1000
"""The greatest number of values in a free-form value: each may be one byte on the wire and far more as an object."""

T = TypeVar("T")

_EMPTY_MAP = b"\x80"

_encode_record = msgspec.msgpack.Encoder().encode


def encode_record(record: Any) -> bytes:
    """Encode a record as MessagePack. Optional fields that are not set are left out.

    Text that is not valid UTF-8, such as a file name, is encoded with question marks, so that the reply can be sent.
    """
    try:
        return _encode_record(record)
    except UnicodeEncodeError:
        plain = msgspec.to_builtins(record, builtin_types=(bytes,))
        data: bytes = msgpack.packb(plain, unicode_errors="replace")
        return data


def command_decoder(info: CommandInfo) -> Callable[[bytes], Command[Any]]:
    """Make a strict decoder for the payload of one command.

    The decoder takes the payload's bytes, returns the command, and raises ``InvalidArgument`` with ``details.path``
    for any mismatch.
    """
    decode = msgspec.msgpack.Decoder(info.request).decode
    hints = get_type_hints(info.request, include_extras=True)
    free = [name for name, hint in hints.items() if _is_free_form(hint)]

    def decode_command(payload: bytes) -> Command[Any]:
        try:
            decoded: Command[Any] = decode(payload or _EMPTY_MAP)
            for name in free:
                _check_value(getattr(decoded, name), name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise _invalid(info.name, error, hints) from None
        return decoded

    return decode_command


def _is_free_form(hint: Any) -> bool:
    return any(part is Any for part in hint_parts(hint))


def _check_value(value: Any, field: str) -> None:
    # An error names the field only: tracking the path of every element would cost more than decoding it.
    def refuse(problem: str) -> InvalidArgument:
        return InvalidArgument(f"cannot accept {field}: {problem}", details={"path": field})

    elements = 0
    pending = [(value, 0)]
    while pending:
        value, depth = pending.pop()
        elements += 1
        if depth > MAX_DEPTH:
            raise refuse(f"nested deeper than {MAX_DEPTH} levels")
        if elements > MAX_ELEMENTS:
            raise refuse(f"more than {MAX_ELEMENTS} elements")
        if isinstance(value, dict):
            if not all(isinstance(key, str) for key in value):
                raise refuse("expected str keys")
            pending += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list):
            pending += [(inner, depth + 1) for inner in value]
        elif not isinstance(value, (str, int, float, bytes, bool, type(None))):
            raise refuse("extension types are not part of the protocol")


def _invalid(name: str, error: Exception, hints: dict[str, Any]) -> InvalidArgument:
    if isinstance(error, UnicodeDecodeError):
        return InvalidArgument(f"cannot read the payload of {name}: text that is not UTF-8", details={"path": ""})
    if isinstance(error, RecursionError):
        return InvalidArgument(f"cannot read the payload of {name}: nested too deeply", details={"path": ""})
    # msgspec reports the path and the kind of mismatch only in the text of its error.
    text, _, where = str(error).partition(" - at ")
    path = ""
    if "`$." in where:
        path = where.split("`$.", 1)[1].rstrip("`")
    elif "field `" in text:
        path = text.split("field `", 1)[1].rstrip("`")
    text = _REWORDED.get(text) or _expected_value(text, hints.get(path)) or text
    text = text[:1].lower() + text[1:]
    if path and f"`{path}`" not in text:
        return InvalidArgument(f"cannot accept {path}: {text.replace('`', '')}", details={"path": path})
    return InvalidArgument(f"cannot read the payload of {name}: {text.replace('`', '')}", details={"path": path})


def _expected_value(text: str, hint: Any) -> str | None:
    """Describe the expected value of a field, instead of msgspec's regular expression or the wrong value alone."""
    if text.startswith(("Expected `str` matching regex", "Expected `str` of length ")):
        metas = [meta for meta in hint_parts(hint) if isinstance(meta, msgspec.Meta) and meta.pattern]
        if metas and metas[0].description:
            return f"expected {metas[0].description}"
        relation, _, length = text.removeprefix("Expected `str` of length ").partition(" ")
        bound = {"<=": "at most", ">=": "at least"}.get(relation)
        return f"expected {bound} {length} character{'s' * (length != '1')}" if bound else None
    if text.startswith("Invalid enum value "):
        enums = [cls for cls in hint_parts(hint) if isinstance(cls, type) and issubclass(cls, Enum)]
        if enums:
            known = ", ".join(str(member.value) for member in enums[0])
            return f"expected one of {known}, got {text.removeprefix('Invalid enum value ')}"
    return None


_REWORDED = {
    "Object contains unknown field": "unknown field",
    "Expected `object`, got `array`": "expected a map, got an array",
    "Input data was truncated": "the MessagePack data ends too early",
}


def encode_command(command: Command[Any]) -> bytes:
    """Encode a command as MessagePack, with the clients' implementation. Fields at their defaults are left out.

    Raises:
        InvalidArgument: a value cannot be encoded.
    """
    try:
        body = msgspec.to_builtins(command, builtin_types=(bytes,))
        return msgpack.packb(body) if body else b""
    except TypeError:  # it has parts that are already encoded
        return _encode_record(command)
    except UnicodeEncodeError:
        raise InvalidArgument(f"cannot send {type(command).__name__}: text that is not UTF-8") from None
    except (OverflowError, RecursionError, ValueError):
        raise InvalidArgument(
            f"cannot send {type(command).__name__}: whole numbers have 64 bits at most, and nothing is nested deeper "
            f"than {MAX_DEPTH} levels"
        ) from None


def decode_map(payload: bytes) -> dict[str, Any]:
    """Decode the map of a frame's payload to plain values; an empty payload is the empty map.

    Raises:
        BadFrame: the payload is not a MessagePack map: the peer has broken the protocol.
    """
    if not payload:
        return {}
    try:
        body = msgpack.unpackb(payload)
    except ValueError as error:
        raise BadFrame(f"cannot read a reply: {error}") from None
    if not isinstance(body, dict):
        raise BadFrame("cannot read a reply: it is not a map")
    return body


def decode_reply(type_: type[T], payload: bytes) -> T:
    """Decode the record of a reply. Unknown fields are ignored, unknown enumerated values are kept.

    Raises:
        BadFrame: the payload is not such a record.
    """
    return as_reply(type_, decode_map(payload))


def as_reply(type_: type[T], body: dict[str, Any]) -> T:
    """Make the record of a reply from plain values, as ``decode_reply`` does.

    Raises:
        BadFrame: the values are not such a record.
    """
    if type_ is Empty:
        return Empty()  # type: ignore[return-value]
    try:
        return msgspec.convert(body, type_)
    except msgspec.ValidationError:
        return _decode_newer_reply(type_, body)


def _decode_newer_reply(type_: type[T], body: dict[str, Any]) -> T:
    token = tolerant.set(True)
    try:
        return msgspec.convert(body, type_)
    except msgspec.ValidationError as error:
        raise BadFrame(
            f"cannot understand the daemon's reply: {error}",
            hint="The daemon may have another version than this client: nexusctl daemon status",
        ) from None
    finally:
        tolerant.reset(token)
