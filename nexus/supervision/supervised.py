"""What the parts of one object's supervision share: they are given this, and not each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nexus.store import StoreError
from nexus.supervision.host import Host
from nexus.supervision.nodes import Runs
from nexus.supervision.requests import Requests
from nexus.supervision.state_writer import StateWriter
from nexus.supervision.waiters import Waiters

__all__ = ["Supervised"]


class Supervised:
    """The shared parts of one object, for as long as the daemon knows it.

    ``kind`` is its word in sentences: service, job. ``owner`` has its runs and its log in the process runtime.
    ``told`` is called after each change of its record, and when a supervision of it ends. ``runs`` has its processes:
    by default those of this machine.
    """

    def __init__(
        self,
        manager: Host,
        kind: str,
        owner: str,
        state: StateWriter[Any, Any],
        told: Callable[[], None],
        runs: Runs | None = None,
    ) -> None:
        self.manager = manager
        self.kind = kind
        self.owner = owner
        self.state = state
        self.runs: Runs = manager.runtime if runs is None else runs
        state.runs = self.runs
        self.waiters = Waiters()
        self.requests = Requests()
        """Of the present supervision; each begins with new ones."""
        self._told = told
        state.on_change, state.on_trouble = self.changed, self._troubled

    @property
    def run_id(self) -> str | None:
        """The run that the record knows."""
        return self.state.run_id

    def changed(self) -> None:
        """Tell all who wait that the record was changed, or that a supervision has ended."""
        self.requests.waited.set()
        self.waiters.notify()
        self._told()

    def _troubled(self, error: StoreError) -> None:
        self.waiters.fail(error)
        self.waiters.notify()
