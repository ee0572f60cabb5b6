"""The handlers of the ledger, by subject."""

from __future__ import annotations

from nexus.ledger.agents.handlers import (
    create_agent,
    delete_agent,
    get_agent,
    list_agents,
    pause_agent,
    report_agent_error,
    resume_agent,
    terminate_agent,
    update_agent,
)
from nexus.ledger.pages.handlers import get_agent_pool, get_board, get_execution, get_project_overview, get_task_graph
from nexus.ledger.tasks.claim_handlers import claim_task
from nexus.ledger.tasks.graph_handlers import create_task_graph
from nexus.ledger.tasks.handlers import (
    add_task_comment,
    add_task_note,
    count_tasks,
    create_task,
    delete_task,
    get_task,
    list_ready_tasks,
    list_tasks,
    update_task,
)
from nexus.ledger.tasks.moves_handlers import (
    approve_task,
    block_task,
    complete_task,
    fail_task,
    queue_task,
    reject_task,
    reset_task,
    submit_task,
    unblock_task,
    unqueue_task,
)
from nexus.ledger.tasks.why_handlers import explain_task

__all__ = [
    "add_task_comment",
    "add_task_note",
    "approve_task",
    "block_task",
    "claim_task",
    "complete_task",
    "count_tasks",
    "create_agent",
    "create_task",
    "create_task_graph",
    "delete_agent",
    "delete_task",
    "explain_task",
    "fail_task",
    "get_agent",
    "get_agent_pool",
    "get_board",
    "get_execution",
    "get_project_overview",
    "get_task",
    "get_task_graph",
    "list_agents",
    "list_ready_tasks",
    "list_tasks",
    "pause_agent",
    "queue_task",
    "reject_task",
    "report_agent_error",
    "reset_task",
    "resume_agent",
    "submit_task",
    "terminate_agent",
    "unblock_task",
    "unqueue_task",
    "update_agent",
    "update_task",
]
