"""Finishes what takes longer than a request: deleted conversations, and messages whose clients have ended.

Deleted conversations go in steps, so that no transaction is long; a daemon that was killed goes on at its next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from nexus_protocol import NexusError

from nexus import __version__
from nexus.capability import ManagerContext
from nexus.conversations import steps_store, store
from nexus.conversations.appending import Appending
from nexus.conversations.blobs import BlobFolder
from nexus.conversations.follower import Follower
from nexus.conversations.states import MessageStatus
from nexus.journal.operation import Operation, resumed
from nexus.store import StoreError
from nexus.tasks import cancel_and_wait

__all__ = ["ConversationManager", "make_manager"]

_log = logging.getLogger("nexus.conversations")

_RETRY_S = 1.0
_AT_ONCE = 100


class ConversationManager:
    """The conversations of one daemon that go, and the messages that are open."""

    def __init__(self, context: ManagerContext) -> None:
        self._context = context
        self._store = context.store
        path = context.store.path
        self.blobs = BlobFolder(path.with_name(f"{path.name}-blobs"))
        self.follower = Follower(context, __version__)
        self._hidden: dict[str, Operation | None] = {}
        """The conversations that are to be swept, with the operations that deleted them."""
        self._wake = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    # The daemon's start and end

    async def start(self) -> None:
        """Mark messages incomplete that an earlier daemon left open, and go on with what it was deleting."""
        while rows := self._store.read(lambda reader: steps_store.interrupted(reader, _AT_ONCE), snapshot=True):
            for message_id, operation_id in rows:
                operation = self._context.cause("messages.interrupted")
                operation.cause = self._written(operation_id)
                await self._store.write(
                    lambda tx, id_=message_id, op=operation: store.end_message(  # type: ignore[misc]
                        tx, op, id_, MessageStatus.INCOMPLETE
                    ),
                    size_bytes=4096,
                )
        caller = self._context.caller

        def read(reader: Any) -> dict[str, Operation | None]:
            return {
                id_: resumed(reader, caller, operation_id, "conversations.swept")
                for id_, operation_id in steps_store.hidden(reader)
            }

        self._hidden |= self._store.read(read, snapshot=True)
        self._sweeping = asyncio.create_task(self._sweep())
        await self.follower.start()

    def _written(self, operation_id: int | None) -> int | None:
        """The number of an operation that is still kept."""
        if operation_id is None:
            return None
        row = self._store.read(lambda reader: store.operation_exists(reader, operation_id))
        return operation_id if row else None

    async def close(self) -> None:
        """Stop sweeping; end the messages whose clients have ended. The process that follows sources goes on."""
        await self.follower.close()
        await cancel_and_wait(self._sweeping)
        if self._ending:
            await asyncio.wait(self._ending)

    def children(self) -> int:
        """Conversations that are being deleted, and sources that are followed, keep the daemon from being idle."""
        return len(self._hidden) + self.follower.is_needed

    # Deleting

    def sweep(self, ids: Iterable[str], operation: Operation | None = None) -> None:
        """Delete what hidden conversations have left, in the background."""
        for id_ in ids:
            self._hidden[id_] = operation
        self._wake.set()

    async def _sweep(self) -> None:
        while True:
            self._wake.clear()
            for id_ in list(self._hidden):
                try:
                    await self._sweep_one(id_)
                except StoreError as error:
                    _log.warning("a deleted conversation cannot be swept at present: %s", error.message)
                except Exception:  # the others are swept all the same
                    _log.exception("a deleted conversation was not swept")
            if self._hidden:
                await asyncio.sleep(_RETRY_S)
            else:
                await self._wake.wait()

    async def _sweep_one(self, id_: str) -> None:
        operation = self._hidden[id_] or self._context.cause("conversations.swept")
        done = False
        while not done:
            done = await self._store.write(lambda tx: steps_store.sweep_step(tx, operation, id_), size_bytes=65_536)
        del self._hidden[id_]

    # Appending

    def interrupt(self, appending: Appending) -> None:
        """Mark a message incomplete whose client has ended, with what was received. It is not awaited."""
        task = asyncio.create_task(self._interrupt(appending))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _interrupt(self, appending: Appending) -> None:
        try:
            with contextlib.suppress(NexusError):  # a message that was deleted; the next start looks at all others
                await appending.end(MessageStatus.INCOMPLETE)
        except Exception:
            _log.exception("message %s was not marked incomplete", appending.message.id)


def make_manager(context: ManagerContext) -> ConversationManager:
    """Make the manager of a daemon."""
    return ConversationManager(context)
