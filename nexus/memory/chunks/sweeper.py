"""Deletes the chunks of projects that were deleted, in steps, so that the writes of clients do not wait for it."""

from __future__ import annotations

import asyncio
import logging

from nexus.capability import ManagerContext
from nexus.memory.chunks import store
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

__all__ = ["ChunkSweeper"]

_log = logging.getLogger("nexus.memory")

_STEP = 100
_STEP_BYTES = 256 * 1024
_RETRY_S = 60.0
_LOOK_S = 30.0


class ChunkSweeper:
    """Looks at the start of the daemon, and after each deletion of a project."""

    def __init__(self, context: ManagerContext) -> None:
        self._context = context
        self._wake = asyncio.Event()
        self._wake.set()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to work."""
        self._task = asyncio.create_task(self._work())

    async def close(self) -> None:
        """End the work; the next daemon goes on."""
        await cancel_and_wait(self._task)

    def wake(self) -> None:
        """Look again: a project was deleted."""
        self._wake.set()

    async def _work(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._sweep()
            except StoreError as error:
                _log.warning("chunks of a deleted project cannot be deleted at present: %s", error.message)
            except Exception:  # the next look may succeed
                _log.exception("chunks of a deleted project were not deleted")
            else:
                continue
            await asyncio.sleep(_RETRY_S)
            self._wake.set()

    async def _sweep(self) -> None:
        state = self._context.store
        for project_id in await state.scan(store.gone_projects, limit_s=_LOOK_S):
            deleted = _STEP
            while deleted:
                deleted = await state.write(
                    lambda tx, project_id=project_id: store.sweep(tx, project_id, _STEP),  # type: ignore[misc]
                    size_bytes=_STEP_BYTES,
                )
                await asyncio.sleep(0.01)  # let the writes of clients pass
