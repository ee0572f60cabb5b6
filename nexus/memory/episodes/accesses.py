"""Counts the accesses of episodes in memory, and writes them in turns: a read waits for no write."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Iterable

from nexus.capability import ManagerContext
from nexus.memory.episodes.store import count_accesses
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

__all__ = ["Accesses"]

_log = logging.getLogger("nexus.memory")

_DELAY_S = 1.0
"""How long accesses are gathered before they are written."""
_STEP = 200
"""Episodes of one write."""


class Accesses:
    """The accesses of one daemon that are not written yet."""

    def __init__(self, context: ManagerContext) -> None:
        self._store = context.store
        self._counted: dict[str, tuple[int, int]] = {}
        """By id of the episode, how many and when the last one was (ms since 1970)."""
        self._writer: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Write what is left."""
        await cancel_and_wait(self._writer)
        try:
            await self._write()
        except StoreError as error:
            _log.warning("accesses of %d episodes are lost: %s", len(self._counted), error.message)

    def count(self, episode_ids: Iterable[str]) -> None:
        """Count an access of each of these episodes."""
        now_ms = time.time_ns() // 1_000_000
        for id_ in episode_ids:
            self._counted[id_] = (self.unwritten(id_)[0] + 1, now_ms)
        if self._counted and (self._writer is None or self._writer.done()):
            self._writer = asyncio.create_task(self._write_later())

    def unwritten(self, episode_id: str) -> tuple[int, int | None]:
        """How many accesses of an episode are not written yet, and when the last one was."""
        return self._counted.get(episode_id, (0, None))

    async def _write_later(self) -> None:
        while self._counted:
            await asyncio.sleep(_DELAY_S)
            try:
                await self._write()
            except StoreError as error:
                _log.debug("accesses of episodes are not written at present: %s", error.message)
            except Exception:  # the next write may succeed
                _log.exception("accesses of episodes were not written")

    async def _write(self) -> None:
        """Write what is counted now.

        Raises:
            StoreError: the store cannot be written.
        """
        ids = list(self._counted)
        for start in range(0, len(ids), _STEP):
            part = {id_: self._counted[id_] for id_ in ids[start : start + _STEP] if id_ in self._counted}
            await self._store.write(functools.partial(count_accesses, counted=part), size_bytes=64 * len(part))
            for id_, (count, _at) in part.items():
                left, at = self._counted[id_]
                if left == count:
                    del self._counted[id_]
                else:
                    self._counted[id_] = (left - count, at)
