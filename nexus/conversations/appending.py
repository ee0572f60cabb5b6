"""One message that a client appends to: its text is gathered, and written in pieces that cost the writer little.

It knows the store and no stream. A piece is a row of ``message_parts``; the pieces are put together at the end.
"""

from __future__ import annotations

import asyncio
import codecs
from collections.abc import Mapping
from typing import Any

from nexus_protocol import InvalidArgument

from nexus.conversations import messages_store, writing_store
from nexus.conversations.errors import MessageInvalid, MessageNotFound
from nexus.conversations.parts_store import PartRow
from nexus.conversations.records import MESSAGE_BYTES, Message
from nexus.conversations.states import MessageStatus, PartKind
from nexus.journal.operation import Operation
from nexus.store import StateStore, Transaction
from nexus.store.splitting import INDEXED_CHARACTERS

__all__ = ["FLUSH_BYTES", "FLUSH_S", "IDLE_S", "Appending"]

FLUSH_S = 0.2
"""How long received text waits at most until it is written."""
IDLE_S = 2.0
"""After how long without input what was received can be searched."""
FLUSH_BYTES = 16 * 1024
"""How much received text waits at most."""


class Appending:
    """An open message. Used by one task at a time."""

    def __init__(self, state: StateStore, operation: Operation, message: Message) -> None:
        self.message = message
        self.size_bytes = 0
        """Of what was received."""
        self.values: dict[str, Any] = {}
        """Columns that the client has set."""
        self.flush_at: float | None = None
        """When what waits is to be written (loop time); None: nothing waits."""
        self.idle_at: float | None = None
        """When what was received is to be made searchable, unless more comes; None: it is."""
        self._store = state
        self._operation = operation
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._part = PartRow(PartKind.TEXT.value)
        self._begun = False
        """Whether the present part has a row, or one that waits."""
        self._rows: list[PartRow] = []
        self._text: list[str] = []
        self._waiting_bytes = 0
        self._next = 1
        """The number of the next row."""

    @property
    def is_full(self) -> bool:
        """Whether so much waits that it is to be written now."""
        return self._waiting_bytes >= FLUSH_BYTES

    def feed(self, data: bytes) -> None:
        """Take more text of the present part, which may end within a character.

        Raises:
            InvalidArgument: it is no UTF-8.
            MessageInvalid: the message would be larger than 4 MiB.
        """
        if self.size_bytes + len(data) > MESSAGE_BYTES:
            raise MessageInvalid(
                "cannot append to the message: it would be larger than 4 MiB",
                hint="It keeps what was received. Go on in another message.",
                details={"path": "data", "limit": MESSAGE_BYTES},
            )
        try:
            text = self._decoder.decode(data)
        except UnicodeDecodeError:
            raise InvalidArgument(
                "cannot append to the message: the text is not UTF-8", details={"path": "data"}
            ) from None
        self.size_bytes += len(data)
        self._waiting_bytes += len(data)
        if text:
            self._text.append(text)
        self._wait()

    def begin_part(self, part: PartRow) -> None:
        """Begin another part.

        Raises:
            InvalidArgument: the part before ends within a character.
        """
        self._end_character()
        self._end_piece()
        if not self._begun and self._part != PartRow(PartKind.TEXT.value):
            self._rows.append(self._part)  # a part without text
        self._part, self._begun = part, False
        self._wait()

    def _end_character(self) -> None:
        try:
            self._decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            self._decoder.reset()
            raise InvalidArgument(
                "cannot append to the message: the text ends within a character", details={"path": "data"}
            ) from None

    def _end_piece(self) -> None:
        """Make a row of the text that waits."""
        if self._text:
            row = self._part if not self._begun else PartRow(self._part.kind, continues=1)
            self._rows.append(row._replace(body="".join(self._text)))
            self._text.clear()
            self._begun = True

    def _wait(self) -> None:
        now = asyncio.get_running_loop().time()
        if self.flush_at is None:
            self.flush_at = now + FLUSH_S
        self.idle_at = now + IDLE_S

    @property
    def wakes_at(self) -> float | None:
        """When ``flush`` or ``make_searchable`` is due; None: when more comes."""
        return self.idle_at if self.flush_at is None else self.flush_at

    async def flush(self) -> None:
        """Write what waits.

        Raises:
            MessageNotFound: the message was deleted.
            StoreError: it cannot be written.
        """
        self._end_piece()
        self.flush_at, self._waiting_bytes = None, 0
        if not self._rows:
            return
        rows, first = list(self._rows), self._next

        def write(tx: Transaction) -> bool:
            if messages_store.message_status(tx, self.message.id) is not MessageStatus.OPEN:
                return False
            writing_store.add_flushed(tx, self.message.id, rows, first, self.size_bytes)
            return True

        if not await self._store.write(write, size_bytes=512 + sum(len(row.body or "") for row in rows)):
            raise self._gone()
        del self._rows[: len(rows)]
        self._next += len(rows)

    async def make_searchable(self) -> None:
        """Let the search find what was written.

        Raises:
            StoreError: it cannot be written.
        """
        self.idle_at = None
        await self._store.write(
            lambda tx: writing_store.join_flushed(tx, self.message.id),
            size_bytes=512 + 4 * min([self.size_bytes, INDEXED_CHARACTERS]),
        )

    async def end(self, status: MessageStatus) -> Message:
        """Write what waits and put the message together.

        Raises:
            InvalidArgument: a complete message would end within a character.
            MessageNotFound: the message was deleted.
            StoreError: it cannot be written.
        """
        if status is MessageStatus.COMPLETE:
            self._end_character()
        self._end_piece()
        if not self._begun and self._part != PartRow(PartKind.TEXT.value):
            self._rows.append(self._part)
            self._begun = True
        await self.flush()
        values: Mapping[str, Any] = dict(self.values)
        message = await self._store.write(
            lambda tx: writing_store.end_message(tx, self._operation, self.message.id, status, values),
            size_bytes=1024 + self.size_bytes + 3 * min([self.size_bytes, INDEXED_CHARACTERS]),
        )
        if message is None:
            raise self._gone()
        return message

    def _gone(self) -> MessageNotFound:
        return MessageNotFound("cannot append to the message: it was deleted", details={"message": self.message.id})
