"""Finishes what takes longer than a request: deleted conversations, and messages whose clients have ended.

Deleted conversations go in steps, so that no transaction is long; a daemon that was killed goes on at its next start.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable
from typing import Any

from nexus import __version__
from nexus.capability import ManagerContext
from nexus.conversations import steps_store, store, writing_store
from nexus.conversations.appending import Appending
from nexus.conversations.blobs import BlobFolder
from nexus.conversations.errors import MessageNotFound
from nexus.conversations.follower import Follower
from nexus.conversations.garbage import BlobSweeper
from nexus.conversations.states import MessageStatus
from nexus.journal.operation import Operation, resumed
from nexus.store import DiskFull, StoreError, StoreUnavailable
from nexus.tasks import cancel_and_wait

__all__ = ["ConversationManager", "make_manager"]

_log = logging.getLogger("nexus.conversations")

_RETRY_S = 1.0
_FIRST_SWEEP_S = 3600.0
_SWEEP_EVERY_S = 24 * 3600.0
_GRACE_MS = 24 * 3600 * 1000
"""How long a blob is kept after it was stored or named."""
_AT_ONCE = 100


class ConversationManager:
    """The conversations of one daemon that go, and the messages that are open."""

    def __init__(self, context: ManagerContext) -> None:
        self._context = context
        self._store = context.store
        path = context.store.path
        self.blobs = BlobSweeper(context.store, BlobFolder(path.with_name(f"{path.name}-blobs")))
        self.follower = Follower(context, __version__)
        self._hidden: dict[str, Operation | None] = {}
        """The conversations that are to be swept, with the operations that deleted them."""
        self._wake = asyncio.Event()
        self._closing = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._sweeping_blobs: asyncio.Task[None] | None = None
        self._ending: set[asyncio.Task[None]] = set()

    # The daemon's start and end

    async def start(self) -> None:
        """Mark messages incomplete that an earlier daemon left open, and go on with what it was deleting."""
        while rows := self._store.read(lambda reader: steps_store.interrupted(reader, _AT_ONCE), snapshot=True):
            await asyncio.gather(*(self._mark(*row) for row in rows))  # these writes share commits
        caller = self._context.caller

        def read(reader: Any) -> dict[str, Operation | None]:
            return {
                id_: resumed(reader, caller, operation_id, "conversations.swept")
                for id_, operation_id in steps_store.hidden(reader)
            }

        self._hidden |= self._store.read(read, snapshot=True)
        self._sweeping = asyncio.create_task(self._sweep())
        self._sweeping_blobs = asyncio.create_task(self._sweep_blobs())
        await self.follower.start()

    async def _mark(self, message_id: str, operation_id: int | None) -> None:
        operation = self._context.cause("messages.interrupted")
        operation.cause = self._written(operation_id)
        await self._store.write(
            lambda tx: writing_store.end_message(tx, operation, message_id, MessageStatus.INCOMPLETE), size_bytes=4096
        )

    def _written(self, operation_id: int | None) -> int | None:
        """The number of an operation that is still kept."""
        if operation_id is None:
            return None
        row = self._store.read(lambda reader: store.operation_exists(reader, operation_id))
        return operation_id if row else None

    async def close(self) -> None:
        """Stop sweeping; end the messages whose clients have ended.

        One that cannot be written now is marked by the next daemon. The process that follows sources goes on.
        """
        self._closing.set()
        await self.follower.close()
        await cancel_and_wait(self._sweeping, self._sweeping_blobs)
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
            done = await self._store.write(lambda tx: steps_store.sweep_step(tx, operation, id_), size_bytes=256 * 1024)
        del self._hidden[id_]

    async def _sweep_blobs(self) -> None:
        """Delete once a day what no message names."""
        wait_s = _FIRST_SWEEP_S
        while True:
            await asyncio.sleep(wait_s)
            wait_s = _SWEEP_EVERY_S
            try:
                swept = await self.blobs.sweep(self._context.boot.trusted_now_ms() - _GRACE_MS)
                if swept.files:
                    _log.info("deleted %d blobs and unfinished files (%d bytes)", swept.files, swept.size_bytes)
            except StoreError as error:
                _log.warning("blobs cannot be swept at present: %s", error.message)
            except Exception:  # the next sweep may succeed
                _log.exception("blobs were not swept")

    # Appending

    def interrupt(self, appending: Appending) -> None:
        """Mark a message incomplete whose client has ended, with what was received. It is not awaited."""
        task = asyncio.create_task(self._interrupt(appending))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

    async def _interrupt(self, appending: Appending) -> None:
        try:
            while True:
                try:
                    await appending.end(MessageStatus.INCOMPLETE)
                except (DiskFull, StoreUnavailable) as error:  # it is shown as open until it can be written
                    _log.warning("message %s cannot be marked incomplete yet: %s", appending.message.id, error.message)
                    if self._closing.is_set():
                        return
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_RETRY_S):
                            await self._closing.wait()
                else:
                    return
        except MessageNotFound:
            pass  # it was deleted
        except Exception:
            _log.exception("message %s was not marked incomplete", appending.message.id)


def make_manager(context: ManagerContext) -> ConversationManager:
    """Make the manager of a daemon."""
    return ConversationManager(context)
