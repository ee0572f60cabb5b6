"""What a verb prints: people get records, whose fields are typed; programs get the maps that were received."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from nexus_protocol.command import Command

__all__ = ["Result", "Results", "made", "received"]

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

    def rows(self, field: list[P]) -> Results[P]:
        """The elements of a list; ``field`` is a field of the record's class, such as ``VmPage.vms``."""
        name = _name(field)

        def read() -> list[P]:
            rows: list[P] = getattr(self.record, name)
            return rows

        return Results(self.plain.get(name, []), read)


class Results(Generic[R]):
    """A list of results. The records are decoded when the first of them is read."""

    __slots__ = ("_read", "_records", "plain")

    def __init__(self, plain: list[Any], read: Callable[[], list[R]]) -> None:
        self.plain = plain
        """Plain values, for programs."""
        self._read = read
        self._records: list[R] | None = None

    @classmethod
    def of(cls, results: Sequence[Result[R]]) -> Results[R]:
        """Results that were gathered one by one."""
        return cls([result.plain for result in results], lambda: [result.record for result in results])

    @classmethod
    def joined(cls, parts: Sequence[Results[R]]) -> Results[R]:
        """The results of several lists, one list after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            [plain for part in parts for plain in part.plain],
            lambda: [record for part in parts for record in part.records],
        )

    @property
    def records(self) -> list[R]:
        """The records.

        Raises:
            BadFrame: the daemon sent no such records.
        """
        records = self._records
        if records is None:
            records = self._records = self._read()
        return records

    def __len__(self) -> int:
        return len(self.plain)

    def __iter__(self) -> Iterator[Result[R]]:
        def read(index: int) -> R:
            return self.records[index]

        for index, plain in enumerate(self.plain):
            yield Result(plain, partial(read, index))


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
