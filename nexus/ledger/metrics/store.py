"""The SQL of metrics."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from nexus.journal.operation import Operation
from nexus.journal.rows import append_only
from nexus.ledger.states import MetricType
from nexus.store import Transaction

__all__ = ["add"]

append_only("metrics", "the rows themselves, which are never changed")


def add(
    tx: Transaction,
    operation: Operation,
    *,
    project_id: str,
    type: MetricType,
    value: float,
    agent_id: str | None = None,
    task_id: str | None = None,
    metadata: dict[str, Any] | None = None,
    source: str | None = None,
    timestamp: int | None = None,
) -> None:
    """Add a metric."""
    del operation
    tx.execute(
        "INSERT INTO metrics (id, project_id, agent_id, task_id, type, value, metadata, source, timestamp) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            str(uuid.uuid4()),
            project_id,
            agent_id,
            task_id,
            type.value,
            value,
            msgspec.json.encode(metadata or {}).decode(),
            source,
            timestamp or tx.now,
        ),
    )
