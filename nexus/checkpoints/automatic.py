"""Makes checkpoints of projects that are worked on, as often as their setting ``checkpoint_interval_hours`` says."""

from __future__ import annotations

import logging
from collections.abc import Callable

from nexus_protocol.errors import NexusError

from nexus.capability import ManagerContext
from nexus.checkpoints.commands import AUTOMATIC
from nexus.checkpoints.making import READ_S, keep
from nexus.checkpoints.state import position_of
from nexus.checkpoints.store import changes_since, head_of, newest, worked_on
from nexus.records.project_settings import project_setting
from nexus.store import Reader
from nexus.tasks import Periodic

__all__ = ["Automatic", "due"]

_log = logging.getLogger("nexus.checkpoints")

_INTERVAL_S = 60.0
_HOUR_MS = 3_600_000


def due(reader: Reader, now_ms: int) -> list[str]:
    """The ids of the projects that are to have a checkpoint: worked on, changed, and long without one."""
    found = []
    for project_id, since in worked_on(reader):
        last = newest(reader, project_id)
        if last is not None:
            since = last.created_at
        if now_ms - since < project_setting(reader, project_id, "checkpoint_interval_hours") * _HOUR_MS:
            continue
        # One whose state is damaged is replaced.
        position = None if last is None else position_of(head_of(reader, last.id))
        if position is None or changes_since(reader, project_id, position):
            found.append(project_id)
    return found


class Automatic(Periodic):
    """Looks at the start of the daemon, and every minute."""

    def __init__(self, context: ManagerContext, now_ms: Callable[[], int] | None = None) -> None:
        self._context = context
        self._now_ms = now_ms or context.boot.trusted_now_ms
        super().__init__(self.look, _INTERVAL_S, _log, "automatic checkpoints", "made", (NexusError,))

    async def look(self) -> None:
        """Make the checkpoints that are due.

        Raises:
            StoreError: the store cannot be read or written.
        """
        store, now = self._context.store, self._now_ms()
        for project_id in await store.scan(lambda reader: due(reader, now), limit_s=READ_S):
            await keep(store, self._context.cause(AUTOMATIC), project_id, name="automatic", automatic=True)
