"""The rows of episodes."""

from __future__ import annotations

from nexus.journal.rows import Rows

__all__ = ["EPISODES"]

EPISODES = Rows(
    "episodes",
    (
        *("id", "number", "project_id", "type", "content", "summary", "embedding", "context", "task_id", "agent_id"),
        *("importance", "tags", "access_count", "last_accessed_at", "created_at", "updated_at", "revision"),
        *("state_revision", "doc"),
    ),
    kind="episode",
    volatile=("embedding", "access_count", "last_accessed_at"),
)
