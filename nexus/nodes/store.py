"""All SQL of nodes that ``records.Table`` does not have."""

from __future__ import annotations

from nexus.nodes.commands import (
    Node,
    NodeAmbiguous,
    NodeChanged,
    NodeCursorInvalid,
    NodeIdTaken,
    NodeNameTaken,
    NodeNotFound,
)
from nexus.records.errors import RecordErrors
from nexus.records.table import Table
from nexus.store import Reader

__all__ = ["NODES", "running_on", "uses"]

NODES = Table(
    Node,
    "nodes",
    kind="node",
    word="node",
    look="node inspect",
    errors=RecordErrors(NodeNotFound, NodeAmbiguous, NodeNameTaken, NodeIdTaken, NodeChanged, NodeCursorInvalid),
    observed=("ip_address", "status", "reason", "drained", "capabilities"),
    volatile=("last_heartbeat",),
    order=("name",),
    descending=False,
    indexed=("status",),
    told=("hostname",),
    state="status",
)


def uses(reader: Reader, node_id: str) -> tuple[int, int]:
    """How many jobs for a node have not ended, and how many schedules submit some for it."""
    jobs = reader.one(
        "SELECT count(*) FROM jobs WHERE node_id = ? AND node_id <> 'local' AND completed_at IS NULL", (node_id,)
    )
    schedules = reader.one("SELECT count(*) FROM schedules WHERE node_id = ?", (node_id,))
    assert jobs is not None
    assert schedules is not None
    return jobs[0], schedules[0]


def running_on(reader: Reader, node_id: str) -> int:
    """How many jobs have a run on a node, or may have one."""
    row = reader.one(
        "SELECT count(*) FROM jobs WHERE status IN ('executing', 'unknown') AND node_id = ? AND run_id IS NOT NULL",
        (node_id,),
    )
    assert row is not None
    count: int = row[0]
    return count
