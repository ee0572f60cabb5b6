"""``nexusctl requirement``: the verbs of requirements, and how requirements are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from nexus.cli.output import Column, Printer, called, format_time
from nexus.cli.records import (
    Noun,
    make_create,
    make_delete,
    make_inspect,
    make_list,
    make_update,
    name_of,
    names_starting,
)
from nexus.cli.result import Result
from nexus.cli.verbs import NounGroup, Values, completers, for_each, verb
from nexus.ledger.cli.features import SUGGESTIONS
from nexus.ledger.requirements.commands import (
    CreateRequirement,
    DeleteRequirement,
    GetRequirement,
    LinkRequirement,
    ListRequirements,
    UnlinkRequirement,
    UpdateRequirement,
    ValidateRequirement,
)
from nexus.ledger.requirements.records import Requirement, RequirementPage

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["requirement"]

_REQUIREMENT = Noun("requirement", "requirements", "requirement", RequirementPage.requirements)
_COLUMNS: tuple[Column[Requirement], ...] = (
    Column("NUMBER", lambda one: one.number, 6),
    Column("CATEGORY", lambda one: one.category, 14),
    Column("PRIORITY", lambda one: one.priority, 8),
    Column("VALIDATED", lambda one: "yes" if one.validated else "no", 9),
    Column("CONFIDENCE", lambda one: f"{one.confidence:g}", 10),
    Column("FEATURES", lambda one: len(one.linked_features), 8),
    Column("DESCRIPTION", lambda one: " ".join(one.description.split())[:80]),
    Column("SOURCE", lambda one: one.source, wide=True),
    Column("TAGS", lambda one: ", ".join(one.tags) or None, wide=True),
    Column("ID", lambda one: one.id, wide=True),
)


def _lines(one: Requirement) -> list[tuple[str, object]]:
    return [
        ("Number", one.number),
        ("ID", one.id),
        ("Project", one.project),
        ("Category", one.category),
        ("Priority", one.priority),
        ("Validated", "yes" if one.validated else "no"),
        ("Confidence", f"{one.confidence:g}"),
        ("Source", one.source),
        ("Description", one.description),
        *[("User story", text) for text in one.user_stories],
        *[("Criterion", text) for text in one.acceptance_criteria],
        *[("Feature", called(one, id_)) for id_ in one.linked_features],
        ("Tags", ", ".join(one.tags) or None),
        ("Created", format_time(one.created_at)),
    ]


def _make_link(command: type[LinkRequirement | UnlinkRequirement], done: str) -> click.Command:
    def run(app: App, values: Values, out: Printer) -> None:
        out.one(
            app.fetch(values.build(command, features=values.every("given", str))),
            name=name_of,
            sentence=lambda one: click.echo(f'{done} requirement "{one.number}": {len(one.linked_features)} linked'),
        )

    given = click.Argument(["given"], metavar="FEATURE...", nargs=-1, required=True)
    return verb(command, run, parameters=[given], exclude=("features",))


def _make_validate(done: str, *, validated: bool) -> click.Command:
    def run(app: App, values: Values, out: Printer) -> int:
        found: list[Result[Requirement]] = []
        names = values.every("requirement", str)
        code = for_each(names, lambda name: found.append(app.fetch(ValidateRequirement(name, validated))))
        for result in found:
            out.one(result, name=name_of, sentence=lambda one: click.echo(f'{done} requirement "{one.number}"'))
        return code

    return verb(ValidateRequirement, run, exclude=("validated",), variadic=True)


def _complete(app: App, incomplete: str) -> list[str]:
    return names_starting(app, ListRequirements(limit=10_000), _REQUIREMENT, incomplete)


completers["requirement"] = _complete

requirement = NounGroup(
    "requirement",
    "Manage requirements.",
    {
        "create": ("Create a requirement.", lambda: make_create(CreateRequirement, _REQUIREMENT)),
        "list": ("List requirements.", lambda: make_list(ListRequirements, _REQUIREMENT, _COLUMNS)),
        "inspect": ("Show requirements.", lambda: make_inspect(GetRequirement, _REQUIREMENT, _lines)),
        "update": ("Change a requirement.", lambda: make_update(UpdateRequirement, _REQUIREMENT)),
        "link": ("Link features that meet a requirement.", lambda: _make_link(LinkRequirement, "Linked")),
        "unlink": ("Unlink features from a requirement.", lambda: _make_link(UnlinkRequirement, "Unlinked")),
        "validate": ("Confirm requirements.", lambda: _make_validate("Validated", validated=True)),
        "invalidate": (
            "Take the confirmation of requirements back.",
            lambda: _make_validate("Invalidated", validated=False),
        ),
        "delete": (
            "Delete requirements.",
            lambda: make_delete(GetRequirement, DeleteRequirement, _REQUIREMENT),
        ),
    },
    SUGGESTIONS,
)
