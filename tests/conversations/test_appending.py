"""AppendMessage: what comes in pieces is durable soon, and is one message in the end, or an incomplete one."""

from __future__ import annotations

import uuid

import pytest
from nexus_protocol import InvalidArgument, Unavailable
from support.conversations import Appender, Conversations
from support.raw import connect, wait_until

from nexus.conversations.appending import FLUSH_BYTES
from nexus.conversations.commands import (
    AppendMessage,
    CreateMessage,
    DeleteConversation,
    DeleteMessage,
    EditMessage,
    ForkConversation,
    GetConversation,
    ListMessages,
)
from nexus.conversations.errors import MessageIdTaken, MessageInvalid, MessageNotFound, MessageOpen
from nexus.conversations.records import MESSAGE_BYTES, Message, MessagePart
from nexus.conversations.states import MessageStatus, PartKind, Role


def ended(conversations: Conversations, message_id: str) -> Message:
    """Wait until a message is open no more."""
    return wait_until(
        lambda: found if (found := conversations.get(message_id)).status is not MessageStatus.OPEN else None,
        "the end of the message",
    )


def test_text_in_pieces_is_one_message(nexus: Conversations) -> None:
    made = nexus.create()
    appender = nexus.append(made, model="m-1")
    began = appender.began()
    for piece in ("å".encode()[:1], "å".encode()[1:], b" deploys ", b"now"):
        appender.data(piece)
    appender.set(tokens=45, metadata={"duration": 1})
    message = appender.end()
    assert (message.id, message.number, message.status) == (began["id"], 1, MessageStatus.COMPLETE)
    found = nexus.get(message)
    assert (found.content, found.parts, found.tokens, found.model) == ("å deploys now", [], 45, "m-1")
    assert (found.metadata, found.size_bytes) == ({"duration": 1}, len("å deploys now".encode()))
    assert nexus.client.call(GetConversation(made.id)).tokens == 45
    assert nexus.rows("SELECT count(*) FROM message_parts") == [(0,)]


def test_open_message_can_be_read_and_not_changed(nexus: Conversations) -> None:
    made = nexus.create()
    appender = nexus.append(made)
    id_ = appender.began()["id"]
    assert nexus.texts(made) == [""]
    appender.data(b"x" * FLUSH_BYTES)
    appender.durable(FLUSH_BYTES)
    appender.part(kind="tool_use", tool="bash", call_id="c1")
    appender.data(b'{"a"')
    appender.durable(FLUSH_BYTES + 4)
    appender.data(b":1}")
    appender.durable(FLUSH_BYTES + 7)
    found = nexus.get(id_)
    assert (found.status, found.content) == (MessageStatus.OPEN, "x" * FLUSH_BYTES)
    call = MessagePart(PartKind.TOOL_USE, '{"a":1}', "bash", "c1")
    assert found.parts == [MessagePart(PartKind.TEXT, "x" * FLUSH_BYTES), call]
    assert nexus.texts(made) == ["x" * FLUSH_BYTES]
    for command in (EditMessage(id_, "y"), DeleteMessage(id_)):
        assert isinstance(nexus.client.call_error(command), MessageOpen)
    assert nexus.client.call(ForkConversation(made.id)).messages == 0
    appender.part(kind="text")
    appender.data(b"done")
    appender.part(kind="tool_result", call_id="c1")
    message = nexus.get(appender.end())
    assert message.content == "x" * FLUSH_BYTES + "\n\ndone"
    assert message.parts[1:] == [
        call,
        MessagePart(PartKind.TEXT, "done"),
        MessagePart(PartKind.TOOL_RESULT, call_id="c1"),
    ]


@pytest.mark.parametrize("how", ["cancel", "close"])
def test_what_was_received_stays_when_the_client_ends(nexus: Conversations, how: str) -> None:
    made = nexus.create()
    client = connect(nexus.daemon)
    appender = Appender(client, AppendMessage(made.id, Role.ASSISTANT))
    id_ = appender.began()["id"]
    appender.data(b"half a sen")
    if how == "cancel":
        client.cancel(appender.sequence)
        appender.error()
    client.close()
    message = ended(nexus, id_)
    assert (message.status, message.content) == (MessageStatus.INCOMPLETE, "half a sen")
    assert nexus.client.call(EditMessage(id_, "half a sentence")).revision == 2


@pytest.mark.parametrize("how", ["kill", "stop"])
def test_what_was_durable_stays_when_the_daemon_ends(own: Conversations, how: str) -> None:
    made = own.create()
    appender = own.append(made)
    id_ = appender.began()["id"]
    appender.data(b"before ")
    appender.durable(7)
    if how == "kill":
        own.daemon.kill()
    else:
        appender.data(b"the stop")
        appender.durable(15)
        assert own.daemon.stop() == 0
        assert isinstance(appender.error(), Unavailable)
    own.begin_anew()
    message = own.get(id_)
    assert message.status is MessageStatus.INCOMPLETE
    assert message.content == ("before " if how == "kill" else "before the stop")
    own.add(made, "next")
    assert own.texts(made)[1:] == ["next"]
    assert own.problems() == []


def test_message_of_4_mib_in_pieces(nexus: Conversations) -> None:
    made = nexus.create()
    appender = nexus.append(made)
    appender.began()
    for _ in range(64):
        appender.data(b"y" * (MESSAGE_BYTES // 64))
    message = appender.end()
    assert message.size_bytes == MESSAGE_BYTES
    assert nexus.get(message).content == "y" * MESSAGE_BYTES
    appender = nexus.append(made)
    id_ = appender.began()["id"]
    for _ in range(64):
        appender.data(b"y" * (MESSAGE_BYTES // 64))
    appender.data(b"z")
    assert isinstance(appender.error(), MessageInvalid)
    assert ended(nexus, id_).size_bytes == MESSAGE_BYTES


@pytest.mark.parametrize(
    "control",
    [
        {"part": {"kind": "image"}},
        {"part": {"kind": "no"}},
        {"part": {"kind": "text"}, "set": {}},
        {},
        {"set": {"tokens": -1}},
        {"other": 1},
    ],
)
def test_malformed_control_ends_the_message(nexus: Conversations, control: dict[str, object]) -> None:
    appender = nexus.append(nexus.create())
    id_ = appender.began()["id"]
    appender.control(control)
    assert isinstance(appender.error(), InvalidArgument)
    assert ended(nexus, id_).status is MessageStatus.INCOMPLETE


def test_text_that_is_not_utf_8_ends_the_message(nexus: Conversations) -> None:
    made = nexus.create()
    for data, complete in ((b"a\xff", False), (b"a\xc3", True)):
        appender = nexus.append(made)
        id_ = appender.began()["id"]
        appender.data(data)
        if complete:
            appender._input({"eof": True})
        assert isinstance(appender.error(), InvalidArgument)
        assert ended(nexus, id_).status is MessageStatus.INCOMPLETE


def test_message_of_a_deleted_conversation_ends(nexus: Conversations) -> None:
    made = nexus.create()
    appender = nexus.append(made)
    appender.began()
    nexus.client.call(DeleteConversation(made.id))
    appender.data(b"x")
    assert isinstance(appender.error(), MessageNotFound)


def test_id_of_a_message_that_exists_is_refused(nexus: Conversations) -> None:
    made = nexus.create()
    id_ = str(uuid.uuid4())
    nexus.add(made, "a", id=id_)
    appender = nexus.append(made, id=id_)
    assert isinstance(appender.error(), MessageIdTaken)


def test_messages_of_two_clients_come_in_the_order_of_their_beginnings(nexus: Conversations) -> None:
    made = nexus.create()
    first = nexus.append(made)
    first.began()
    nexus.client.call(CreateMessage(made.id, Role.USER, "second"))
    first.data(b"first")
    first.end()
    assert nexus.texts(made) == ["first", "second"]
    assert [one.number for one in nexus.client.call(ListMessages(made.id)).messages] == [1, 2]


def test_appending_is_one_operation(nexus: Conversations) -> None:
    appender = nexus.append(nexus.create())
    id_ = appender.began()["id"]
    for _ in range(5):
        appender.data(b"x" * FLUSH_BYTES)
    appender.end()
    events = nexus.rows("SELECT kind, operation_id FROM journal WHERE subject_id = ? ORDER BY seq", id_)
    assert [kind for kind, _operation in events] == ["message.created", "message.completed"]
    assert len({operation for _kind, operation in events}) == 1
