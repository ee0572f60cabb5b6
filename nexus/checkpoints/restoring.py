"""Restores checkpoints: planned beside the writer, completed and carried out in one transaction."""

from __future__ import annotations

import asyncio

from nexus.checkpoints import applying, store
from nexus.checkpoints.commit import commit_of
from nexus.checkpoints.making import ATTEMPTS, READ_S, Stale, busy, insert, written_since
from nexus.checkpoints.planning import Plan, amended, count, described, make_plan, overlaid
from nexus.checkpoints.records import Checkpoint, RestoredCheckpoint
from nexus.checkpoints.store import CHECKPOINTS
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.journal.rows import Subject, record
from nexus.records.checkpointed import Changes, Rowset, all_parts, all_rules
from nexus.records.errors import RestoreRefused
from nexus.store import Reader, StateStore, Transaction
from nexus.store.fulltext import rewritten_at_once

__all__ = ["dry_run", "restore"]

_ROW_BYTES = 1024
_SHOWN = 5


async def dry_run(database: StateStore, checkpoint: Checkpoint, limit: int) -> RestoredCheckpoint:
    """Tell what a restore would do, without doing it.

    Raises:
        CheckpointDamaged: what the checkpoint keeps cannot be read.
    """

    def look(reader: Reader) -> RestoredCheckpoint:
        plan = make_plan(reader, checkpoint)
        changes, more = described(plan.taken.rows, plan.wanted, plan.changes, limit)
        return RestoredCheckpoint(
            checkpoint=checkpoint,
            dry_run=True,
            counts=count(plan.changes),
            changes=changes,
            more=more,
            leases=plan.leases,
        )

    return await database.scan(look, limit_s=READ_S)


async def restore(database: StateStore, operation: Operation, checkpoint: Checkpoint) -> RestoredCheckpoint:
    """Make the plan of a project what a checkpoint has, after a checkpoint of what is there.

    Raises:
        CheckpointNotFound: it was deleted meanwhile.
        CheckpointDamaged: what it keeps cannot be read.
        CheckpointBusy: the project changes too fast.
        RestoreRefused: what is there does not allow it.
    """
    root = await database.fetch(lambda reader: store.root_of(reader, checkpoint.project_id))
    commit = await commit_of(root)
    for attempt in range(ATTEMPTS):
        plan = await database.scan(lambda reader: make_plan(reader, checkpoint), limit_s=READ_S)
        size = len(plan.taken.data) + _ROW_BYTES * sum(sum(map(len, each)) for each in plan.changes.values())
        try:
            return await database.write(
                lambda tx, plan=plan: _carry_out(tx, operation, plan, commit),  # type: ignore[misc]
                size_bytes=size,
            )
        except Stale:
            await asyncio.sleep(0.05 * attempt)
    raise busy(f'cannot restore checkpoint "{checkpoint.number}"')


def _carry_out(tx: Transaction, operation: Operation, plan: Plan, commit: str | None) -> RestoredCheckpoint:
    checkpoint = CHECKPOINTS.get(tx, plan.checkpoint.id)
    project_id = checkpoint.project_id
    cannot = f'cannot restore checkpoint "{checkpoint.number}"'
    if not all(rules.is_same(tx, outside) for rules, outside in zip(all_rules(), plan.outside, strict=True)):
        raise Stale
    written = written_since(tx, project_id, plan.taken.position)
    here = store.position(tx)
    now = overlaid(plan.taken.rows, written)
    changes = amended(plan.changes, written, now, plan.wanted)
    if applying.nothing(changes) and not store.live_leases(tx, project_id):
        return RestoredCheckpoint(checkpoint=checkpoint)
    fields = {
        "name": f"before the restore of checkpoint {checkpoint.number}",
        "restored_from": checkpoint.id,
        "git_commit": commit,
    }
    before = insert(tx, operation, project_id, plan.taken, written, fields)

    why = f"checkpoint {checkpoint.number} was restored"
    leases = sum(rules.before(tx, operation, project_id, why) for rules in all_rules())
    ended = written_since(tx, project_id, here)
    now = overlaid(now, ended)
    changes = amended(changes, ended, now, plan.wanted)

    for rules in all_rules():
        rules.refuse(tx, cannot, changes, now)
    _refuse_taken_ids(tx, cannot, changes)
    _write(tx, operation, project_id, plan, changes, now)
    counts = count(changes)
    subject = Subject("checkpoint", checkpoint.id, str(checkpoint.number), project_id)
    record(
        tx,
        operation,
        "checkpoint.restored",
        subject,
        {"before": before.id, "counts": counts, "leases": leases},
    )
    return RestoredCheckpoint(checkpoint=checkpoint, before=before, counts=counts, leases=leases)


def _write(
    tx: Transaction,
    operation: Operation,
    project_id: str,
    plan: Plan,
    changes: dict[str, Changes],
    now: dict[str, Rowset],
) -> None:
    """Write the differences: rows come before those that refer to them, and go after them."""
    parts, wanted = all_parts(), plan.wanted
    with rewritten_at_once(tx, _searched(tx, changes)) as inserted:
        for part in parts:
            applying.make_room(tx, part, changes[part.kind], now[part.kind], wanted[part.kind])
        for part in parts:
            inserted += applying.add(tx, operation, part, project_id, changes[part.kind].added, wanted, plan.revisions)
        for part in parts:
            applying.change(tx, operation, part, project_id, changes[part.kind].changed, now, wanted)
        for rules in all_rules():
            rules.deleting(tx, operation, project_id, changes, now)
        for part in reversed(parts):
            applying.remove(tx, operation, part, project_id, changes[part.kind].removed, now)
    for rules in all_rules():
        rules.after(tx, operation, project_id, changes, wanted)


def _searched(tx: Transaction, changes: dict[str, Changes]) -> list[int]:
    """The numbers by which a search knows the rows that go, or get another text."""
    found: list[int] = []
    for part in all_parts():
        if part.texts:
            of = changes[part.kind]
            changed = (id_ for id_, columns in of.changed.items() if not part.texts.isdisjoint(columns))
            found += store.docs_of(tx, part, [*changed, *of.removed])
    return found


def _refuse_taken_ids(tx: Transaction, cannot: str, changes: dict[str, Changes]) -> None:
    """A client may have given the id of a deleted record to one of another project."""
    for part in all_parts():
        taken = store.read_keys(tx, part, changes[part.kind].added)
        if taken:
            raise RestoreRefused(
                f"{cannot}: records of another project have the ids of some that it would bring back",
                hint=f"Look at what it has: {command_line('nexusctl', 'checkpoint', 'list')}",
                details={"ids": list(taken)[:_SHOWN]},
            )
