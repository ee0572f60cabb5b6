"""The conversations of a daemon, observed from outside: by its socket and its database."""

from __future__ import annotations

from typing import Any

import msgpack
from nexus_protocol import INPUT_CREDIT, NexusError, decode_reply, encode_frame
from nexus_protocol.frame import INPUT

from nexus.conversations.commands import (
    AppendMessage,
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    GetMessage,
    ListConversations,
    ListMessages,
)
from nexus.conversations.records import Conversation, Message
from nexus.conversations.states import Role
from support.daemon import DaemonProcess
from support.raw import RawClient, connect, wait_until
from support.replay import check
from support.stores import look_at

__all__ = ["Appender", "Conversations"]


class Appender:
    """A message that a client appends to."""

    def __init__(self, client: RawClient, command: AppendMessage) -> None:
        self.client = client
        self.sequence = client.begin(command)
        self.items = client.items(self.sequence)
        self.sent = 0

    def began(self) -> dict[str, Any]:
        """Wait for the first item."""
        return next(self.items)

    def data(self, data: bytes) -> None:
        """Send text, as fast as its credit allows."""
        while self.sent + len(data) - self.client.acknowledged[self.sequence] > INPUT_CREDIT:
            assert self.client.receive_some(), "the daemon closed the connection"
        self.sent += len(data)
        self._input({"data": data})

    def part(self, **fields: Any) -> None:
        """Begin another part."""
        self._input({"control": {"part": fields}})

    def set(self, **fields: Any) -> None:
        """Set fields."""
        self._input({"control": {"set": fields}})

    def control(self, control: dict[str, Any]) -> None:
        """Send any control."""
        self._input({"control": control})

    def _input(self, body: dict[str, Any]) -> None:
        self.client.send_bytes(encode_frame(INPUT, self.sequence, msgpack.packb(body)))

    def durable(self, size_bytes: int) -> None:
        """Wait until so many bytes are durable."""
        for item in self.items:
            if item.get("size_bytes", 0) >= size_bytes:
                return
        raise AssertionError("the stream ended before")

    def end(self) -> Message:
        """Complete the message."""
        self._input({"eof": True})
        return decode_reply(Message, self.client.payload(self.sequence))

    def error(self) -> NexusError:
        """The error that ends the stream."""
        return self.client.error(self.sequence)


class Conversations:
    """The conversations of one daemon."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.client = connect(daemon)

    def close(self) -> None:
        """Close the connection."""
        self.client.close()

    def begin_anew(self) -> None:
        """Start the daemon again after its end, and connect to it."""
        self.client.close()
        self.daemon.start()
        self.client = connect(self.daemon)

    def clear(self) -> None:
        """Delete every conversation, and wait until nothing is left of any."""
        while found := self.client.call(ListConversations(limit=1000)).conversations:
            for each in found:
                self.client.call(DeleteConversation(each.id))
        self.swept()

    def swept(self) -> None:
        """Wait until nothing is left of the conversations that were deleted."""
        wait_until(lambda: not self.rows("SELECT 1 FROM conversations WHERE hidden IS NOT NULL"), "the sweep")

    def create(self, title: str = "New Conversation", **fields: Any) -> Conversation:
        """Create a conversation."""
        return self.client.call(CreateConversation(title, **fields))

    def add(self, conversation: Conversation, *texts: str, role: Role = Role.USER, **fields: Any) -> list[Message]:
        """Add messages."""
        return [self.client.call(CreateMessage(conversation.id, role, text, **fields)) for text in texts]

    def add_many(self, conversation: Conversation, count: int, text: str = "text") -> None:
        """Add messages with few writes to the socket."""
        for start in range(0, count, 200):
            some = range(start, min(start + 200, count))
            commands = [CreateMessage(conversation.id, Role.USER, f"{text} {number}") for number in some]
            for sequence in self.client.begin_many(commands):
                self.client.payload(sequence)

    def append(self, conversation: Conversation, **fields: Any) -> Appender:
        """Begin to append a message."""
        return Appender(self.client, AppendMessage(conversation.id, Role.ASSISTANT, **fields))

    def get(self, message: Message | str) -> Message:
        """Get a message."""
        return self.client.call(GetMessage(message if isinstance(message, str) else message.id))

    def texts(self, conversation: Conversation, **fields: Any) -> list[str | None]:
        """The texts of a page."""
        return [one.content for one in self.client.call(ListMessages(conversation.id, **fields)).messages]

    def rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Rows of the database."""
        with look_at(self.daemon.database) as database:
            return database.execute(sql, parameters).fetchall()

    def problems(self) -> list[str]:
        """What the journal and the rows disagree about."""
        with look_at(self.daemon.database) as database:
            return check(database)
