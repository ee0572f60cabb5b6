"""The handlers of the commands on checkpoints."""

from __future__ import annotations

from typing import Any

from nexus_protocol import encode_record

from nexus.capability import PAGE_BYTES, Context, handles
from nexus.checkpoints import recovery
from nexus.checkpoints.commands import (
    CreateCheckpoint,
    DeleteCheckpoint,
    DiffCheckpoints,
    GetCheckpoint,
    GetCheckpointState,
    ListCheckpoints,
    RestoreCheckpoint,
    UpdateCheckpoint,
)
from nexus.checkpoints.errors import CheckpointElsewhere
from nexus.checkpoints.making import READ_S, keep, take
from nexus.checkpoints.planning import count, described, differences, read_state
from nexus.checkpoints.records import Checkpoint, CheckpointDiff, CheckpointState, RestoredCheckpoint
from nexus.checkpoints.restoring import dry_run, restore
from nexus.checkpoints.store import CHECKPOINTS
from nexus.journal.operation import Operation
from nexus.records.checkpointed import ABSENT, all_parts, all_rules
from nexus.records.contents import Contents, Held, contents, numbered
from nexus.records.handlers import gets, lists, updates
from nexus.store import Reader, Transaction

__all__ = [
    "create_checkpoint",
    "delete_checkpoint",
    "diff_checkpoints",
    "get_checkpoint",
    "get_checkpoint_state",
    "list_checkpoints",
    "restore_checkpoint",
    "update_checkpoint",
]

_TOLD = ("name", "automatic")
_BY_HAND = "by hand"


def _delete_held(tx: Transaction, operation: Operation, project_id: str, held: list[Held]) -> None:
    for each in held:
        CHECKPOINTS.delete(tx, operation, CHECKPOINTS.get(tx, each.id), _TOLD)
    for rules in all_rules():
        rules.pruned(tx, project_id)


contents(Contents("checkpoint", "checkpoint", numbered(CHECKPOINTS), _delete_held))
recovery.offer()

get_checkpoint = gets(CHECKPOINTS, GetCheckpoint)
list_checkpoints = lists(CHECKPOINTS, ListCheckpoints, "checkpoints")
update_checkpoint = updates(CHECKPOINTS, UpdateCheckpoint)


@handles(CreateCheckpoint)
async def create_checkpoint(ctx: Context, command: CreateCheckpoint) -> Checkpoint:
    project_id = await ctx.store.fetch(lambda reader: ctx.scope(reader).home("cannot create a checkpoint"))
    return await keep(ctx.store, ctx.operation, project_id, name=command.name or _BY_HAND, reason=command.reason)


@handles(DeleteCheckpoint)
def delete_checkpoint(tx: Transaction, ctx: Context, command: DeleteCheckpoint) -> Checkpoint:
    checkpoint = CHECKPOINTS.resolve(tx, command.checkpoint, ctx.scope(tx))
    cannot = f'cannot delete checkpoint "{checkpoint.number}"'
    CHECKPOINTS.expect(checkpoint, cannot, command.if_revision, command.if_state_revision)
    CHECKPOINTS.delete(tx, ctx.operation, checkpoint, _TOLD)
    for rules in all_rules():
        rules.pruned(tx, checkpoint.project_id)
    return checkpoint


@handles(GetCheckpointState)
async def get_checkpoint_state(ctx: Context, command: GetCheckpointState) -> CheckpointState:
    def read(reader: Reader) -> CheckpointState:
        checkpoint = CHECKPOINTS.resolve(reader, command.checkpoint, ctx.scope(reader))
        state = read_state(reader, checkpoint, f'cannot read checkpoint "{checkpoint.number}"')
        found: list[dict[str, Any]] = []
        passed = size = 0
        for part in all_parts():
            rows = state.rows[part.kind]
            for row in rows.rows.values():
                passed += 1
                if passed <= command.start:
                    continue
                shown = {c: v for c, v in zip(rows.columns, row, strict=True) if v is not None and v is not ABSENT}
                each = {"kind": part.kind, "row": shown}
                size += len(encode_record(each))
                if found and (len(found) == command.limit or size > PAGE_BYTES):
                    return CheckpointState(found, passed - 1)
                found.append(each)
        return CheckpointState(found)

    return await ctx.store.scan(read, limit_s=READ_S)


@handles(DiffCheckpoints)
async def diff_checkpoints(ctx: Context, command: DiffCheckpoints) -> CheckpointDiff:
    def read(reader: Reader) -> CheckpointDiff:
        scope = ctx.scope(reader)
        before = CHECKPOINTS.resolve(reader, command.before, scope)
        cannot = f'cannot compare checkpoint "{before.number}"'
        rows = read_state(reader, before, cannot).rows
        after = None
        if command.after is None:
            others = take(reader, before.project_id).rows
        else:
            after = CHECKPOINTS.resolve(reader, command.after, scope)
            if after.project_id != before.project_id:
                raise CheckpointElsewhere(
                    f'{cannot} with {after.number}: they are of the projects "{before.project}" and "{after.project}"',
                    details={"ids": [before.id, after.id]},
                )
            others = read_state(reader, after, f'cannot compare checkpoint "{after.number}"').rows
        changes = differences(rows, others)
        shown, more = described(rows, others, changes, command.limit)
        return CheckpointDiff(before=before, after=after, counts=count(changes), changes=shown, more=more)

    return await ctx.store.scan(read, limit_s=READ_S)


@handles(RestoreCheckpoint)
async def restore_checkpoint(ctx: Context, command: RestoreCheckpoint) -> RestoredCheckpoint:
    checkpoint = await ctx.store.fetch(
        lambda reader: CHECKPOINTS.resolve(reader, command.checkpoint, ctx.scope(reader))
    )
    if command.dry_run:
        return await dry_run(ctx.store, checkpoint, command.limit)
    return await restore(ctx.store, ctx.operation, checkpoint)
