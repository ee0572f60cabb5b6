"""Ends and deletes what no record knows: the traces of a daemon that was killed between two steps.

It knows owners and runs of the process runtime. Each capability tells which of its owners and runs its records know.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from typing import NamedTuple

from nexus.runtime import Process, Runtime, RuntimeFailure, RunUnreadable

__all__ = ["Known", "Sweeper"]

_log = logging.getLogger("nexus.supervision")

_GRACE_MS = 10_000
"""From SIGTERM to SIGKILL, for processes whose own grace time cannot be read."""


class Known(NamedTuple):
    """What the records know of an owner."""

    exists: bool
    """Whether there is a record of it."""
    run_id: str | None = None
    """Its present run."""


class Sweeper:
    """The sweep over all owners of a runtime whose kind is registered; others are left alone."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._kinds: dict[str, Callable[[str], Known]] = {}

    def register(self, prefix: str, known: Callable[[str], Known]) -> None:
        """Sweep the owners whose names begin with ``prefix``; ``known`` is called with the rest of the name."""
        self._kinds[prefix] = known

    def _known(self, owner: str) -> Known | None:
        for prefix, known in self._kinds.items():
            if owner.startswith(prefix):
                return known(owner.removeprefix(prefix))
        return None

    async def sweep(self) -> None:
        """Look at every owner once, and at short-lived children whose daemon has ended.

        What cannot be deleted is logged, and tried again by the next daemon.
        """
        try:
            await self._runtime.end_left_behind()
        except OSError as error:
            _log.warning("cannot look for what earlier daemons left behind: %s", error)
        for owner in await asyncio.to_thread(self._runtime.owners):
            try:
                if self._known(owner) is not None:
                    await self._sweep_owner(owner)
            except (RuntimeFailure, OSError, ValueError) as error:
                _log.warning("cannot delete what is left of %s: %s", owner, error)
            except Exception:  # one owner must not keep the others from being swept
                _log.exception("cannot sweep %s", owner)

    async def _sweep_owner(self, owner: str) -> None:
        for run_id in await asyncio.to_thread(self._runtime.runs, owner):
            if self._is_known(owner, run_id):
                continue
            await self._end_run(owner, run_id)
            # The record may have begun the run meanwhile.
            if not self._is_known(owner, run_id):
                self._runtime.forget(owner, run_id)
        known = self._known(owner)
        if known is not None and not known.exists:
            await self._runtime.remove(owner)

    async def _end_run(self, owner: str, run_id: str) -> None:
        """End what is left of a run that no record knows, also if its files are broken."""
        try:
            found = await self._runtime.adopt(owner, run_id)
        except RunUnreadable:
            found = None
        if isinstance(found, Process):
            _log.warning("ending run %s of %s: no record knows it", run_id, owner)
            await found.stop()
            found.close()
        elif found is None:
            for orphans in (await self._runtime.find_orphans({run_id: owner})).values():
                _log.warning("ending what is left of run %s of %s: no record knows it", run_id, owner)
                await self._runtime.end_orphans(orphans, signal.SIGTERM, _GRACE_MS)

    def _is_known(self, owner: str, run_id: str) -> bool:
        return self._known(owner) == Known(True, run_id)
