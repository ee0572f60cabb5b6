"""The handler that explains what a task waits for."""

from __future__ import annotations

from nexus.capability import Context, handles
from nexus.ledger import recovery
from nexus.ledger.agents.store import AGENTS
from nexus.ledger.states import TaskStatus, TaskType
from nexus.ledger.tasks import dependencies_store as dependencies
from nexus.ledger.tasks import store
from nexus.ledger.tasks.commands import ExplainTask
from nexus.ledger.tasks.dependencies_store import Named
from nexus.ledger.tasks.records import Task, TaskExplanation, TaskWait
from nexus.ledger.tasks.store import TASKS
from nexus.store import Reader

__all__ = ["explain_task"]

_CHAIN = 200
_NAMED = 3


@handles(ExplainTask)
async def explain_task(ctx: Context, command: ExplainTask) -> TaskExplanation:
    return await ctx.store.fetch(
        lambda reader: _explained(reader, TASKS.resolve(reader, command.task, ctx.scope(reader)))
    )


def _explained(reader: Reader, task: Task) -> TaskExplanation:
    chain = _chain(reader, task)
    ready = store.is_ready(reader, task.id)
    why = _sentence(reader, task, ready, [each for each in chain if each.depth == 1])
    left = None if task.status is TaskStatus.COMPLETED else recovery.recovery_of(reader, task)
    return TaskExplanation(task, ready, why, chain, left)


def _chain(reader: Reader, task: Task) -> list[TaskWait]:
    """What a task waits for, the nearest first, each once."""
    found: list[TaskWait] = []
    seen = {task.id}
    layer: list[tuple[str, str | None]] = [(task.id, task.blocked_by)]
    depth = 1
    while layer and len(found) < _CHAIN:
        following: list[tuple[str, str | None]] = []
        for by, blocker in layer:
            waits = dependencies.open_of(reader, by)
            if blocker is not None:
                waits.append((blocker, dependencies.named(reader, blocker)))
            for id_, named in waits:
                if id_ in seen or len(found) == _CHAIN:
                    continue
                seen.add(id_)
                found.append(_wait(reader, id_, named, depth, by))
                if named is not None:
                    following.append((id_, named.blocked_by))
        layer = following
        depth += 1
    return found


def _wait(reader: Reader, id_: str, named: Named | None, depth: int, by: str) -> TaskWait:
    if named is None:
        return TaskWait(id=id_, depth=depth, by=by)
    return TaskWait(
        id=id_,
        depth=depth,
        number=named.number,
        project=named.project,
        name=named.name,
        status=TaskStatus(named.status),
        agent=_agent(reader, named.assigned_agent) if named.status in ("in_progress", "in_review") else None,
        by=by,
    )


def _agent(reader: Reader, agent_id: str | None) -> str | None:
    agent = None if agent_id is None else AGENTS.by_id(reader, agent_id)
    return None if agent is None else agent.name


def _sentence(reader: Reader, task: Task, ready: bool, nearest: list[TaskWait]) -> str:
    name = f"Task {task.number}"
    agent = _agent(reader, task.assigned_agent)
    is_checkpoint = task.type is TaskType.CHECKPOINT
    match task.status:
        case TaskStatus.COMPLETED:
            return f"{name} is completed."
        case TaskStatus.FAILED:
            return f"{name} is failed{_because(task)}; only a reset makes it pending."
        case TaskStatus.BLOCKED:
            return f"{name} is blocked{_because(task)}."
        case TaskStatus.IN_PROGRESS:
            return f"{name} is in progress" + ("." if agent is None else f': agent "{agent}" works on it.')
        case TaskStatus.IN_REVIEW:
            return f"{name} is in review: it waits to be approved or rejected."
    if task.open_dependencies:
        shown = [_shown(task, each) for each in nearest[:_NAMED]]
        more = f" and {task.open_dependencies - _NAMED} more" if task.open_dependencies > _NAMED else ""
        word = "task" if task.open_dependencies == 1 else "tasks"
        return f"{name} waits for {word} {', '.join(shown)}{more}."
    if not ready:
        status = store.project_status(reader, task.project_id)
        return f'{name} waits for its project "{task.project}", which is {status}.'
    if is_checkpoint:
        return f"{name} waits for a person, who approves or rejects it."
    return f"{name} is ready: an agent can claim it."


def _because(task: Task) -> str:
    return "" if task.reason is None else f": {task.reason}"


def _shown(task: Task, wait: TaskWait) -> str:
    if wait.number is None:
        return f"{wait.id[:8]} (deleted)"
    number = str(wait.number) if wait.project == task.project else f"{wait.project}/{wait.number}"
    by = "" if wait.agent is None else f' by agent "{wait.agent}"'
    assert wait.status is not None
    return f"{number} ({wait.status.value.replace('_', ' ')}{by})"
