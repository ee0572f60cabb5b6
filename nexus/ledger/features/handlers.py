"""The handlers of the commands on features and sub-features."""

from __future__ import annotations

from typing import Any

import msgspec
from nexus_protocol.errors import FailedPrecondition

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.ledger.features.commands import (
    CreateFeature,
    CreateSubFeature,
    DeleteFeature,
    DeleteSubFeature,
    GetFeature,
    GetSubFeature,
    ListFeatures,
    ListSubFeatures,
    SyncFeatures,
    UpdateFeature,
    UpdateSubFeature,
)
from nexus.ledger.features.errors import FeatureNotEmpty, SubFeatureIdTaken, SubFeatureNotEmpty
from nexus.ledger.features.records import (
    Feature,
    FeatureDeleted,
    FeatureKind,
    StatusProposal,
    SubFeature,
    SubFeatureDeleted,
    SyncedFeatures,
)
from nexus.ledger.features.store import (
    FEATURES,
    SUB_FEATURES,
    sub_features_of,
    task_counts,
    with_progress,
)
from nexus.ledger.tasks.store import delete_tasks, tasks_of
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import creates, gets, lists, updates
from nexus.records.links import Target, target, unlinked
from nexus.records.scope import Scope, reference_of
from nexus.store import Reader, Transaction

__all__ = [
    "create_feature",
    "create_sub_feature",
    "delete_feature",
    "delete_sub_feature",
    "get_feature",
    "get_sub_feature",
    "list_features",
    "list_sub_features",
    "sync_features",
    "update_feature",
    "update_sub_feature",
]

_SHOWN = 20
_MAX = 1_000_000
"""More than a project has."""

# What projects hold


def _delete_features(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        unlinked(tx, operation, "feature", each.id)
        FEATURES.delete(tx, operation, FEATURES.get(tx, each.id), ("name",))


def _delete_sub_features(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        SUB_FEATURES.delete(tx, operation, SUB_FEATURES.get(tx, each.id), ("name", "feature_id"))


contents(Contents("sub_feature", "sub-feature", numbered(SUB_FEATURES), _delete_sub_features, needed_by=1))
contents(Contents("feature", "feature", numbered(FEATURES), _delete_features, needed_by=2))


def _feature_ids(reader: Reader, reference: str, scope: Scope) -> dict[str, str]:
    return {"feature": FEATURES.resolve(reader, reference, scope).id}


def _sub_feature_ids(reader: Reader, reference: str, scope: Scope) -> dict[str, str]:
    found = SUB_FEATURES.resolve(reader, reference, scope)
    return {"sub_feature": found.id, "feature": found.feature_id}


target(Target("feature", _feature_ids))
target(Target("sub_feature", _sub_feature_ids))

# Features

create_feature = creates(FEATURES, CreateFeature)
list_features = lists(FEATURES, ListFeatures, "features", complete=with_progress)
_update = updates(FEATURES, UpdateFeature).__nexus_handler__.fn


@handles(GetFeature)
def get_feature(ctx: Context, command: GetFeature) -> Feature:
    def read(reader: Reader) -> Feature:
        return with_progress(reader, [FEATURES.resolve(reader, command.feature, ctx.scope(reader))])[0]

    return ctx.store.read(read, snapshot=True)


@handles(UpdateFeature)
def update_feature(tx: Transaction, ctx: Context, command: UpdateFeature) -> Feature:
    return with_progress(tx, [_update(tx, ctx, command)])[0]


@handles(DeleteFeature)
def delete_feature(tx: Transaction, ctx: Context, command: DeleteFeature) -> FeatureDeleted:
    (feature,) = with_progress(tx, [FEATURES.resolve(tx, command.feature, ctx.scope(tx))])
    cannot = f'cannot delete feature "{feature.number}"'
    FEATURES.expect(feature, cannot, command.if_revision, command.if_state_revision)
    parts = sub_features_of(tx, feature.id)
    tasks = dict.fromkeys(tasks_of(tx, feature_id=feature.id, limit=_MAX))
    for part in parts:
        tasks |= dict.fromkeys(tasks_of(tx, sub_feature_id=part.id, limit=_MAX))
    if (parts or tasks) and not command.cascade:
        line = command_line("nexusctl", "feature", "delete", reference_of(feature), "--cascade")
        raise _not_empty(FeatureNotEmpty, cannot, parts, list(tasks), feature, line)
    delete_tasks(tx, ctx.operation, [id_ for id_, _number, _name in tasks])
    for part in parts:
        SUB_FEATURES.delete(tx, ctx.operation, part, ("name", "feature_id"))
    requirements = unlinked(tx, ctx.operation, "feature", feature.id)
    # The deletion of its tasks has changed what it counts.
    FEATURES.delete(tx, ctx.operation, FEATURES.get(tx, feature.id), ("name",))
    return FeatureDeleted(feature, len(parts), len(tasks), requirements)


def _listed(word: str, records: list[tuple[int, str]]) -> str:
    """``2 tasks (3 "Log in", 4 "Log out")``; nothing where there are none."""
    if not records:
        return ""
    shown = ", ".join(f'{number} "{name}"' for number, name in records[:_SHOWN])
    more = ", …" if len(records) > _SHOWN else ""
    return f"{len(records)} {word}{'s' * (len(records) > 1)} ({shown}{more})"


def _not_empty(
    error: type[FailedPrecondition],
    cannot: str,
    parts: list[SubFeature],
    tasks: list[tuple[str, int, str]],
    record: Feature | SubFeature,
    line: str,
) -> FailedPrecondition:
    """The error for the deletion of what has sub-features or tasks."""
    of_parts = [(part.number, part.name) for part in parts]
    of_tasks = [(number, name) for _id, number, name in tasks]
    held = [text for text in (_listed("sub-feature", of_parts), _listed("task", of_tasks)) if text]
    return error(
        f"{cannot}: it has {' and '.join(held)}",
        hint=f"Delete them too: {line}",
        details={
            "id": record.id,
            "number": record.number,
            "sub_features": [{"number": number, "name": name} for number, name in of_parts[:_SHOWN]],
            "tasks": [{"number": number, "name": name} for number, name in of_tasks[:_SHOWN]],
        },
    )


@handles(SyncFeatures)
def sync_features(tx: Transaction, ctx: Context, command: SyncFeatures) -> SyncedFeatures:
    cannot = "cannot propose statuses of features"
    feature = None if command.feature is None else FEATURES.resolve(tx, command.feature, ctx.scope(tx))
    project_id = ctx.scope(tx).home(cannot) if feature is None else feature.project_id
    proposals = []
    for one in task_counts(tx, project_id, None if feature is None else feature.id):
        proposed = one.proposed()
        if proposed is None or proposed is one.status:
            continue
        proposals.append(StatusProposal(one.kind, one.id, one.number, one.name, one.status, proposed, one.tasks))
        if command.apply:
            table: Any = FEATURES if one.kind is FeatureKind.FEATURE else SUB_FEATURES
            table.update(tx, ctx.operation, table.get(tx, one.id), {"status": proposed})
    return SyncedFeatures(proposals, command.apply)


# Sub-features

get_sub_feature = gets(SUB_FEATURES, GetSubFeature)
list_sub_features = lists(SUB_FEATURES, ListSubFeatures, "sub_features", links={"feature_id": "feature"})
update_sub_feature = updates(SUB_FEATURES, UpdateSubFeature)


@handles(CreateSubFeature)
def create_sub_feature(tx: Transaction, ctx: Context, command: CreateSubFeature) -> SubFeature:
    feature = FEATURES.resolve(tx, command.feature_id, ctx.scope(tx))
    fields = msgspec.structs.asdict(command) | {"feature_id": feature.id}
    present = None if command.id is None else SUB_FEATURES.by_id(tx, command.id)
    if present is None:
        return SUB_FEATURES.insert(tx, ctx.operation, fields | {"project_id": feature.project_id})
    if all(getattr(present, field) == value for field, value in fields.items()):
        return present
    raise SubFeatureIdTaken(
        f'cannot create sub-feature "{command.name}": sub-feature "{present.number}" has the id {present.id} and '
        "differs from this request",
        hint="To repeat a request, give the fields that the sub-feature has now; for another one choose another id.",
        details={"id": present.id, "number": present.number},
    )


@handles(DeleteSubFeature)
def delete_sub_feature(tx: Transaction, ctx: Context, command: DeleteSubFeature) -> SubFeatureDeleted:
    record = SUB_FEATURES.resolve(tx, command.sub_feature, ctx.scope(tx))
    cannot = f'cannot delete sub-feature "{record.number}"'
    SUB_FEATURES.expect(record, cannot, command.if_revision, command.if_state_revision)
    tasks = tasks_of(tx, sub_feature_id=record.id, limit=_MAX)
    if tasks and not command.cascade:
        line = command_line("nexusctl", "sub-feature", "delete", reference_of(record), "--cascade")
        raise _not_empty(SubFeatureNotEmpty, cannot, [], tasks, record, line)
    delete_tasks(tx, ctx.operation, [id_ for id_, _number, _name in tasks])
    SUB_FEATURES.delete(tx, ctx.operation, record, ("name", "feature_id"))
    return SubFeatureDeleted(record, len(tasks))
