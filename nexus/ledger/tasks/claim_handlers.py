"""The handler of claims: a lease, the task and the agent in one transaction."""

from __future__ import annotations

from nexus.capability import Context, handles
from nexus.hints import command_line
from nexus.ledger import recovery
from nexus.ledger.agents import store as agents
from nexus.ledger.agents.records import Agent
from nexus.ledger.features.store import FEATURES
from nexus.ledger.leases import store as leases
from nexus.ledger.leases.peers import require_person
from nexus.ledger.leases.records import Lease
from nexus.ledger.states import LeaseState, TaskStatus, TaskType
from nexus.ledger.tasks import moves, store
from nexus.ledger.tasks.commands import ClaimTask
from nexus.ledger.tasks.errors import TaskClaimed, TaskInvalid, TaskIsCheckpoint, TaskLimit, TaskNoneReady
from nexus.ledger.tasks.records import ClaimedTask, Task, TaskLease
from nexus.ledger.tasks.store import TASKS
from nexus.records.beginning import begin
from nexus.records.project_settings import project_setting
from nexus.records.scope import Scope, project_name, reference_of
from nexus.runtime.procfs import process_exists
from nexus.store import Transaction

__all__ = ["claim_task"]

_FILTERS = ("feature_id", "tag", "type", "size")
_SHOWN = 5


@handles(ClaimTask, size_bytes=lambda _command: 4096)
def claim_task(tx: Transaction, ctx: Context, command: ClaimTask) -> ClaimedTask:
    scope = ctx.scope(tx)
    project_id = scope.home("cannot claim a task")
    agent = agents.agent_named(tx, command.agent)
    if command.pid is not None and not process_exists(command.pid):
        raise TaskInvalid(
            f"cannot claim a task: there is no process {command.pid}, which is to renew its lease",
            hint="Name one that runs for as long as the work does.",
            details={"path": "pid"},
        )
    task = _best(tx, scope, project_id, command) if command.task is None else _named(tx, ctx, scope, command, agent)
    cannot = f"cannot claim task {task.number}"
    left = recovery.recovery_of(tx, task)
    _check_limit(tx, task, cannot)
    name = "take over" if task.status in (TaskStatus.IN_PROGRESS, TaskStatus.IN_REVIEW) else "claim"
    changes = {
        "assigned_agent": agent.id,
        "claimed_at": tx.now,
        "started_at": tx.now if task.started_at is None else task.started_at,
        "worktree_path": command.worktree_path or task.worktree_path,
        "branch_name": command.branch_name or task.branch_name,
    }
    claimed = moves.move(tx, ctx.operation, task, name, TaskStatus.IN_PROGRESS, changes)
    lease = leases.grant(
        tx,
        ctx.operation,
        kind=moves.KIND,
        resource_id=task.id,
        project_id=task.project_id,
        holder=agent.id,
        ttl_ms=command.ttl_ms,
        on_lost=command.on_lost,
        pid=command.pid,
    )
    begin(tx, ctx.operation, task.project_id)
    agents.claimed(tx, ctx.operation, agent.id, task.id, claimed.worktree_path, claimed.branch_name)
    told = TaskLease(
        id=lease.id,
        epoch=lease.epoch,
        holder=agent.id,
        agent=agent.name,
        ttl_ms=lease.ttl_ms,
        age_ms=0,
        overdue=False,
    )
    return ClaimedTask(claimed, told, left)


def _best(tx: Transaction, scope: Scope, project_id: str, command: ClaimTask) -> Task:
    """The best ready task that fits.

    Raises:
        TaskNoneReady: there is none.
    """
    feature_id = None if command.feature_id is None else FEATURES.resolve(tx, command.feature_id, scope).id
    if command.take_over:
        raise TaskInvalid(
            "cannot take over a task: none is named", hint="Name the task.", details={"path": "take_over"}
        )
    task = store.best_ready(
        tx, project_id, feature_id=feature_id, tag=command.tag, type=command.type, size=command.size
    )
    if task is not None:
        return task
    fitting = " that fits" if any(getattr(command, name) is not None for name in _FILTERS) else ""
    raise TaskNoneReady(
        f'cannot claim a task: none of project "{project_name(tx, project_id)}"{fitting} is ready for an agent',
        hint=f"See what waits, and for what: {command_line('nexusctl', 'task', 'list')}",
        details={"project_id": project_id},
    )


def _named(tx: Transaction, ctx: Context, scope: Scope, command: ClaimTask, agent: Agent) -> Task:
    """The task that a claim names, if it can be claimed; a lease that is taken over has ended then.

    Raises:
        TaskIsCheckpoint, TaskClaimed, TaskMoveRefused, TaskNotReady: it cannot.
        LeaseNeedsPerson: it would be taken over by a client of a job or a service.
    """
    assert command.task is not None
    task = TASKS.resolve(tx, command.task, scope)
    cannot = f"cannot claim task {task.number}"
    if task.type is TaskType.CHECKPOINT:
        raise TaskIsCheckpoint(
            f"{cannot}: it is a checkpoint, about which a person decides",
            hint=f"Approve it: {command_line('nexusctl', 'task', 'approve', reference_of(task))}",
            details={"id": task.id},
        )
    lease = leases.live_lease(tx, moves.KIND, task.id)
    if lease is not None:
        if not command.take_over:
            raise _taken(tx, task, lease, cannot)
        require_person(ctx.caller.pid, f"cannot take over task {task.number}")
        leases.end(tx, ctx.operation, lease, LeaseState.REVOKED, f'agent "{agent.name}" took it over')
        task = TASKS.get(tx, task.id)
    if command.take_over and task.status in (TaskStatus.IN_PROGRESS, TaskStatus.IN_REVIEW):
        return task
    moves.check_move(task, "claim", cannot)
    if store.is_ready(tx, task.id) or (lease is not None and task.open_dependencies == 0):
        return task
    raise moves.not_ready(tx, task, cannot)


def _taken(tx: Transaction, task: Task, lease: Lease, cannot: str) -> TaskClaimed:
    holder = agents.AGENTS.by_id(tx, lease.holder)
    name = lease.holder if holder is None else holder.name
    age_ms = 0 if task.claimed_at is None or task.claimed_at > tx.now else tx.now - task.claimed_at
    return TaskClaimed(
        f'{cannot}: agent "{name}" claimed it {_age(age_ms)} ago',
        hint="Claim another one, or revoke that claim: "
        + command_line("nexusctl", "task", "claim", reference_of(task), "--agent", "AGENT", "--take-over"),
        details={"id": task.id, "holder": lease.holder, "agent": name, "age_ms": age_ms, "epoch": lease.epoch},
    )


def _age(age_ms: int) -> str:
    minutes = age_ms // 60_000
    if minutes >= 120:
        return f"{minutes // 60} h"
    return f"{minutes} min" if minutes >= 2 else f"{age_ms // 1000} s"


def _check_limit(tx: Transaction, task: Task, cannot: str) -> None:
    """Refuse more live claims than the project allows.

    Raises:
        TaskLimit: there are as many.
    """
    limit = project_setting(tx, task.project_id, "max_parallel_agents")
    if store.live_claims(tx, task.project_id) < limit:
        return
    raise TaskLimit(
        f'{cannot}: {limit} {"task" if limit == 1 else "tasks"} of project "{task.project}" '
        f"{'is' if limit == 1 else 'are'} claimed, as many as max_parallel_agents of its settings allows",
        hint="Wait until one is submitted or completed, or raise max_parallel_agents in the settings of the project.",
        details={"limit": limit},
    )
