"""``nexusctl sub-feature``: the verbs of sub-features, and how they are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nexus.cli.output import Column, format_time
from nexus.cli.records import Noun, make_create, make_delete, make_inspect, make_list, make_update, names_starting
from nexus.cli.verbs import NounGroup, completers
from nexus.ledger.cli.features import SUGGESTIONS
from nexus.ledger.features.commands import (
    CreateSubFeature,
    DeleteSubFeature,
    GetSubFeature,
    ListSubFeatures,
    UpdateSubFeature,
)
from nexus.ledger.features.records import SubFeature, SubFeatureDeleted, SubFeaturePage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["sub_feature"]

_SUB_FEATURE = Noun("sub-feature", "sub-features", "sub-feature", SubFeaturePage.sub_features)
_COLUMNS: tuple[Column[SubFeature], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("STATUS", lambda one: one.status, 12),
    Column("NAME", lambda one: one.name, 30),
    Column("FEATURE", lambda one: one.feature_id, wide=True),
    Column("CREATED", lambda one: format_time(one.created_at), wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: SubFeature) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("Name", one.name),
        ("ID", one.id),
        ("Project", one.project),
        ("Feature", one.feature_id),
        ("Status", one.status),
        ("Description", one.description),
        ("Created", format_time(one.created_at)),
    ]


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListSubFeatures(limit=10_000), _SUB_FEATURE, incomplete)


completers["sub-feature"] = _complete

sub_feature = NounGroup(
    "sub-feature",
    "Manage the parts of features.",
    {
        "create": (
            "Create a sub-feature of a feature.",
            lambda: make_create(CreateSubFeature, _SUB_FEATURE, told=lambda one: one.name),
        ),
        "list": ("List sub-features.", lambda: make_list(ListSubFeatures, _SUB_FEATURE, _COLUMNS)),
        "inspect": ("Show sub-features.", lambda: make_inspect(GetSubFeature, _SUB_FEATURE, _lines)),
        "update": ("Change a sub-feature, or its status.", lambda: make_update(UpdateSubFeature, _SUB_FEATURE)),
        "delete": (
            "Delete sub-features.",
            lambda: make_delete(
                GetSubFeature, DeleteSubFeature, _SUB_FEATURE, lambda reply: reply.part(SubFeatureDeleted.sub_feature)
            ),
        ),
    },
    SUGGESTIONS,
)
