"""What a process may borrow from a record of another capability: a job that is a one-off of a service.

The capability that lends registers how; the one that borrows tells which of its records do. Neither knows the other.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import NamedTuple, Protocol

from nexus.journal.operation import Operation
from nexus.records.scope import Scope
from nexus.store import Reader

__all__ = ["BorrowedEnvironment", "Environments", "Lender"]


class BorrowedEnvironment(NamedTuple):
    """What a process takes over."""

    directory: str
    environment: dict[str, str]
    memory_bytes: int | None
    cpu_percent: int | None
    umask: int | None

    def __repr__(self) -> str:
        return f"BorrowedEnvironment({self.directory})"


class Lender(Protocol):
    """How the records of one kind lend their environments."""

    def find(self, reader: Reader, reference: str, scope: Scope) -> str:
        """The id of the record.

        Raises:
            NotFound: there is none.
        """

    def lend(self, id_: str, run_id: str, operation: Operation) -> AbstractAsyncContextManager[BorrowedEnvironment]:
        """The environment of a process, with what it needs. The borrower's row is written within the context.

        Raises:
            NexusError: it cannot be made, or the record was deleted.
        """

    async def returned(self, id_: str, operation: Operation) -> None:
        """A process that borrowed has ended, and its row says so: end what nothing else needs."""


class Environments:
    """The lenders and the borrowers of one daemon."""

    def __init__(self) -> None:
        self._lenders: dict[str, Lender] = {}
        self._borrowers: list[Callable[[Reader, str], set[str]]] = []

    def register(self, kind: str, lender: Lender) -> None:
        """Let the records of a kind lend."""
        self._lenders[kind] = lender

    def register_borrower(self, borrowed: Callable[[Reader, str], set[str]]) -> None:
        """``borrowed`` gives the ids of the records of a kind whose environments are in use."""
        self._borrowers.append(borrowed)

    def of(self, kind: str) -> Lender:
        """The lender of a kind.

        Raises:
            KeyError: no capability lends for it.
        """
        return self._lenders[kind]

    def borrowed(self, reader: Reader, kind: str) -> set[str]:
        """The ids of the records of a kind whose environments are in use."""
        return set().union(*(borrowed(reader, kind) for borrowed in self._borrowers))
