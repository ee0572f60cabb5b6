"""The handlers of the commands on requirements."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from nexus.capability import Context, handles
from nexus.journal.operation import Operation
from nexus.ledger.features.store import FEATURES
from nexus.ledger.names_store import names_of
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
from nexus.ledger.requirements.errors import RequirementElsewhere, RequirementIdTaken
from nexus.ledger.requirements.records import Requirement
from nexus.ledger.requirements.store import REQUIREMENTS, unlink_feature, write_links
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import lists, updates
from nexus.records.links import Link, link
from nexus.records.scope import Scope
from nexus.store import Reader, Transaction

__all__ = [
    "create_requirement",
    "delete_requirement",
    "get_requirement",
    "link_requirement",
    "list_requirements",
    "unlink_requirement",
    "update_requirement",
    "validate_requirement",
]


def _delete(tx: Transaction, operation: Operation, requirement: Requirement) -> None:
    write_links(tx, requirement.id, ())
    REQUIREMENTS.delete(tx, operation, requirement, ("category",))


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        _delete(tx, operation, REQUIREMENTS.get(tx, each.id))


contents(Contents("requirement", "requirement", numbered(REQUIREMENTS), _delete_all))
link(Link("feature", unlink_feature))

list_requirements = lists(REQUIREMENTS, ListRequirements, "requirements", {"feature": "feature"})
update_requirement = updates(REQUIREMENTS, UpdateRequirement)


@handles(GetRequirement)
async def get_requirement(ctx: Context, command: GetRequirement) -> Requirement:
    def read(reader: Reader) -> Requirement:
        found = REQUIREMENTS.resolve(reader, command.requirement, ctx.scope(reader))
        names = names_of(reader, found.project_id, {"feature": found.linked_features})
        return msgspec.structs.replace(found, names=names)

    return await ctx.store.fetch(read)


def _features(tx: Transaction, references: Sequence[str], project_id: str, cannot: str) -> list[str]:
    """The ids of features of the project.

    Raises:
        FeatureNotFound, FeatureAmbiguous: a reference names no single one.
        RequirementElsewhere: one is in another project.
    """
    found = [FEATURES.resolve(tx, reference, Scope(project_id)) for reference in references]
    for feature in found:
        if feature.project_id != project_id:
            raise RequirementElsewhere(
                f'{cannot}: feature "{feature.number}" is in the project "{feature.project}", and the requirement is '
                "in another one",
                details={"feature_id": feature.id, "project": feature.project},
            )
    return list(dict.fromkeys(feature.id for feature in found))


@handles(CreateRequirement)
def create_requirement(tx: Transaction, ctx: Context, command: CreateRequirement) -> Requirement:
    cannot = "cannot create the requirement"
    project_id = ctx.scope(tx).home(cannot)
    fields: dict[str, Any] = msgspec.structs.asdict(command)
    fields["linked_features"] = _features(tx, fields.pop("features") or [], project_id, cannot)
    fields["project_id"] = project_id
    present = None if command.id is None else REQUIREMENTS.by_id(tx, command.id)
    if present is not None:
        return _repeated(present, fields)
    requirement = REQUIREMENTS.insert(tx, ctx.operation, fields)
    write_links(tx, requirement.id, requirement.linked_features)
    return requirement


def _repeated(present: Requirement, fields: dict[str, Any]) -> Requirement:
    """The requirement that the same request made before.

    Raises:
        RequirementIdTaken: it differs from the request.
    """
    wanted = fields | {"tags": list(dict.fromkeys(fields["tags"] or []))}
    if all((getattr(present, field) or None) == (value or None) for field, value in wanted.items()):
        return present
    raise RequirementIdTaken(
        f'cannot create the requirement: requirement "{present.number}" has the id {present.id} and differs from this '
        "request",
        hint="To repeat a request, give the fields that the requirement has now; for another one choose another id.",
        details={"id": present.id, "number": present.number},
    )


def _named(tx: Transaction, ctx: Context, command: Any, verb: str) -> tuple[Requirement, str]:
    """The requirement of a command, and the beginning of a sentence about it."""
    requirement = REQUIREMENTS.resolve(tx, command.requirement, ctx.scope(tx))
    cannot = f'cannot {verb} requirement "{requirement.number}"'
    REQUIREMENTS.expect(requirement, cannot, command.if_revision, getattr(command, "if_state_revision", None))
    return requirement, cannot


@handles(DeleteRequirement)
def delete_requirement(tx: Transaction, ctx: Context, command: DeleteRequirement) -> Requirement:
    requirement, _cannot = _named(tx, ctx, command, "delete")
    _delete(tx, ctx.operation, requirement)
    return requirement


@handles(LinkRequirement)
def link_requirement(tx: Transaction, ctx: Context, command: LinkRequirement) -> Requirement:
    requirement, cannot = _named(tx, ctx, command, "link features to")
    wanted = _features(tx, command.features, requirement.project_id, cannot)
    return _write(tx, ctx, requirement, list(dict.fromkeys([*requirement.linked_features, *wanted])))


@handles(UnlinkRequirement)
def unlink_requirement(tx: Transaction, ctx: Context, command: UnlinkRequirement) -> Requirement:
    requirement, _cannot = _named(tx, ctx, command, "unlink features from")
    scope = Scope(requirement.project_id)
    unwanted = {FEATURES.resolve(tx, reference, scope).id for reference in command.features}
    return _write(tx, ctx, requirement, [id_ for id_ in requirement.linked_features if id_ not in unwanted])


def _write(tx: Transaction, ctx: Context, requirement: Requirement, feature_ids: list[str]) -> Requirement:
    write_links(tx, requirement.id, feature_ids)
    return REQUIREMENTS.update(tx, ctx.operation, requirement, {"linked_features": feature_ids})


@handles(ValidateRequirement)
def validate_requirement(tx: Transaction, ctx: Context, command: ValidateRequirement) -> Requirement:
    requirement, _cannot = _named(tx, ctx, command, "validate")
    return REQUIREMENTS.update(tx, ctx.operation, requirement, {"validated": command.validated})
