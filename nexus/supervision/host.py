"""What a supervision needs of the daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from nexus.journal.operation import Operation
from nexus.runtime import Runtime
from nexus.store import StateStore

__all__ = ["Host"]


class Host(Protocol):
    """The daemon as a supervision sees it; ``ManagerContext`` has all of it."""

    @property
    def store(self) -> StateStore:
        """The store of the records."""

    @property
    def directory(self) -> Path:
        """The folder for the files of processes."""

    @property
    def runtime(self) -> Runtime:
        """The process runtime."""

    def cause(self, name: str, of: Operation | None = None) -> Operation:
        """Begin an operation of the daemon's own, which ``of`` led to."""
