"""The declaration of a command, shared by daemon and clients: its code, fields, reply and errors.

A command is a class; its fields are those of the payload. The daemon decodes and validates with it, the clients use it
as the type of their calls, the command line derives options from it, and the documents are generated from it::

    @command(0x0100, Effect.CHANGE, errors=(VmNameTaken,))
    class CreateVm(Command[Vm]):
        '''Create a VM record.'''

        name: Annotated[str, Meta(min_length=1)]

This module knows no capability; it keeps the registry to which they add their commands when they are imported.
"""

from __future__ import annotations

import atexit
import functools
import gc
from collections.abc import Callable, Iterator, Sized
from contextvars import ContextVar
from enum import StrEnum
from typing import (
    Any,
    ClassVar,
    Generic,
    NamedTuple,
    TypeVar,
    dataclass_transform,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec

from nexus_protocol.errors import NexusError
from nexus_protocol.frame import DEFAULT_MAX_PAYLOAD, EXTRA, MAX_COMMAND, MAX_PAYLOAD

__all__ = [
    "SECRET",
    "UNRECORDED",
    "Command",
    "CommandInfo",
    "Effect",
    "Empty",
    "Record",
    "Repeat",
    "StreamCommand",
    "WireEnum",
    "command",
    "declared_commands",
    "hint_parts",
    "secret_fields",
    "tolerant",
    "unrecorded_fields",
]

SECRET = msgspec.Meta(extra={"secret": True}, extra_json_schema={"secret": True})
"""Marks a field whose value stays out of every ``repr``, log, error and event: ``Annotated[str, SECRET]``."""

UNRECORDED = msgspec.Meta(extra={"unrecorded": True})
"""Marks a field that people may see, and that may hold a secret nevertheless: its value stays out of the history.

Operations, images and kept replies are without it; see ``unrecorded_fields``.
"""

# msgspec may crash when the interpreter's last garbage collection destroys its types and their metadata, and a program
# that has done all its work would end by a signal. Frozen objects are not collected.
atexit.register(gc.freeze)

tolerant: ContextVar[bool] = ContextVar("tolerant", default=False)
"""Whether unknown values of an enumeration are accepted: only while a reply is decoded, never for a request."""


class WireEnum(StrEnum):
    """An enumerated value of a record. A newer daemon may send a value that this program does not know."""

    @classmethod
    def _missing_(cls, value: object) -> WireEnum | None:
        if not tolerant.get() or not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_, member._value_ = value.upper(), value
        return member


R = TypeVar("R")
ItemT = TypeVar("ItemT")
C = TypeVar("C", bound="type[Command[Any]]")


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class FrozenStruct(msgspec.StructMeta):
    """Metaclass that makes every command and record immutable, also for type checkers."""

    def __new__(mcls, name: str, bases: tuple[type, ...], namespace: dict[str, Any], **options: Any) -> Any:
        options.setdefault("frozen", True)
        return super().__new__(mcls, name, bases, namespace, **options)


def hint_parts(hint: Any) -> Iterator[Any]:
    """Iterate over a type hint, all its parts, and the metadata of ``Annotated``."""
    for part in getattr(hint, "__args__", ()):
        yield from hint_parts(part)
    yield hint
    yield from getattr(hint, "__metadata__", ())


def secret_fields(type_: type[msgspec.Struct]) -> frozenset[str]:
    """Return the fields of a command or a record that are marked as secret, entirely or in a part."""
    return _marked_fields(type_, "secret")


def unrecorded_fields(type_: type[msgspec.Struct]) -> frozenset[str]:
    """Return the fields whose values stay out of the history: those marked as secret, and those as unrecorded."""
    return _marked_fields(type_, "secret") | _marked_fields(type_, "unrecorded")


@functools.cache
def _marked_fields(type_: type[msgspec.Struct], mark: str) -> frozenset[str]:
    return frozenset(name for name, marks in _marks(type_) if mark in marks)


@functools.cache
def _marks(type_: type[msgspec.Struct]) -> list[tuple[str, set[str]]]:
    """The marks of each field that has any. Those of all kinds are found at once: evaluating the types takes long."""
    hints = get_type_hints(type_, include_extras=True)
    found = []
    for name in type_.__struct_fields__:
        extras = (part.extra for part in hint_parts(hints[name]) if isinstance(part, msgspec.Meta) and part.extra)
        if marks := {mark for extra in extras for mark, value in extra.items() if value}:
            found.append((name, marks))
    return found


def _masked_repr(struct: msgspec.Struct) -> str:
    """The usual ``repr``, but with the number of elements at most for a secret field."""
    shown = []
    for name in struct.__struct_fields__:
        value = getattr(struct, name)
        if value is None or name not in secret_fields(type(struct)):
            shown.append(f"{name}={value!r}")
        elif isinstance(value, Sized) and not isinstance(value, (str, bytes)):
            shown.append(f"{name}=<{len(value)} hidden>")
        else:
            shown.append(f"{name}=<hidden>")
    return f"{type(struct).__name__}({', '.join(shown)})"


class Record(msgspec.Struct, metaclass=FrozenStruct, omit_defaults=True):
    """The result of a command, or a part of it. Decoding is tolerant: unknown fields of a newer daemon are ignored."""

    __repr__ = _masked_repr


class Empty(Record):
    """The result of a command that returns no data."""


class Effect(WireEnum):
    """What a command does to the daemon's world."""

    READ = "read"
    """It changes nothing."""
    CHANGE = "change"
    """It changes records alone, in one transaction, so that it can be a part of a ``Batch``."""
    ACT = "act"
    """It starts or ends processes, touches files or repositories, or waits for something."""


class Repeat(WireEnum):
    """What a request of the effect ``act`` does that repeats the key of one whose outcome is not known."""

    AGAIN = "again"
    """It is carried out again, because that converges: a start of what is up changes nothing."""
    REFUSE = "refuse"
    """It is refused, because doing it twice is not the same as doing it once."""


class CommandInfo(NamedTuple):
    """The declaration of a command, without its fields."""

    code: int
    name: str
    effect: Effect
    request: type[Command[Any]]
    reply: type[Any]
    item: type[Any] | None
    """The type of a stream's items; None for a command that is not a stream."""
    errors: tuple[type[NexusError], ...]
    max_payload: int
    """The largest payload of a request in bytes."""
    takes_input: bool
    """Whether the client may send Input frames while the stream is open."""
    large_reply: bool
    """Whether the daemon produces the reply only when the client's send buffer has space for it."""
    repeat: Repeat | None = None
    """Of the effect ``act``: what a repetition does after a restart of the daemon. None for other effects."""
    all_projects: bool = False
    """Whether the project of its context may be ``*``."""
    in_project: bool = True
    """Whether what it does depends on the project of its context."""

    @property
    def summary(self) -> str:
        """The first sentence of the command's documentation."""
        return (self.request.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


class Command(msgspec.Struct, Generic[R], metaclass=FrozenStruct, forbid_unknown_fields=True, omit_defaults=True):
    """A request with one reply of type ``R``. Decoding is strict: an unknown field is refused."""

    info: ClassVar[CommandInfo]

    __repr__ = _masked_repr


class StreamCommand(Command[R], Generic[ItemT, R]):
    """A request that is answered by items of type ``ItemT`` and finally by ``R``."""


_COMMANDS: dict[int, CommandInfo] = {}


def command(
    code: int,
    effect: Effect,
    *,
    errors: tuple[type[NexusError], ...] = (),
    max_payload: int = DEFAULT_MAX_PAYLOAD,
    takes_input: bool = False,
    large_reply: bool = False,
    repeat: Repeat | None = None,
    all_projects: bool = False,
    in_project: bool = True,
) -> Callable[[C], C]:
    """Declare a command: register it under its ``code``, which never changes.

    ``errors`` are the domain errors that it can return, ``max_payload`` the largest payload of a request in bytes.
    ``repeat`` is for the effect ``act``, which must have it. ``all_projects`` is for lists of what projects have; what
    is not ``in_project`` is the same in every project.

    Raises:
        ValueError: the code is out of range or taken by another command, the limit is out of range, a stream is
            declared as a change, or ``repeat`` does not fit the effect.
    """
    if not (0 < code <= MAX_COMMAND or code == EXTRA):
        raise ValueError(f"0x{code:04X} is not a command code")
    if not 0 <= max_payload <= MAX_PAYLOAD:
        raise ValueError(f"a payload limit of {max_payload} is not between 0 and {MAX_PAYLOAD}")
    if (effect is Effect.ACT) != (repeat is not None):
        raise ValueError(f"code {code}: repeat is declared for the effect act, and for no other")

    def declare(cls: C) -> C:
        reply, item = _result_types(cls)
        if effect is Effect.CHANGE and item is not None:
            raise ValueError(f"{cls.__name__} is a stream and cannot be a change")
        known = _COMMANDS.get(code)
        if known is not None and known.name != cls.__name__:
            raise ValueError(f"code {code} belongs to {known.name}, {cls.__name__} cannot have it too")
        cls.info = CommandInfo(
            code,
            cls.__name__,
            effect,
            cls,
            reply,
            item,
            errors,
            max_payload,
            takes_input,
            large_reply,
            repeat,
            all_projects,
            in_project,
        )
        _COMMANDS[code] = cls.info
        return cls

    return declare


def declared_commands() -> list[CommandInfo]:
    """Return every command declared so far, sorted by code."""
    return [_COMMANDS[code] for code in sorted(_COMMANDS)]


def _result_types(cls: type[Command[Any]]) -> tuple[type[Any], type[Any] | None]:
    for base in getattr(cls, "__orig_bases__", ()):
        args = get_args(base)
        if get_origin(base) is StreamCommand:
            return args[1], args[0]
        if get_origin(base) is Command:
            return args[0], None
    raise TypeError(f"{cls.__name__} must derive from Command[R] or StreamCommand[Item, R]")
