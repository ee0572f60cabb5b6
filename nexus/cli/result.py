"""``Result``: what a verb prints. People get the record, whose fields are typed; programs the map that was received."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from nexus_protocol.command import Command

__all__ = ["Result", "made", "received"]

R = TypeVar("R")
P = TypeVar("P")


class Result(Generic[R]):
    """A reply, a part of one, or what a verb has made of one.

    The record is decoded when it is first read: a program's output has all that the daemon sent and nothing else, also
    where a daemon of another version sends no such record.
    """

    __slots__ = ("_read", "_record", "plain")

    def __init__(self, plain: dict[str, Any], read: Callable[[], R]) -> None:
        self.plain = plain
        """Plain values, for programs."""
        self._read = read
        self._record: R | None = None

    @property
    def record(self) -> R:
        """The record. Unknown fields are ignored, unknown enumerated values are kept.

        Raises:
            BadFrame: the daemon sent no such record.
        """
        record = self._record
        if record is None:
            record = self._record = self._read()
        return record

    def part(self, field: P | None) -> Result[P]:
        """A part that is there; ``field`` is a field of the record's class, such as ``ServiceStatus.service``."""
        name = _name(field)

        def read() -> P:
            part: P = getattr(self.record, name)
            return part

        return Result(self.plain[name], read)

    def rows(self, field: list[P]) -> list[Result[P]]:
        """The elements of a list; ``field`` is a field of the record's class, such as ``VmPage.vms``."""
        name = _name(field)

        def read(index: int) -> P:
            rows: list[P] = getattr(self.record, name)
            return rows[index]

        return [Result(plain, partial(read, index)) for index, plain in enumerate(self.plain.get(name, ()))]


def _name(field: Any) -> str:
    """The name of a field. Type checkers take it for a value; a class has a descriptor in its place."""
    name: str = field.__name__
    return name


def received(command: Command[R], plain: dict[str, Any]) -> Result[R]:
    """The result of a command, from the map that was received."""

    def read() -> R:
        from nexus_protocol.codec import as_reply

        kind: type[R] = command.info.reply
        return as_reply(kind, plain)

    return Result(plain, read)


def made(record: R, plain: Any) -> Result[R]:
    """A result that a verb has put together; ``plain`` is what JSON can have."""
    return Result(plain, lambda: record)
