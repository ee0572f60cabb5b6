"""Conversations: their fields, what metadata tells, lists, forks, what goes with them and what stays."""

from __future__ import annotations

import uuid

import msgspec
import pytest
from nexus_protocol import InvalidArgument
from support.conversations import Conversations
from support.projects import Speaker

from nexus.conversations.commands import (
    CreateConversation,
    CreateMessage,
    DeleteConversation,
    ForkConversation,
    GetConversation,
    GetMessage,
    ListConversations,
    ListMessages,
    UpdateConversation,
)
from nexus.conversations.errors import (
    ConversationChanged,
    ConversationIdTaken,
    ConversationNotFound,
    ConversationSourceTaken,
    MessageNotFound,
)
from nexus.conversations.records import MessagePart
from nexus.conversations.states import PartKind, Role
from nexus.jobs.commands import CreateJob, DeleteJob, GetJob, ListJobs
from nexus.jobs.errors import JobInvalid
from nexus.projects.commands import CreateProject, DeleteProject


def test_conversation_has_the_defaults_of_the_seed(nexus: Conversations) -> None:
    made = nexus.client.call(CreateConversation())
    assert (made.title, made.metadata, made.messages, made.created_at) == ("New Conversation", {}, 0, made.updated_at)
    assert nexus.client.call(GetConversation(str(made.number))) == made
    assert nexus.client.call(GetConversation(made.id[:8])) == made


def test_20_recent_ones_by_their_last_change_are_listed_by_default(nexus: Conversations) -> None:
    made = [nexus.create(f"c{number}") for number in range(22)]
    nexus.add(made[0], "hello")
    page = nexus.client.call(ListConversations())
    assert len(page.conversations) == 20
    assert page.conversations[0].id == made[0].id
    assert page.conversations[0].updated_at >= made[0].updated_at
    last = nexus.client.call(ListConversations(cursor=page.next_cursor))
    assert len(last.conversations) == 2


def test_tags_archived_and_pinned_live_in_metadata(nexus: Conversations) -> None:
    made = nexus.create(metadata={"tags": ["prod", "deploy", 7], "archived": True, "other": [1, None]})
    assert (made.tags, made.archived, made.pinned) == (["prod", "deploy"], True, False)
    assert made.metadata == {"tags": ["prod", "deploy", 7], "archived": True, "other": [1, None]}
    plain = nexus.create(tags=["prod"], pinned=True)
    assert plain.metadata == {"tags": ["prod"], "pinned": True}

    def found(**filters: object) -> set[str]:
        page = nexus.client.call(ListConversations(limit=1000, **filters))  # type: ignore[arg-type]
        return {each.id for each in page.conversations}

    assert found(tag="prod") == {made.id, plain.id}
    assert found(tag="deploy") == found(archived=True) == found(archived=True, tag="prod") == {made.id}
    assert found(archived=False) == found(pinned=True) == {plain.id}
    changed = nexus.client.call(UpdateConversation(made.id, archived=False, tags=[]))
    assert changed.metadata == {"tags": [], "archived": False, "other": [1, None]}
    assert (changed.tags, changed.revision, changed.title) == ([], 2, made.title)
    assert found(tag="deploy") == set()
    assert nexus.client.call(UpdateConversation(made.id, metadata={})).metadata == {}
    error = nexus.client.call_error(UpdateConversation(made.id, title="x", if_revision=1))
    assert isinstance(error, ConversationChanged)


@pytest.mark.parametrize(
    ("title", "words"),
    [
        ("", "expected at least 1 character"),
        ("x" * 1001, "expected at most 1000 characters"),
        ("a\nb", "expected one line of text, without control characters"),
    ],
    ids=["empty", "long", "lines"],
)
def test_title_is_refused_with_what_is_wrong_with_it(nexus: Conversations, title: str, words: str) -> None:
    error = nexus.client.call_error(CreateConversation(title))
    assert error.message == f"cannot accept title: {words}"


def test_metadata_has_its_bounds(nexus: Conversations) -> None:
    made = nexus.create()
    for command in (
        CreateConversation(metadata={"x": "y" * 17_000}),
        UpdateConversation(made.id, metadata={"x": "y" * 16_300}, tags=["t" * 64] * 3),
    ):
        assert isinstance(nexus.client.call_error(command), InvalidArgument)


def test_repeated_request_gives_the_same_conversation(nexus: Conversations) -> None:
    id_ = str(uuid.uuid4())
    first = nexus.create("a", id=id_, tags=["x"])
    assert nexus.create("a", id=id_, tags=["x"]) == first
    assert isinstance(nexus.client.call_error(CreateConversation("b", id=id_)), ConversationIdTaken)
    imported = nexus.create("s", source="codex", source_id="1")
    assert nexus.create("other", source="codex", source_id="1") == imported
    error = nexus.client.call_error(CreateConversation("s", source="codex", source_id="1", id=str(uuid.uuid4())))
    assert isinstance(error, ConversationSourceTaken)
    assert isinstance(nexus.client.call_error(CreateConversation(source="codex")), InvalidArgument)


def test_fork_has_the_messages_up_to_one(nexus: Conversations) -> None:
    made = nexus.create("origin", tags=["t"], source="codex", source_id="9")
    first = nexus.add(made, "one")[0]
    parts = [MessagePart(PartKind.TOOL_USE, "{}", "bash", "c"), MessagePart(PartKind.TEXT, "two")]
    nexus.client.call(CreateMessage(made.id, Role.ASSISTANT, parts=parts, parent_id=first.id, tokens=5))
    nexus.add(made, "three")
    fork = nexus.client.call(ForkConversation(made.id, at=2))
    assert (fork.forked_from, fork.forked_at, fork.messages, fork.last_number, fork.tokens) == (made.id, 2, 2, 2, 5)
    assert (fork.title, fork.tags, fork.source_id) == ("origin", ["t"], None)
    one, two = nexus.client.call(ListMessages(fork.id, parts=True)).messages
    assert (one.content, one.number, two.content, two.parts) == ("one", 1, "two", parts)
    assert two.parent_id == one.id != first.id
    nexus.add(fork, "else")
    assert nexus.texts(fork) == ["one", "two", "else"]
    assert nexus.texts(made) == ["one", "two", "three"]
    whole = nexus.client.call(ForkConversation(made.id, title="whole"))
    assert (whole.title, whole.messages) == ("whole", 3)
    id_ = str(uuid.uuid4())
    again = nexus.client.call(ForkConversation(made.id, id=id_))
    assert nexus.client.call(ForkConversation(made.id, id=id_)) == again
    assert isinstance(nexus.client.call_error(ForkConversation(made.id, at=9)), MessageNotFound)
    nexus.client.call(DeleteConversation(made.id))
    assert nexus.texts(fork) == ["one", "two", "else"]


def test_empty_conversation_is_forked(nexus: Conversations) -> None:
    fork = nexus.client.call(ForkConversation(nexus.create().id))
    assert (fork.messages, fork.forked_at) == (0, 0)


def test_deleted_conversation_is_gone_at_once_and_its_jobs_are_unlinked(nexus: Conversations) -> None:
    made = nexus.create("x", source="codex", source_id="7", id=str(uuid.uuid4()))
    message = nexus.add(made, "hello", "two")[1]
    job = nexus.client.call(CreateJob("true", conversation_id=made.id, message_id=message.id, stashed=True))
    assert [each.id for each in nexus.client.call(ListJobs(conversation_id=made.id)).jobs] == [job.id]
    deleted = nexus.client.call(DeleteConversation(made.id))
    assert (deleted.id, deleted.messages) == (made.id, 2)
    for command in (GetConversation(made.id), ListMessages(made.id), CreateMessage(made.id, Role.USER, "x")):
        assert isinstance(nexus.client.call_error(command), ConversationNotFound)
    assert isinstance(nexus.client.call_error(GetMessage(message.id)), MessageNotFound)
    # Its source is free at once.
    assert nexus.create("x", source="codex", source_id="7").id != made.id
    nexus.swept()
    unlinked = nexus.client.call(GetJob(job.id))
    assert (unlinked.conversation_id, unlinked.message_id) == (None, None)
    assert nexus.rows("SELECT count(*) FROM messages WHERE conversation_id = ?", made.id) == [(0,)]
    assert nexus.create("x", id=made.id).number > made.number
    nexus.client.call(DeleteJob(job.id))


def test_job_names_a_conversation_and_a_message_that_exist(nexus: Conversations) -> None:
    made, other = nexus.create(), nexus.create()
    message = nexus.add(made, "hello")[0]
    for fields, words in (
        ({"conversation_id": "c1"}, 'conversation "c1" not found'),
        ({"message_id": f"{made.number}:9"}, f'message "{made.number}:9" not found'),
        (
            {"conversation_id": other.name, "message_id": message.id},
            f"message {message.id} is not of conversation {other.name}",
        ),
    ):
        error = nexus.client.call_error(CreateJob("true", **fields))
        assert isinstance(error, JobInvalid)
        assert error.message == f"cannot submit the job: {words}"


def test_job_is_linked_by_numbers_and_a_repeat_finds_it_once_they_are_gone(nexus: Conversations) -> None:
    made = nexus.create()
    message = nexus.add(made, "hello")[0]
    command = CreateJob("true", message_id=f"{made.number}:1", stashed=True, id=str(uuid.uuid4()))
    job = nexus.client.call(command)
    assert (job.conversation_id, job.message_id) == (made.id, message.id)
    assert nexus.client.call(ListJobs(conversation_id=made.name)).jobs == [job]
    assert nexus.client.call(command) == job
    nexus.client.call(DeleteConversation(made.id))
    nexus.swept()
    again = nexus.client.call(command)
    assert (again.id, again.conversation_id, again.message_id) == (job.id, None, None)
    nexus.client.call(DeleteJob(job.id))


def test_number_is_found_in_its_project_and_goes_with_it(nexus: Conversations) -> None:
    speaker = Speaker(nexus.daemon, "shop")
    speaker.at(None).call(CreateProject("shop"))
    made = speaker.call(CreateConversation("in shop"))
    assert (made.number, made.project) == (1, "shop")
    speaker.call(CreateMessage("1", Role.USER, "hello"))
    assert nexus.get("shop/1:1").content == "hello"
    nexus.client.call(DeleteProject("shop", cascade=True))
    assert isinstance(nexus.client.call_error(GetConversation(made.id)), ConversationNotFound)
    nexus.swept()
    assert nexus.rows("SELECT count(*) FROM messages") == [(0,)]
    speaker.close()


@pytest.mark.parametrize("field", ["updated_at", "messages", "tokens"])
def test_counters_of_messages_are_in_no_image(nexus: Conversations, field: str) -> None:
    made = nexus.create()
    nexus.add(made, "a")
    images = nexus.rows("SELECT before, after FROM journal WHERE row_table = 'conversations' AND row_key = ?", made.id)
    assert len(images) == 1
    assert field not in msgspec.msgpack.decode(images[0][1])
