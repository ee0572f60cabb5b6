"""The SQL of requirements, and of their links to features."""

from __future__ import annotations

from collections.abc import Sequence

from nexus.journal.operation import Operation
from nexus.journal.rows import derived
from nexus.ledger.requirements.errors import (
    RequirementAmbiguous,
    RequirementChanged,
    RequirementCursorInvalid,
    RequirementIdTaken,
    RequirementNotFound,
)
from nexus.ledger.requirements.records import Requirement
from nexus.records.errors import RecordErrors, RecordNameTaken
from nexus.records.table import Table
from nexus.store import Transaction

__all__ = ["REQUIREMENTS", "unlink_feature", "write_links"]

derived("requirement_feature", "the column linked_features of requirements")

REQUIREMENTS = Table(
    Requirement,
    "requirements",
    kind="requirement",
    word="requirement",
    look="requirement inspect",
    errors=RecordErrors(
        RequirementNotFound,
        RequirementAmbiguous,
        RecordNameTaken,
        RequirementIdTaken,
        RequirementChanged,
        RequirementCursorInvalid,
    ),
    order=("number", "id"),
    descending=False,
    indexed=("category", "priority", "validated"),
    told=("category", "priority"),
    searchable=True,
    computed=("names",),
    found_by={"feature": ("requirement_feature", "requirement_id", "feature_id")},
)


def write_links(tx: Transaction, requirement_id: str, feature_ids: Sequence[str]) -> None:
    """Write the rows by which the requirements of a feature are found."""
    tx.execute("DELETE FROM requirement_feature WHERE requirement_id = ?", (requirement_id,))
    for feature_id in feature_ids:
        tx.execute(
            "INSERT INTO requirement_feature (requirement_id, feature_id) VALUES (?, ?)", (requirement_id, feature_id)
        )


def unlink_feature(tx: Transaction, operation: Operation, feature_id: str, limit: int) -> int:
    """Take a feature out of at most ``limit`` requirements; returns how many there were."""
    rows = tx.all(
        f"{REQUIREMENTS.select} JOIN requirement_feature ON requirement_feature.requirement_id = requirements.id "
        "WHERE requirement_feature.feature_id = ? ORDER BY requirements.number LIMIT ?",
        (feature_id, limit),
    )
    for requirement in map(REQUIREMENTS.decode, rows):
        left = [id_ for id_ in requirement.linked_features if id_ != feature_id]
        REQUIREMENTS.update(tx, operation, requirement, {"linked_features": left})
        write_links(tx, requirement.id, left)
    return len(rows)
