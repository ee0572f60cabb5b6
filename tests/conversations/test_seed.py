"""The tables, columns, defaults, indexes and queries that users of NexusCLI know are there under their names."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from nexus.conversations.commands import CreateConversation, ListConversations, ListMessages
from nexus.conversations.store import CONVERSATIONS
from nexus.store.connection import connect
from nexus.store.migrate import migrate, target_version

COLUMNS = {
    "conversations": "id title created_at updated_at metadata",
    "messages": "id conversation_id role content created_at metadata",
    "jobs": "id conversation_id message_id node_id tool command status exit_code stdout stderr duration created_at "
    "started_at completed_at",
    "nodes": "id hostname ip_address status capabilities last_heartbeat created_at",
}
INDEXES = {
    "idx_conversations_updated_at": ("conversations", "updated_at"),
    "idx_messages_conversation_id": ("messages", "conversation_id"),
    "idx_messages_created_at": ("messages", "created_at"),
    "idx_jobs_conversation_id": ("jobs", "conversation_id"),
    "idx_jobs_status": ("jobs", "status"),
    "idx_jobs_created_at": ("jobs", "created_at"),
    "idx_nodes_status": ("nodes", "status"),
}
FOREIGN_KEYS = {
    ("messages", "conversation_id", "conversations"),
    ("jobs", "conversation_id", "conversations"),
    ("jobs", "message_id", "messages"),
}
QUERIES = [
    ("SELECT * FROM conversations WHERE id = 'x'", "SEARCH"),
    ("SELECT * FROM conversations ORDER BY updated_at DESC LIMIT 20", "USING INDEX idx_conversations_updated_at"),
    (
        "SELECT * FROM messages WHERE conversation_id = 'x' ORDER BY number ASC LIMIT 100",
        "USING INDEX idx_messages_conversation_id",
    ),
    ("SELECT * FROM messages ORDER BY created_at ASC LIMIT 100", "USING INDEX idx_messages_created_at"),
    (
        "SELECT * FROM jobs WHERE project_id = 'p' AND conversation_id = 'x' ORDER BY seq DESC LIMIT 100",
        "USING INDEX idx_jobs_project_conversation",
    ),
    ("SELECT * FROM jobs WHERE message_id = 'x'", "USING INDEX idx_jobs_message_id"),
]


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    """An empty database of the newest schema."""
    with contextlib.closing(connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, 0, target_version())
        yield connection


@pytest.mark.parametrize("table", COLUMNS)
def test_every_column_is_there(schema: sqlite3.Connection, table: str) -> None:
    assert set(COLUMNS[table].split()) <= {row[1] for row in schema.execute(f"PRAGMA table_info({table})")}


@pytest.mark.parametrize("name", INDEXES)
def test_every_index_is_there(schema: sqlite3.Connection, name: str) -> None:
    table, column = INDEXES[name]
    assert name in {row[1] for row in schema.execute(f"PRAGMA index_list({table})")}
    assert schema.execute(f"PRAGMA index_info({name})").fetchall()[0][2] == column


def test_every_foreign_key_is_there(schema: sqlite3.Connection) -> None:
    found = {
        (table, row[3], row[2])
        for table in ("messages", "jobs")
        for row in schema.execute(f"PRAGMA foreign_key_list({table})")
    }
    assert found >= FOREIGN_KEYS


@pytest.mark.parametrize(("sql", "plan"), QUERIES)
def test_every_query_has_its_index(schema: sqlite3.Connection, sql: str, plan: str) -> None:
    steps = " / ".join(row[3] for row in schema.execute(f"EXPLAIN QUERY PLAN {sql}"))
    assert plan in steps
    assert "TEMP B-TREE" not in steps


@pytest.mark.parametrize("filters", ["", "project_id = 'p'", "archived = 0", "project_id = 'p' AND pinned = 1"])
def test_visible_conversations_are_listed_by_an_index(schema: sqlite3.Connection, filters: str) -> None:
    where = f" WHERE {filters}" if filters else ""
    sql = f"{CONVERSATIONS.select}{where} ORDER BY conversations.updated_at DESC, conversations.id DESC LIMIT 20"
    steps = [row[3] for row in schema.execute(f"EXPLAIN QUERY PLAN {sql}")]
    assert any("USING INDEX idx_conversations" in step for step in steps)
    assert not any("TEMP B-TREE" in step or "MATERIALIZE" in step or "CO-ROUTINE" in step for step in steps)


def test_defaults_are_those_that_they_know(schema: sqlite3.Connection) -> None:
    schema.execute("INSERT INTO projects (id, name, created_at, updated_at) VALUES ('p', 'p', 0, 0)")
    schema.execute(
        "INSERT INTO conversations (id, number, project_id, created_at, updated_at, doc) VALUES ('c', 1, 'p', 0, 0, 1)"
    )
    assert schema.execute("SELECT title FROM conversations").fetchall() == [("New Conversation",)]
    assert CreateConversation().title == "New Conversation"
    assert (ListConversations().limit, ListMessages("1").limit) == (20, 100)


def test_what_stands_for_the_rest_is_listed() -> None:
    page = (Path(__file__).parents[2] / "docs" / "work.md").read_text(encoding="utf-8")
    for text in ("ON DELETE CASCADE", "ON DELETE SET NULL", "GET /api/v1/conversations/:id", "ORDER BY created_at"):
        assert text in page
