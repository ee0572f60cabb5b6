"""The handlers that read the plan of a project in pages, and that add parts of one."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import msgspec
from nexus_protocol.errors import InvalidArgument

from nexus.capability import PAGE_BYTES, Context, handles
from nexus.graph import any_cycle
from nexus.journal.rows import Subject
from nexus.ledger.agents.store import AGENTS
from nexus.ledger.features.store import FEATURES
from nexus.ledger.files import store
from nexus.ledger.files.commands import ReadPlan, WritePlan
from nexus.ledger.files.errors import PlanCursorInvalid, PlanIdTaken, PlanInvalid
from nexus.ledger.files.records import PLAN_KINDS, PlanPage, PlanTask, PlanWritten
from nexus.ledger.metrics import store as metrics
from nexus.ledger.requirements.store import write_links
from nexus.ledger.sessions.records import DATA_BYTES
from nexus.ledger.states import AgentStatus, SessionStatus, TaskReason, TaskStatus
from nexus.ledger.tasks import dependencies_store as dependencies
from nexus.ledger.tasks.moves import recount_below
from nexus.ledger.tasks.store import TASKS, put_comment, put_note
from nexus.records.handlers import check_values
from nexus.records.pages import decode_cursor, encode_cursor
from nexus.records.project_settings import project_setting
from nexus.records.scope import project_name
from nexus.records.table import keep_number
from nexus.store import Reader, Transaction

__all__ = ["read_plan", "write_plan"]

_CANNOT_READ = "cannot read the plan"
_CANNOT = "cannot write the plan"
_LIMIT_S = 10.0
_AT_ONCE = 200


# Reading


@handles(ReadPlan)
async def read_plan(ctx: Context, command: ReadPlan) -> PlanPage:
    return await ctx.store.scan(lambda reader: _page(reader, ctx, command), limit_s=_LIMIT_S)


def _page(reader: Reader, ctx: Context, command: ReadPlan) -> PlanPage:
    project_id = ctx.scope(reader).home(_CANNOT_READ)
    kinds = [kind for kind in PLAN_KINDS if command.figures or kind not in store.FIGURES]
    bound = ("plan", project_id, command.figures)
    if command.cursor is None:
        at, seq = store.Position(kinds[0], 0, ""), store.last_change(reader)
    else:
        hint = "Read the plan from the start."
        type_ = tuple[str, int, str, int]
        *position, seq = decode_cursor(command.cursor, bound, type_, PlanCursorInvalid, hint)
        at = store.Position(*position)
    agents = store.agent_names(reader)
    found: dict[str, list[Any]] = {}
    left, size = command.limit, 0
    next_at: store.Position | None = None
    for kind in kinds[kinds.index(at.kind) :] if at.kind in kinds else ():
        here = at if kind == at.kind else store.Position(kind, 0, "")
        while next_at is None:
            rows = store.page_of(reader, project_id, here, _AT_ONCE, agents)
            for position_, record in rows:
                length = store.size_of(record)
                if left == 0 or (size and size + length > PAGE_BYTES):
                    next_at = here
                    break
                found.setdefault(kind, []).append(record)
                left, size, here = left - 1, size + length, position_
            if len(rows) < _AT_ONCE:
                break
        if next_at is not None:
            break
    return PlanPage(
        **found,
        numbers=store.numbers_of(reader, project_id) if command.cursor is None else {},
        changed=command.cursor is not None and store.changed_since(reader, project_id, seq),
        next_cursor=None if next_at is None else encode_cursor(bound, (*next_at, seq)),
    )


# Writing


@handles(
    WritePlan,
    size_bytes=lambda command: 4096 * sum(len(records) for records in command.records().values()),
)
def write_plan(tx: Transaction, ctx: Context, command: WritePlan) -> PlanWritten:
    return _Writer(tx, ctx, ctx.scope(tx).home(_CANNOT)).write(command)


class _Writer:
    """Adds one part of a plan to a project, in one transaction."""

    def __init__(self, tx: Transaction, ctx: Context, project_id: str) -> None:
        self._tx = tx
        self._operation = ctx.operation
        self._project_id = project_id
        self._created: Counter[str] = Counter()
        self._present: Counter[str] = Counter()
        self._requeued = 0
        self._renumbered = 0
        self._agents: dict[str, str] = {}
        self._places: dict[tuple[str, str], str | None] = {}

    def write(self, command: WritePlan) -> PlanWritten:
        """Add what is not there."""
        for agent in command.agents:
            self._agent(agent)
        self._agents = store.agent_ids(self._tx)
        for feature in command.features:
            self._add("features", feature, {})
        for part in command.sub_features:
            self._need("sub_features", part, "features", part.feature_id)
            self._add("sub_features", part, {})
        self._tasks(command.tasks)
        for kind in ("notes", "comments"):
            for text in getattr(command, kind):
                self._text(kind, text)
        for requirement in command.requirements:
            self._requirement(requirement)
        for session in command.sessions:
            self._session(session)
        for metric in command.metrics:
            self._metric(metric)
        for kind, number in command.numbers.items():
            if kind in store.NUMBERED:
                keep_number(self._tx, self._project_id, store.NUMBERED[kind].kind, number)
        return PlanWritten(
            created=dict(self._created),
            present=dict(self._present),
            requeued=self._requeued,
            renumbered=self._renumbered,
        )

    def _agent(self, agent: Any) -> None:
        if store.has_agent(self._tx, agent.name):
            self._present["agents"] += 1
            return
        now = self._tx.now
        values = msgspec.structs.asdict(agent) | {"temperature": 0.3, "max_tokens": 8000, "status": AgentStatus.IDLE}
        values |= dict.fromkeys(("tokens_used", "tasks_completed", "tasks_failed"), 0)
        AGENTS.insert(self._tx, self._operation, values | {"spawned_at": now, "last_activity_at": now})
        self._created["agents"] += 1

    def _who(self, kind: str, record: Any, name: str | None) -> str | None:
        """The id of an agent that is named. An id stands for one that is there no more."""
        if name is None:
            return None
        found = self._agents.get(name)
        if found is None and len(name) != 36:
            raise _invalid(kind, record, f'the agent "{name}" is not there', "Name an agent of the plan.")
        return found or name

    def _place(self, kind: str, id_: str) -> str | None:
        """The project that has a record of a kind."""
        key = (kind, id_)
        if self._places.get(key) is None:
            self._places[key] = store.place_of(self._tx, kind, id_)
        return self._places[key]

    def _is_present(self, kind: str, record: Any) -> bool:
        """Whether the project has a record already.

        Raises:
            PlanIdTaken: another project has it.
        """
        place = self._place(kind, record.id)
        if place is None:
            return False
        if place != self._project_id:
            name = project_name(self._tx, place)
            raise PlanIdTaken(
                f'{_CANNOT}: the project "{name}" has the {_word(kind)} {record.id}',
                hint="A record has one project. Write the plan to that one.",
                details={"id": record.id, "project": name},
            )
        self._present[kind] += 1
        return True

    def _need(self, kind: str, record: Any, of: str, id_: str) -> None:
        if self._place(of, id_) != self._project_id:
            raise _invalid(
                kind, record, f"there is no {_word(of)} {id_}", f"Write that {_word(of)} with it, or before it."
            )

    def _add(self, kind: str, record: Any, changes: dict[str, Any]) -> Any:
        """Insert a numbered record, unless it is there; returns it, or None."""
        if self._is_present(kind, record):
            return None
        values = msgspec.structs.asdict(record) | changes
        cannot = f"{_CANNOT}: {_word(kind)} {record.id}"
        if "metadata" in values:
            check_values(values["metadata"], "metadata", cannot)
        wanted = values.pop("number")
        if wanted is not None and store.number_is_taken(self._tx, kind, self._project_id, wanted):
            self._renumbered += 1
            wanted = None
        values |= {"project_id": self._project_id, "number": wanted}
        values["created_at"] = values["created_at"] or self._tx.now
        values["updated_at"] = values["updated_at"] or max([self._tx.now, values["created_at"]])
        made = store.NUMBERED[kind].insert(self._tx, self._operation, values)
        self._places[kind, record.id] = self._project_id
        self._created[kind] += 1
        return made

    def _tasks(self, tasks: list[PlanTask]) -> None:
        new = {task.id: task for task in tasks if self._place("tasks", task.id) is None}
        cycle = any_cycle({id_: [on for on in task.depends_on if on in new] for id_, task in new.items()})
        # What waited for one of these before it was there may close a circle.
        waiting = [id_ for id_ in new if dependencies.dependents(self._tx, id_, all_=False, limit=1)]
        completed: Counter[str] = Counter()
        for task in tasks:
            made = None if cycle is not None else self._task(task)
            if made is not None and made.status is TaskStatus.COMPLETED and made.feature_id is not None:
                completed[made.feature_id] += 1
        for id_ in waiting:
            cycle = cycle or dependencies.cycle_from(self._tx, id_)
            recount_below(self._tx, id_)
        if cycle is not None:
            names = [new[id_].name if id_ in new else id_ for id_ in cycle[:10]]
            raise PlanInvalid(
                f"{_CANNOT}: tasks would wait for each other: {' → '.join(names)}",
                hint="Take one of these dependencies out.",
                details={"cycle": cycle[:100]},
            )
        for feature_id, count in completed.items():
            feature = FEATURES.get(self._tx, feature_id)
            values = {"completed_tasks": feature.completed_tasks + count}
            FEATURES.write(self._tx, self._operation, feature_id, values)

    def _task(self, task: PlanTask) -> Any:
        if task.feature_id is not None:
            self._need("tasks", task, "features", task.feature_id)
        if task.sub_feature_id is not None:
            self._need("tasks", task, "sub_features", task.sub_feature_id)
            if store.feature_of(self._tx, task.sub_feature_id) != task.feature_id:
                raise _invalid("tasks", task, "its sub-feature is of another feature", "Name the feature of that.")
        if task.id in task.depends_on:
            raise _invalid("tasks", task, "it would wait for itself", "Take that dependency out.")
        changes = self._state(task)
        changes["depends_on"] = list(dict.fromkeys(task.depends_on))
        changes["assigned_agent"] = self._who("tasks", task, changes.get("assigned_agent", task.assigned_agent))
        if task.max_iterations is None:
            changes["max_iterations"] = project_setting(self._tx, self._project_id, "qa_max_iterations")
        made = self._add("tasks", task, changes)
        if made is not None:
            self._requeued += task.status is TaskStatus.IN_PROGRESS
            if made.depends_on:
                count = dependencies.write_rows(self._tx, made.id, made.depends_on)
                TASKS.rows.update(self._tx, made.id, {"open_dependencies": count})
        return made

    def _state(self, task: PlanTask) -> dict[str, Any]:
        """What the status of a task needs beside it."""
        match task.status:
            case TaskStatus.IN_PROGRESS:
                return {"status": TaskStatus.QUEUED, "assigned_agent": None, "blocked_by": None, "reason_code": None}
            case TaskStatus.COMPLETED:
                return {"completed_at": task.completed_at or task.updated_at or self._tx.now, "blocked_by": None}
            case TaskStatus.BLOCKED | TaskStatus.FAILED:
                reason = task.reason or f"it was {task.status} where it comes from"
                return {"reason": reason, "reason_code": task.reason_code or TaskReason.GIVEN}
            case _:
                return {"blocked_by": None, "reason_code": None}

    def _text(self, kind: str, text: Any) -> None:
        row = store.subject_row(self._tx, text.task_id)
        if row is None or row[0] != self._project_id:
            raise _invalid(kind, text, f"there is no task {text.task_id}", "Write that task with it, or before it.")
        if self._is_present(kind, text):
            return
        values = msgspec.structs.asdict(text)
        agent_id = self._who(kind, text, values.pop("agent"))
        values |= {"agent_id": agent_id, "at": self._tx.now if text.at is None else text.at}
        subject = Subject("task", text.task_id, str(row[1]), self._project_id)
        (put_note if kind == "notes" else put_comment)(self._tx, self._operation, subject, values)
        self._created[kind] += 1

    def _requirement(self, requirement: Any) -> None:
        for feature_id in requirement.linked_features:
            self._need("requirements", requirement, "features", feature_id)
        if not math.isfinite(requirement.confidence):
            raise _invalid("requirements", requirement, "its confidence is not a number", "Give one from 0 to 1.")
        links = list(dict.fromkeys(requirement.linked_features))
        made = self._add("requirements", requirement, {"linked_features": links})
        if made is not None:
            write_links(self._tx, made.id, made.linked_features)

    def _session(self, session: Any) -> None:
        if len(msgspec.msgpack.encode(session.data)) > DATA_BYTES:
            raise _invalid("sessions", session, "its data is larger than 1 MiB", "Leave some of it out.")
        has_ended = session.status in (SessionStatus.COMPLETED, SessionStatus.CANCELLED)
        ended_at = session.ended_at or session.updated_at or self._tx.now
        changes = {
            "started_at": self._tx.now if session.started_at is None else session.started_at,
            "ended_at": ended_at if has_ended else None,
        }
        self._add("sessions", session, changes)

    def _metric(self, metric: Any) -> None:
        if self._is_present("metrics", metric):
            return
        if not math.isfinite(metric.value):
            raise _invalid("metrics", metric, "its value is not a number", "Give one that is not negative.")
        check_values(metric.metadata, "metadata", f"{_CANNOT}: metric {metric.id}")
        made = metrics.add(
            self._tx,
            self._operation,
            project_id=self._project_id,
            type=metric.type,
            value=metric.value,
            agent_id=self._who("metrics", metric, metric.agent),
            task_id=metric.task_id,
            metadata=metric.metadata,
            source=metric.source,
            timestamp=metric.timestamp,
            id_=metric.id,
        )
        (self._present if made is None else self._created)["metrics"] += 1


def _word(kind: str) -> str:
    return kind.removesuffix("s").replace("_", "-")


def _invalid(kind: str, record: Any, why: str, hint: str) -> InvalidArgument:
    return PlanInvalid(
        f"{_CANNOT}: {_word(kind)} {record.id}: {why}", hint=hint, details={"kind": kind, "id": record.id}
    )
