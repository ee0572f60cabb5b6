"""Encoding of records and commands as MessagePack: strict for requests, tolerant for replies.

The daemon decodes untrusted bytes with msgspec's typed decoders, in one pass, so that a hostile payload never becomes
Python objects. The clients trust their daemon and use the msgpack package, so that every exchange tests two independent
implementations of the format against each other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints

import msgpack
import msgspec

from nexus_protocol.command import Command, CommandInfo, Empty, hint_parts, tolerant
from nexus_protocol.errors import BadFrame, InvalidArgument
from nexus_protocol.frame import CONTEXT_BYTES

if TYPE_CHECKING:
    from nexus_protocol.context import RequestContext

__all__ = [
    "MAX_DEPTH",
    "MAX_ELEMENTS",
    "as_reply",
    "command_decoder",
    "context_decoder",
    "decode_map",
    "decode_reply",
    "encode_command",
    "encode_record",
    "expected_value",
]

MAX_DEPTH = 32
"""The greatest nesting depth of a free-form value."""
MAX_ELEMENTS = 1000
"""The greatest number of values in a free-form value: each may be one byte on the wire and far more as an object."""

T = TypeVar("T")

_EMPTY_MAP = b"\x80"
_ARRAY_OF_2 = b"\x92"
_MAX_UTF8 = 4
"""Bytes of a character in UTF-8, at most."""

_encode_record = msgspec.msgpack.Encoder().encode
_split = msgspec.msgpack.Decoder(tuple[msgspec.Raw, msgspec.Raw]).decode


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
    for any mismatch. What it needs of the command's types it derives at its first call: a daemon has some 200 commands,
    and carries out few of them soon after its start. Only one thread may call the decoders.
    """
    made: _Made | None = None

    def decode_command(payload: bytes) -> Command[Any]:
        nonlocal made
        if made is None:
            made = _Made(msgspec.msgpack.Decoder(info.request).decode, *_hints(info))
        try:
            decoded: Command[Any] = made.decode(payload or _EMPTY_MAP)
            for name in made.free:
                _check_value(getattr(decoded, name), name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise _invalid(info.name, error, made.hints) from None
        return decoded

    return decode_command


class _Made(NamedTuple):
    """What a decoder derives from the types of a command."""

    decode: Callable[[bytes], Any]
    hints: dict[str, Any]
    free: list[str]


def context_decoder(info: CommandInfo) -> Callable[[bytes, int], tuple[RequestContext, Command[Any]]]:
    """Make a strict decoder for the payload of one command that begins with a context.

    The decoder takes the payload's bytes and the limit of the body in bytes, returns the context and the command, and
    raises ``InvalidArgument`` with ``details.path`` for any mismatch: that of a field of the context begins with
    ``context.``, and ``context`` is the context itself.
    """
    # Imported here: most runs of nexusctl need no context, and each import costs start-up.
    from nexus_protocol.context import MAX_WHY_BYTES, HeldLease, ProjectRoot, RequestContext, check_why

    # One pass over both maps, as the elements of an array: two separate decodings would cost time and memory.
    decode = msgspec.msgpack.Decoder(tuple[RequestContext, info.request]).decode  # type: ignore[name-defined]
    hints, free = _hints(info)
    of_context = get_type_hints(RequestContext, include_extras=True)
    all_hints = hints | {f"context.{name}": hint for name, hint in of_context.items()}
    of_root = get_type_hints(ProjectRoot, include_extras=True)
    all_hints |= {f"context.project.{name}": hint for name, hint in of_root.items()}
    of_lease = get_type_hints(HeldLease, include_extras=True)
    all_hints |= {f"context.lease.{name}": hint for name, hint in of_lease.items()}

    def decode_both(payload: bytes, limit: int) -> tuple[RequestContext, Command[Any]]:
        try:
            data = _ARRAY_OF_2 + payload
            if len(payload) > CONTEXT_BYTES or len(payload) > limit:
                _check_sizes(info.name, data, limit)
            both: tuple[RequestContext, Command[Any]] = decode(data)
            context, command = both
            why = context.why
            if why is not None and len(why) * _MAX_UTF8 > MAX_WHY_BYTES:
                check_why(why, "context.why")
            for name in free:
                _check_value(getattr(command, name), name)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError) as error:
            raise _invalid(info.name, error, all_hints, offset=len(_ARRAY_OF_2)) from None
        return both

    return decode_both


def _check_sizes(name: str, data: bytes, limit: int) -> None:
    """Check the exact sizes of a context and a body; ``data`` has both in an array."""
    context, body = (len(memoryview(one)) for one in _split(data))
    if context > CONTEXT_BYTES:
        raise InvalidArgument(
            f"cannot accept context: it has {context} bytes, the limit is {CONTEXT_BYTES}",
            details={"path": "context", "limit": CONTEXT_BYTES},
        )
    if body > limit:
        raise InvalidArgument(
            f"cannot read the payload of {name}: its body has {body} bytes, the limit is {limit}",
            details={"path": "", "limit": limit},
        )


def _hints(info: CommandInfo) -> tuple[dict[str, Any], list[str]]:
    """The type hints of a command's fields, and the names of those that are free-form."""
    hints = get_type_hints(info.request, include_extras=True)
    return hints, [name for name, hint in hints.items() if _is_free_form(hint)]


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


def _invalid(name: str, error: Exception, hints: dict[str, Any], *, offset: int = 0) -> InvalidArgument:
    """The error for a mismatch; ``offset`` bytes that were decoded before the payload are not part of it."""
    if isinstance(error, UnicodeDecodeError):
        return InvalidArgument(f"cannot read the payload of {name}: text that is not UTF-8", details={"path": ""})
    if isinstance(error, RecursionError):
        return InvalidArgument(f"cannot read the payload of {name}: nested too deeply", details={"path": ""})
    # msgspec reports the path and the kind of mismatch only in the text of its error. Paths of a request with a context
    # begin with an index: 0 is the context, 1 the body.
    text, _, where = str(error).partition(" - at ")
    where = where.replace("`$[0]", "`$.context").replace("`$[1]", "`$")
    path = where.split("`$.", 1)[1].rstrip("`") if "`$." in where else ""
    kind, of_field, field = text.partition(" field `")
    if of_field:
        text = f"{kind} field" if path else text
        path = f"{path}.{field.rstrip('`')}" if path else field.rstrip("`")
    text = _REWORDED.get(text) or expected_value(text, hints.get(path.partition("[")[0])) or text
    if text.startswith("MessagePack"):
        what, of_byte, at = text.rstrip(")").partition(" (byte ")
        text = f"the {what} (byte {int(at) - offset})" if of_byte else f"the {text}"
    text = text[:1].lower() + text[1:]
    if path and f"`{path}`" not in text:
        return InvalidArgument(f"cannot accept {path}: {text.replace('`', '')}", details={"path": path})
    return InvalidArgument(f"cannot read the payload of {name}: {text.replace('`', '')}", details={"path": path})


def expected_value(text: str, hint: Any) -> str | None:
    """Describe the expected value of a field, instead of msgspec's regular expression or the wrong value alone.

    ``text`` is msgspec's, without the path; None where it says enough itself.
    """
    if text.startswith(("Expected `str` matching regex", "Expected `str` of length ")):
        metas = [meta for meta in hint_parts(hint) if isinstance(meta, msgspec.Meta) and meta.pattern]
        metas = [meta for meta in metas if repr(meta.pattern)[1:-1] in text] or metas
        described = metas[0].description if metas else None
        # Of most lines of text the description says what they are for, and not what they look like.
        if described and (metas[0].pattern != _ONE_LINE or described[0].isdigit()):
            return f"expected {described}"
        if metas and metas[0].pattern == _ONE_LINE and "matching regex" in text:
            return "expected one line of text, without control characters"
        relation, _, length = text.removeprefix("Expected `str` of length ").partition(" ")
        bound = {"<=": "at most", ">=": "at least"}.get(relation)
        return f"expected {bound} {length} character{'s' * (length != '1')}" if bound else None
    if text.startswith("Invalid enum value "):
        enums = [cls for cls in hint_parts(hint) if isinstance(cls, type) and issubclass(cls, Enum)]
        if enums:
            known = ", ".join(str(member.value) for member in enums[0])
            return f"expected one of {known}, got {text.removeprefix('Invalid enum value ')}"
    return None


_ONE_LINE = r"^[^\x00-\x1f\x7f]*$(?!\n)"
_REWORDED = {
    "Object contains unknown field": "unknown field",
    "Object missing required field": "missing required field",
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


_converted: set[type[Any]] = set()
_first_conversion = threading.Lock()
"""Held while a type is converted to for the first time: msgspec 0.22 looks at its fields then, and two threads that do
so at once end the process."""


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
        if type_ in _converted:
            return msgspec.convert(body, type_)
        with _first_conversion:
            try:
                return msgspec.convert(body, type_)
            finally:
                _converted.add(type_)
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
