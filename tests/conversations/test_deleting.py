"""What goes in steps: conversations of many messages, also over the death of the daemon; and forks that are cut off."""

from __future__ import annotations

import contextlib
import sqlite3

from support.conversations import Conversations

from nexus.conversations.commands import DeleteConversation, ForkConversation, ListConversations
from nexus.jobs.commands import CreateJob, GetJob


def test_sweep_goes_on_after_the_death_of_the_daemon(own: Conversations) -> None:
    made = own.create(tags=["t"])
    own.add_many(made, 1500)
    job = own.client.call(CreateJob("true", conversation_id=made.id, stashed=True))
    own.client.call(DeleteConversation(made.id))
    own.daemon.kill()
    own.begin_anew()
    assert own.client.call(ListConversations()).conversations == []
    own.swept()
    for table in ("conversations", "messages", "message_parts", "message_revision"):
        assert own.rows(f"SELECT count(*) FROM {table}") == [(0,)]
    assert own.rows("SELECT count(*) FROM tag") == [(0,)]
    assert own.client.call(GetJob(job.id)).conversation_id is None
    assert own.problems() == []


def test_fork_that_was_cut_off_is_no_conversation(own: Conversations) -> None:
    made = own.create()
    own.add_many(made, 300)
    fork = own.client.call(ForkConversation(made.id))
    assert (fork.messages, fork.last_number) == (300, 300)
    assert own.daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(own.daemon.database)) as database, database:
        # As it is between two steps.
        database.execute("UPDATE conversations SET hidden = 'copying', project_id = NULL WHERE id = ?", (fork.id,))
    own.begin_anew()
    assert [each.id for each in own.client.call(ListConversations()).conversations] == [made.id]
    own.swept()
    assert own.rows("SELECT count(*) FROM messages") == [(300,)]


def test_fork_of_many_messages_is_complete(own: Conversations) -> None:
    made = own.create()
    own.add_many(made, 1001)
    fork = own.client.call(ForkConversation(made.id, at=1000))
    assert (fork.messages, fork.last_number, fork.forked_at) == (1000, 1000, 1000)
    assert own.texts(fork, at_end=True, limit=2) == own.texts(made, before=1001, limit=2)
    assert own.problems() == []
