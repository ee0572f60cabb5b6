"""What a supervision sees of a run, wherever it runs: its main process, its end and its stop."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import NamedTuple

from nexus.runtime.spec import Exit

__all__ = ["Trouble", "Watched"]


class Trouble(NamedTuple):
    """Why a run that began cannot be looked at: ``code`` is for programs, ``text`` is the sentence for people."""

    since: int
    """In ms since 1970."""
    code: str
    text: str


class Watched(ABC):
    """A run that has a process. ``started_at`` is in ms; ``exit`` is None while the main process runs."""

    owner: str
    run_id: str
    pid: int
    started_at: int
    exit: Exit | None
    trouble: Trouble | None = None
    """Why it cannot be looked at present; a run on this machine always can."""
    took_ms: int | None = None
    """How long the main process ran, where its own host says so."""

    @property
    @abstractmethod
    def started_clock_ms(self) -> int | None:
        """When the main process started, in ms of this machine's boot clock; None where that is not known."""

    @property
    @abstractmethod
    def finished(self) -> bool:
        """Whether all processes of the run have ended and the log is complete."""

    @abstractmethod
    def on_exit(self, call: Callable[[], None]) -> None:
        """Call ``call`` once the main process has exited, at once if it has. A later call replaces ``call``."""

    def on_trouble(self, call: Callable[[], None]) -> None:
        """Call ``call`` each time that ``trouble`` changes. A later call replaces ``call``."""
        del call  # a run on this machine has none

    @abstractmethod
    async def wait(self) -> Exit:
        """Wait until all processes of the run have ended and the log is complete."""

    @abstractmethod
    async def stop(self, number: int | None = None, grace_ms: int | None = None) -> Exit:
        """Stop the main process and everything that it started, and wait until all have ended.

        None means the spec's signal or grace time. A second call may shorten the grace time.
        """

    async def abandon(self, why: str) -> None:
        """End the watch of a run that cannot be looked at present, as lost; ``stop`` then waits for nothing.

        Without ``trouble`` this does nothing. Its host ends what is left of it once it can be reached.
        """
        del why  # a run on this machine can be looked at

    @abstractmethod
    def close(self) -> None:
        """Stop watching without touching the process. Pending waits never return."""
