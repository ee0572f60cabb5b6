"""The handlers of the commands on nodes."""

from __future__ import annotations

from typing import Any

from nexus.capability import Context, handles
from nexus.hints import command_line, joined
from nexus.nodes.commands import (
    AddNode,
    CheckNode,
    DrainNode,
    GetNode,
    ListNodes,
    Node,
    NodeChecked,
    NodeFixed,
    NodeInUse,
    NodeInvalid,
    NodeNameTaken,
    RemoveNode,
    UndrainNode,
    UpdateNode,
)
from nexus.nodes.manager import NodeManager
from nexus.nodes.states import NodeStatus
from nexus.nodes.store import NODES, running_on, uses
from nexus.records.handlers import gets, lists
from nexus.records.scope import ANYWHERE
from nexus.store import Transaction
from nexus.supervision.nodes import LOCAL

__all__ = [
    "add_node",
    "check_node",
    "drain_node",
    "get_node",
    "list_nodes",
    "remove_node",
    "undrain_node",
    "update_node",
]

_CLEARABLE = ("user", "port", "managed_by")
_ROUTE = ("hostname", "user", "port")
"""The fields that say how a node is reached."""

get_node = gets(NODES, GetNode)
list_nodes = lists(NODES, ListNodes, "nodes")


def _manager(ctx: Context) -> NodeManager:
    return ctx.daemon.manager(NodeManager)


def _changed(ctx: Context, node: Node) -> None:
    _manager(ctx).changed(node)


def _refuse_local(node: Node, cannot: str) -> None:
    if node.id == LOCAL:
        raise NodeFixed(f"{cannot}: it is the daemon's own machine", details={"id": node.id, "name": node.name})


@handles(AddNode)
def add_node(tx: Transaction, ctx: Context, command: AddNode) -> Node:
    fields: dict[str, Any] = {
        "hostname": command.hostname or command.name,
        "user": command.user,
        "port": command.port,
        "managed_by": command.managed_by,
    }
    present = NODES.by_id(tx, command.name)
    if present is not None:
        if present.id != LOCAL and all(getattr(present, name) == value for name, value in fields.items()):
            return present
        try:
            NODES.refuse_taken_name(tx, command.name, None, f'cannot create node "{command.name}"')
        except NodeNameTaken as taken:
            if present.id != LOCAL:
                change = command_line("nexusctl", "node", "update", present.name, "--hostname", fields["hostname"])
                taken.hint = joined(taken.hint, f"To change how it is reached: {change}")
            raise
    made = {"id": command.name, "name": command.name, "status": NodeStatus.OFFLINE, "drained": False}
    return NODES.insert(tx, ctx.operation, fields | made)


@handles(UpdateNode, after=_changed)
def update_node(tx: Transaction, ctx: Context, command: UpdateNode) -> Node:
    node = NODES.resolve(tx, command.node, ANYWHERE)
    cannot = f'cannot update node "{node.name}"'
    _refuse_local(node, cannot)
    NODES.expect(node, cannot, command.if_revision)
    changes: dict[str, Any] = {
        name: value
        for name in ("hostname", "user", "port", "managed_by")
        if (value := getattr(command, name)) is not None
    }
    for name in command.clear or ():
        if name not in _CLEARABLE or name in changes:
            raise NodeInvalid(
                f"{cannot}: it has no optional field {name} that is not set by this request", details={"path": "clear"}
            )
        changes[name] = None
    if not changes:
        raise NodeInvalid(f"{cannot}: no field to change was given", details={"path": ""})
    if any(name in changes and changes[name] != getattr(node, name) for name in _ROUTE):
        _refuse_with_runs(tx, node, cannot)
    return NODES.update(tx, ctx.operation, node, changes)


def _refuse_with_runs(tx: Transaction, node: Node, cannot: str) -> None:
    """Refuse to have a node lead elsewhere while jobs run on the host that it leads to.

    Raises:
        NodeInUse: some do.
    """
    jobs = running_on(tx, node.id)
    if jobs:
        raise NodeInUse(
            f"{cannot}: {jobs} job{'s run' if jobs > 1 else ' runs'} there, and would be looked for on another host",
            hint=f"See them: {command_line('nexusctl', '-A', 'job', 'list', '--node', node.name)}\n"
            f"Let no further job begin there: {command_line('nexusctl', 'node', 'drain', node.name)}",
            details={"id": node.id, "name": node.name, "jobs": jobs},
        )


def _removed(ctx: Context, node: Node) -> None:
    _manager(ctx).removed(node)


@handles(RemoveNode, after=_removed)
def remove_node(tx: Transaction, ctx: Context, command: RemoveNode) -> Node:
    node = NODES.resolve(tx, command.node, ANYWHERE)
    cannot = f'cannot remove node "{node.name}"'
    _refuse_local(node, cannot)
    NODES.expect(node, cannot, command.if_revision, command.if_state_revision)
    jobs, schedules = uses(tx, node.id)
    if jobs or schedules:
        words, hints = [], []
        if jobs:
            words.append(f"{jobs} job{'s of it have' if jobs > 1 else ' of it has'} not ended")
            listing = command_line("nexusctl", "-A", "job", "list", "--node", node.name)
            hints.append(f"See its jobs: {listing}")
        if schedules:
            words.append(f"{schedules} schedule{'s name' if schedules > 1 else ' names'} it")
            hints.append(
                f"See the node of each schedule: {command_line('nexusctl', '-A', 'schedule', 'list', '-o', 'wide')}"
            )
        raise NodeInUse(
            f"{cannot}: {' and '.join(words)}",
            hint=joined(*hints),
            details={"id": node.id, "name": node.name, "jobs": jobs, "schedules": schedules},
        )
    NODES.delete(tx, ctx.operation, node, ("hostname",))
    return node


def _drain(tx: Transaction, ctx: Context, reference: str, drained: bool) -> Node:
    node = NODES.resolve(tx, reference, ANYWHERE)
    _refuse_local(node, f'cannot {"drain" if drained else "undrain"} node "{node.name}"')
    if node.drained is drained:
        return node
    event = "drained" if drained else "undrained"
    changed = NODES.write(tx, ctx.operation, node.id, {"drained": drained}, [(f"node.{event}", {})])
    assert changed is not None
    return changed


@handles(DrainNode, after=_changed)
def drain_node(tx: Transaction, ctx: Context, command: DrainNode) -> Node:
    return _drain(tx, ctx, command.node, True)


@handles(UndrainNode, after=_changed)
def undrain_node(tx: Transaction, ctx: Context, command: UndrainNode) -> Node:
    return _drain(tx, ctx, command.node, False)


@handles(CheckNode)
async def check_node(ctx: Context, command: CheckNode) -> NodeChecked:
    node = await ctx.store.fetch(lambda reader: NODES.resolve(reader, command.node, ANYWHERE))
    _refuse_local(node, f'cannot check node "{node.name}"')
    return await _manager(ctx).check(node, ctx.operation)
