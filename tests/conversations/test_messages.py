"""Messages: numbers, pages both ways, edits and deletes with their revisions, blobs, repeated requests."""

from __future__ import annotations

import uuid

import pytest
from nexus_protocol import InvalidArgument
from support.conversations import Conversations
from support.projects import Speaker
from support.raw import connect

from nexus.conversations.commands import (
    AppendMessage,
    CreateMessage,
    DeleteMessage,
    EditMessage,
    GetBlob,
    GetConversation,
    GetMessage,
    GetMessageRevisions,
    ListMessages,
    PutBlob,
)
from nexus.conversations.errors import (
    BlobNotFound,
    ConversationNotFound,
    MessageAmbiguous,
    MessageChanged,
    MessageIdTaken,
    MessageInvalid,
    MessageNotFound,
    MessageSourceTaken,
)
from nexus.conversations.records import MESSAGE_BYTES, MessagePart
from nexus.conversations.states import MessageChange, MessageStatus, PartKind, Role
from nexus.jobs.commands import CreateJob, DeleteJob, GetJob


def test_message_has_what_was_given(nexus: Conversations) -> None:
    made = nexus.create()
    reply = nexus.client.call(
        CreateMessage(made.id, Role.ASSISTANT, "å **b**", metadata={"tokens": 45, "duration": 1234}, model="m-1")
    )
    assert (reply.content, reply.number, reply.tokens) == (None, 1, 45)
    message = nexus.get(reply)
    assert (message.content, message.role, message.status) == ("å **b**", Role.ASSISTANT, MessageStatus.COMPLETE)
    assert (message.metadata, message.model) == ({"tokens": 45, "duration": 1234}, "m-1")
    assert message.parts == []
    assert nexus.get(f"{made.number}:1") == message
    assert nexus.get(message.id[:13]) == message
    conversation = nexus.client.call(GetConversation(made.id))
    assert (conversation.messages, conversation.tokens, conversation.last_number) == (1, 45, 1)
    assert conversation.updated_at == message.created_at
    # The column wins over what metadata says.
    assert nexus.client.call(CreateMessage(made.id, Role.USER, "x", metadata={"tokens": 1}, tokens=2)).tokens == 2
    for wrong in (f"{made.number}:3", f"{made.number}:x", f"{made.number}:", str(uuid.uuid4()), "abc"):
        assert isinstance(nexus.client.call_error(DeleteMessage(wrong)), MessageNotFound), wrong
    assert isinstance(nexus.client.call_error(DeleteMessage("99:1")), ConversationNotFound)


def test_text_and_operation_do_not_keep_a_text_twice(nexus: Conversations) -> None:
    made = nexus.create()
    nexus.client.call(
        CreateMessage(made.id, Role.USER, "a secret sentence", parts=[MessagePart(PartKind.RAW, "secret")])
    )
    nexus.client.call(EditMessage(f"{made.number}:1", "another secret"))
    kept = nexus.rows("SELECT count(*) FROM operation WHERE instr(args, CAST('secret' AS BLOB))")
    assert kept == [(0,)]
    assert nexus.rows("SELECT count(*) FROM journal WHERE instr(detail, 'secret')") == [(0,)]


def test_parts_are_kept_once_and_come_back(nexus: Conversations) -> None:
    made = nexus.create()
    parts = [
        MessagePart(PartKind.THINKING, "hm"),
        MessagePart(PartKind.TEXT, "first"),
        MessagePart(PartKind.TOOL_USE, '{"command":"ls"}', "bash", "c1"),
        MessagePart(PartKind.TOOL_RESULT, "a.txt", "bash", "c1"),
        MessagePart(PartKind.TEXT, "second"),
        MessagePart(PartKind.RAW, "{}"),
    ]
    message = nexus.client.call(CreateMessage(made.id, Role.ASSISTANT, parts=parts))
    assert nexus.get(message).parts == parts
    assert nexus.get(message).content == "first\n\nsecond"
    assert nexus.client.call(ListMessages(made.id)).messages[0].parts == []
    assert nexus.client.call(ListMessages(made.id, parts=True)).messages[0].parts == parts
    bodies = nexus.rows("SELECT kind, body FROM message_parts WHERE message_id = ? AND kind = 'text'", message.id)
    assert bodies == [("text", None), ("text", None)]


def test_pages_go_both_ways_while_messages_come(nexus: Conversations) -> None:
    made = nexus.create()
    nexus.add_many(made, 250)
    expected = [f"text {number}" for number in range(250)]
    assert nexus.texts(made) == expected[:100]
    forward, after = [], 0
    while True:
        page = nexus.client.call(ListMessages(made.id, after=after, limit=30))
        forward += [one.content for one in page.messages]
        nexus.add(made, "later") if after == 0 else None
        if page.after is None:
            break
        after = page.after
    assert forward == [*expected, "later"]
    page = nexus.client.call(ListMessages(made.id, at_end=True, limit=40))
    assert page.after is None
    backward = [one.content for one in page.messages]
    while page.before is not None:
        page = nexus.client.call(ListMessages(made.id, before=page.before, limit=40))
        assert page.after == page.messages[-1].number
        backward = [one.content for one in page.messages] + backward
    assert backward == forward
    assert nexus.client.call(ListMessages(made.id, after=1000)).messages == []
    assert isinstance(nexus.client.call_error(ListMessages(made.id, at_end=True, after=1)), InvalidArgument)


def test_page_ends_at_1_mib_and_has_one_message_at_least(nexus: Conversations) -> None:
    made = nexus.create()
    large = "x" * MESSAGE_BYTES
    nexus.add(made, "small", large, "y" * 600_000, "z" * 600_000)
    assert nexus.texts(made) == ["small"]
    assert nexus.texts(made, after=1) == [large]
    assert [len(text or "") for text in nexus.texts(made, after=2)] == [600_000]
    assert [text[:1] for text in nexus.texts(made, at_end=True) if text] == ["z"]
    error = nexus.client.call_error(CreateMessage(made.id, Role.USER, large + "x"))
    assert isinstance(error, MessageInvalid)
    assert isinstance(nexus.client.call_error(CreateMessage(made.id, Role.USER)), MessageInvalid)


def test_edit_keeps_what_was_there(nexus: Conversations) -> None:
    made = nexus.create()
    call = MessagePart(PartKind.TOOL_USE, "{}", "bash", "c1")
    parts = [MessagePart(PartKind.TEXT, "one"), call, MessagePart(PartKind.TEXT, "two")]
    first = nexus.client.call(CreateMessage(made.id, Role.ASSISTANT, parts=parts, tokens=3))
    edited = nexus.client.call(EditMessage(first.id, "three", tokens=7))
    assert (edited.revision, edited.content, edited.number) == (2, None, 1)
    message = nexus.get(first)
    assert (message.content, message.parts) == ("three", [MessagePart(PartKind.TEXT, "three"), call])
    assert nexus.client.call(GetConversation(made.id)).tokens == 7
    assert nexus.client.call(EditMessage(first.id, "three")).revision == 2
    nexus.client.call(EditMessage(first.id, parts=[MessagePart(PartKind.TEXT, "four")], if_revision=2))
    assert nexus.get(first).parts == []
    found = nexus.client.call(GetMessageRevisions(first.id))
    assert [(one.revision, one.content, one.change) for one in found.revisions] == [
        (2, "three", MessageChange.EDITED),
        (1, "one\n\ntwo", MessageChange.EDITED),
    ]
    assert found.revisions[1].parts == parts
    assert [one.revision for one in nexus.client.call(GetMessageRevisions(first.id, before=2)).revisions] == [1]
    assert isinstance(nexus.client.call_error(EditMessage(first.id, "x", if_revision=2)), MessageChanged)
    assert isinstance(nexus.client.call_error(EditMessage(first.id)), MessageInvalid)


def test_message_that_is_not_found_has_the_way_to_what_may_be_meant(nexus: Conversations) -> None:
    made = nexus.create()
    (message,) = nexus.add(made, "gone")
    nexus.client.call(DeleteMessage(message.id))
    for reference, hint in (
        (made.name, f"A message has two numbers. List them: nexusctl message list {made.name}"),
        (f"{made.name}:1", f"It was deleted. What it was: nexusctl message show --revisions {made.name}:1"),
        (message.id, f"It was deleted. What it was: nexusctl message show --revisions {message.id}"),
        (f"{made.name}:2", None),
    ):
        error = nexus.client.call_error(GetMessage(reference))
        assert isinstance(error, MessageNotFound)
        assert error.hint == hint


def test_deleted_message_leaves_its_text_and_its_number(nexus: Conversations) -> None:
    made = nexus.create()
    one, two = nexus.add(made, "one", "two")
    job = nexus.client.call(CreateJob("true", conversation_id=made.id, message_id=two.id, stashed=True))
    nexus.client.call(DeleteMessage(two.id))
    assert nexus.client.call(GetJob(job.id)).message_id is None
    assert nexus.client.call(GetJob(job.id)).conversation_id == made.id
    assert isinstance(nexus.client.call_error(DeleteMessage(two.id)), MessageNotFound)
    for reference in (two.id, f"{made.number}:2"):
        (revision,) = nexus.client.call(GetMessageRevisions(reference)).revisions
        assert (revision.content, revision.change) == ("two", MessageChange.DELETED)
    assert nexus.client.call(GetMessageRevisions(one.id)).revisions == []
    assert nexus.add(made, "three")[0].number == 3
    assert nexus.texts(made) == ["one", "three"]
    assert nexus.client.call(GetConversation(made.id)).messages == 2
    nexus.client.call(DeleteJob(job.id))


def test_repeated_request_gives_the_same_message(nexus: Conversations) -> None:
    made = nexus.create()
    id_ = str(uuid.uuid4())
    first = nexus.add(made, "a", id=id_)[0]
    assert nexus.add(made, "a", id=id_)[0] == first
    assert isinstance(nexus.client.call_error(CreateMessage(made.id, Role.USER, "b", id=id_)), MessageIdTaken)
    of_source = nexus.add(made, "s", source="codex", source_id="u1")[0]
    assert nexus.add(made, "s", source="codex", source_id="u1")[0] == of_source
    error = nexus.client.call_error(CreateMessage(nexus.create().id, Role.USER, "s", source="codex", source_id="u1"))
    assert isinstance(error, MessageSourceTaken)
    speaker = Speaker(nexus.daemon)
    keyed = [speaker.call(CreateMessage(made.id, Role.USER, "keyed"), key="once") for _ in range(2)]
    assert keyed[0] == keyed[1]
    speaker.close()
    assert nexus.texts(made) == ["a", "s", "keyed"]


def test_prefix_of_several_ids_is_ambiguous(nexus: Conversations) -> None:
    made = nexus.create()
    for number in range(2):
        nexus.add(made, "x", id=f"abcdef01-0000-4000-8000-00000000000{number}")
    assert isinstance(nexus.client.call_error(DeleteMessage("abcdef01")), MessageAmbiguous)


def test_blob_is_stored_once_and_named_by_parts(nexus: Conversations) -> None:
    made = nexus.create()
    data = bytes(range(256)) * 100
    blob = nexus.client.call(PutBlob(data))
    assert nexus.client.call(PutBlob(data)) == blob
    assert nexus.client.call(GetBlob(blob.hash)).data == data
    image = MessagePart(PartKind.IMAGE, name="a.png", media_type="image/png", blob=blob.hash)
    message = nexus.client.call(CreateMessage(made.id, Role.USER, "look", parts=[image]))
    assert nexus.get(message).parts == [image]
    other = MessagePart(PartKind.IMAGE, blob="0" * 64)
    assert isinstance(nexus.client.call_error(CreateMessage(made.id, Role.USER, parts=[other])), BlobNotFound)
    assert isinstance(nexus.client.call_error(GetBlob("0" * 64)), BlobNotFound)
    assert nexus.texts(made) == ["look"]


def test_64_clients_give_every_message_once_with_dense_numbers(nexus: Conversations) -> None:
    made = nexus.create()
    clients = [connect(nexus.daemon) for _ in range(64)]
    sequences = [
        client.begin_many([CreateMessage(made.id, Role.USER, f"{index}.{number}") for number in range(10)])
        for index, client in enumerate(clients)
    ]
    for client, mine in zip(clients, sequences, strict=True):
        for sequence in mine:
            client.payload(sequence)
        client.close()
    messages = nexus.client.call(ListMessages(made.id, limit=1000)).messages
    assert [message.number for message in messages] == list(range(1, 641))
    texts = [message.content or "" for message in messages]
    assert sorted(texts) == sorted(f"{index}.{number}" for index in range(64) for number in range(10))
    for index in range(64):
        assert [text for text in texts if text.startswith(f"{index}.")] == [f"{index}.{number}" for number in range(10)]


def test_repeated_request_succeeds_once_the_message_that_it_answers_is_gone(nexus: Conversations) -> None:
    call = nexus.client.call
    made = nexus.create("T")
    parent = call(CreateMessage(made.id, Role.USER, "a"))
    id_ = str(uuid.uuid4())
    request = CreateMessage(made.id, Role.ASSISTANT, "b", parent_id=f"{made.number}:1", id=id_)
    first = call(request)
    assert first.parent_id == parent.id
    call(DeleteMessage(parent.id))
    assert call(request).id == id_
    with pytest.raises(MessageInvalid) as refused:
        call(CreateMessage(made.id, Role.ASSISTANT, "c", parent_id=parent.id))
    assert refused.value.details == {"path": "parent_id"}
    with pytest.raises(MessageInvalid):
        call(AppendMessage(made.id, Role.ASSISTANT, parent_id="nonsense"))
