"""What checkpoints have of the memory, and what a restore means for embeddings, which they do not have."""

from __future__ import annotations

from collections.abc import Mapping

from nexus.journal.operation import Operation
from nexus.memory import kept_store
from nexus.memory.continue_points.store import CONTINUE_POINTS
from nexus.memory.episodes.store import EPISODES
from nexus.records.checkpointed import Changes, Part, Rowset, Rules, checkpoint_rules, checkpointed
from nexus.store import Transaction

__all__ = ["PARTS"]

PARTS = (
    Part(
        "episode",
        EPISODES.rows,
        EPISODES,
        frozenset({"embedding"}),
        deleted=("type",),
        texts=frozenset({"summary", "content"}),
        order=10,
    ),
    Part("continue_point", CONTINUE_POINTS.rows, CONTINUE_POINTS, deleted=("task_id",), order=11),
)
"""What a checkpoint has of the memory; chunks are read from files again."""


def _deleting(
    tx: Transaction, _operation: Operation, project_id: str, changes: Mapping[str, Changes], _now: Mapping[str, Rowset]
) -> None:
    kept_store.keep(tx, project_id, changes["episode"].removed)


def _after(
    tx: Transaction,
    _operation: Operation,
    project_id: str,
    changes: Mapping[str, Changes],
    _wanted: Mapping[str, Rowset],
) -> None:
    kept_store.put_back(tx, project_id, changes["episode"].added)


for _part in PARTS:
    checkpointed(_part)
checkpoint_rules(Rules(deleting=_deleting, after=_after, pruned=kept_store.prune))
