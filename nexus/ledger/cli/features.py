"""``nexusctl feature``: the verbs of features, and how features are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, format_time
from nexus.cli.records import Noun, make_create, make_delete, make_inspect, make_list, make_update, names_starting
from nexus.cli.verbs import NounGroup, Values, completers, verb
from nexus.ledger.features.commands import (
    CreateFeature,
    DeleteFeature,
    GetFeature,
    ListFeatures,
    SyncFeatures,
    UpdateFeature,
)
from nexus.ledger.features.records import Feature, FeatureDeleted, FeaturePage, StatusProposal, SyncedFeatures

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["SUGGESTIONS", "feature"]

_FEATURE = Noun("feature", "features", "feature", FeaturePage.features)
_COLUMNS: tuple[Column[Feature], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("STATUS", lambda one: one.status, 12),
    Column("PRIORITY", lambda one: one.priority, 8),
    Column("TASKS", lambda one: f"{one.completed_tasks}/{max(one.tasks, one.estimated_tasks)}", 7),
    Column("DONE", lambda one: f"{one.percentage}%", 4),
    Column("NAME", lambda one: one.name, 30),
    Column("COMPLEXITY", lambda one: one.complexity, wide=True),
    Column("TAGS", lambda one: ", ".join(one.tags) or None, wide=True),
    Column("CREATED", lambda one: format_time(one.created_at), wide=True),
    Column("ID", lambda one: one.id, wide=True),
)
_PROPOSALS: tuple[Column[StatusProposal], ...] = (
    Column("KIND", lambda one: one.kind, 11),
    Column("NUMBER", lambda one: one.number, 6),
    Column("STATUS", lambda one: one.status, 12),
    Column("PROPOSED", lambda one: one.proposed, 12),
    Column("TASKS", lambda one: ", ".join(f"{count} {status}" for status, count in one.tasks.items()), 20),
    Column("NAME", lambda one: one.name),
)
SUGGESTIONS = {
    **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
    **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
    "ls": " (did you mean 'list'?)",
    **dict.fromkeys(("edit", "move"), " (did you mean 'update'?)"),
    **dict.fromkeys(("add", "new"), " (did you mean 'create'?)"),
}


def _lines(one: Feature) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("Name", one.name),
        ("ID", one.id),
        ("Project", one.project),
        ("Status", one.status),
        ("Priority", one.priority),
        ("Complexity", one.complexity),
        ("Tasks", f"{one.tasks}, {one.completed_tasks} completed ({one.estimated_tasks} estimated)"),
        ("Done", f"{one.percentage}%"),
        ("Tags", ", ".join(one.tags) or None),
        ("Description", one.description),
        ("Created", format_time(one.created_at)),
    ]


def _make_sync() -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        is_applied = values.flag("yes")
        reply = app.fetch(values.build(SyncFeatures, feature=values.text("given"), apply=is_applied))
        proposals = reply.rows(SyncedFeatures.proposals)
        out.many(proposals, _PROPOSALS, name=lambda one: one.number, nothing="No other status is proposed.")
        if proposals and out.for_person:
            click.echo("These statuses were set." if is_applied else "Nothing was set; --yes sets them.", err=True)

    given = click.Argument(["given"], metavar="[FEATURE]", required=False)
    yes = click.Option(["-y", "--yes"], is_flag=True, help="Set the statuses.")
    return verb(SyncFeatures, run, parameters=[given, yes], exclude=("feature", "apply"), help=_SYNC_HELP)


_SYNC_HELP = """Propose the statuses that the tasks of features speak for; --yes sets them."""


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListFeatures(limit=10_000), _FEATURE, incomplete)


completers["feature"] = _complete

feature = NounGroup(
    "feature",
    "Manage features.",
    {
        "create": ("Create a feature.", lambda: make_create(CreateFeature, _FEATURE, told=lambda one: one.name)),
        "list": ("List features with their progress.", lambda: make_list(ListFeatures, _FEATURE, _COLUMNS)),
        "inspect": ("Show features.", lambda: make_inspect(GetFeature, _FEATURE, _lines)),
        "update": ("Change a feature, or its status.", lambda: make_update(UpdateFeature, _FEATURE)),
        "sync": ("Propose statuses by the tasks; --yes sets them.", _make_sync),
        "delete": (
            "Delete features.",
            lambda: make_delete(GetFeature, DeleteFeature, _FEATURE, lambda reply: reply.part(FeatureDeleted.feature)),
        ),
    },
    SUGGESTIONS,
)
