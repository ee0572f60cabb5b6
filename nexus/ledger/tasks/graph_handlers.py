"""The handler that creates features, tasks and their dependencies in one request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nexus.capability import Context, handles
from nexus.graph import any_cycle, in_order
from nexus.ledger.features.store import FEATURES
from nexus.ledger.tasks.commands import CreateTaskGraph, GraphTask
from nexus.ledger.tasks.errors import TaskCycle, TaskInvalid
from nexus.ledger.tasks.handlers import insert_task
from nexus.ledger.tasks.records import TaskGraph, TaskMade
from nexus.ledger.tasks.store import TASKS
from nexus.records.scope import Scope
from nexus.store import Transaction

__all__ = ["create_task_graph"]

_CANNOT = "cannot create the tasks"
_PLAIN = ("name", "description", "type", "kind", "size", "priority", "tags", "estimated_minutes")


@handles(CreateTaskGraph, size_bytes=lambda command: 4096 * (len(command.tasks) + len(command.features)))
def create_task_graph(tx: Transaction, ctx: Context, command: CreateTaskGraph) -> TaskGraph:
    scope = ctx.scope(tx)
    project_id = scope.home(_CANNOT)
    _check_refs("features", [each.ref for each in command.features])
    _check_refs("tasks", [each.ref for each in command.tasks])
    by_ref = {task.ref: task for task in command.tasks}
    graph = {task.ref: [on for on in task.depends_on if on in by_ref] for task in command.tasks}
    cycle = any_cycle(graph)
    if cycle is not None:
        raise TaskCycle(
            f"{_CANNOT}: tasks would wait for each other: {' → '.join(cycle)}",
            hint="Take one of these dependencies out.",
            details={"cycle": cycle},
        )
    features: dict[str, TaskMade] = {}
    for feature in command.features:
        values = {"name": feature.name, "description": feature.description, "project_id": project_id}
        made = FEATURES.insert(tx, ctx.operation, values)
        features[feature.ref] = TaskMade(made.id, made.number, feature.ref)
    tasks: dict[str, TaskMade] = {}
    for ref in in_order(by_ref, graph):
        fields = _fields(tx, scope, project_id, by_ref[ref], features, tasks)
        made_task = insert_task(tx, ctx, fields)
        tasks[ref] = TaskMade(made_task.id, made_task.number, ref)
    return TaskGraph(list(features.values()), [tasks[task.ref] for task in command.tasks])


def _check_refs(field: str, refs: Sequence[str]) -> None:
    """Refuse a temporary name that two of one kind have.

    Raises:
        TaskInvalid: two have it.
    """
    seen: set[str] = set()
    for index, ref in enumerate(refs):
        if ref in seen:
            raise TaskInvalid(
                f'{_CANNOT}: two of {field} have the ref "{ref}"',
                hint="Give each a name of its own.",
                details={"path": f"{field}[{index}].ref"},
            )
        seen.add(ref)


def _fields(
    tx: Transaction,
    scope: Scope,
    project_id: str,
    task: GraphTask,
    features: dict[str, TaskMade],
    tasks: dict[str, TaskMade],
) -> dict[str, Any]:
    fields: dict[str, Any] = {name: getattr(task, name) for name in _PLAIN}
    fields["project_id"] = project_id
    if task.feature is not None:
        made = features.get(task.feature)
        feature = None if made is not None else FEATURES.resolve(tx, task.feature, scope)
        if feature is not None and feature.project_id != project_id:
            raise TaskInvalid(
                f"{_CANNOT}: feature {feature.number} is in the project {feature.project}",
                hint="Name one of this project.",
                details={"path": "feature"},
            )
        fields["feature_id"] = feature.id if feature is not None else made.id if made is not None else None
    ids = [tasks[on].id if on in tasks else TASKS.resolve(tx, on, scope).id for on in task.depends_on]
    fields["depends_on"] = list(dict.fromkeys(ids))
    return fields
