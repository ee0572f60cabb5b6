"""The public contract of nodes: the record, the commands, the errors, and the kinds of their events."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, field
from nexus_protocol.command import Command, Effect, Record, Repeat, command
from nexus_protocol.errors import FailedPrecondition, InvalidArgument, Unavailable
from nexus_protocol.events import cause, event

from nexus.nodes.states import NodeStatus
from nexus.records.errors import (
    RecordAmbiguous,
    RecordChanged,
    RecordCursorInvalid,
    RecordIdTaken,
    RecordNameTaken,
    RecordNotFound,
)
from nexus.records.events import record_events
from nexus.records.fields import Cursor, ManagedBy, Name, PageLimit, Reference, Revision, StateRevision, key

__all__ = [
    "AddNode",
    "CheckNode",
    "DrainNode",
    "GetNode",
    "ListNodes",
    "Node",
    "NodeAmbiguous",
    "NodeChanged",
    "NodeChecked",
    "NodeCursorInvalid",
    "NodeFixed",
    "NodeIdTaken",
    "NodeInUse",
    "NodeInvalid",
    "NodeNameTaken",
    "NodeNotFound",
    "NodePage",
    "NodeUnreachable",
    "NodeUnusable",
    "RemoveNode",
    "UndrainNode",
    "UpdateNode",
]

record_events("node", "A node", created={"hostname": "its host"}, deleted={"hostname": "its host"})
event("node.online", "A node answers.", ip_address="its address")
event("node.offline", "A node has not answered three times in a row.", reason="a sentence for people")
event("node.drained", "No job begins on a node any more.")
event("node.undrained", "Jobs begin on a node again.")
cause("node.connection", "A node was connected to, or could not be reached.")

NodeReference = Annotated[Reference, Meta(extra={"completes": "node", "metavar": "NODE"})]
Hostname = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        pattern=r"^[A-Za-z0-9_:\[][A-Za-z0-9._:%\[\]-]*$(?!\n)",
        description="a name or an address alone, of A-Z a-z 0-9 . _ - : % [ ]; user and port are fields of their own",
    ),
    Meta(
        description="what ssh is told: a name of its configuration, a host name or an address (default: the name)",
        extra={"option": "--hostname", "metavar": "HOST"},
    ),
    key("hostname"),
]
User = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9._@\\-]*$(?!\n)",
        description="1 to 64 of A-Z a-z 0-9 . _ @ \\ -, the first a letter, digit or _",
    ),
    Meta(
        description="the user there (default: that of the ssh configuration)",
    ),
    key("user"),
]
Port = Annotated[
    int, Meta(ge=1, le=65535, description="the port of its sshd (default: that of the ssh configuration)"), key("port")
]


class NodeNotFound(RecordNotFound):
    """No node has this name."""

    type = "node.not_found"


class NodeAmbiguous(RecordAmbiguous):
    """Several names begin with this reference; ``details.matches`` lists some of them."""

    type = "node.ambiguous"


class NodeNameTaken(RecordNameTaken):
    """Another node has this name, and is reached in another way."""

    type = "node.name_taken"


class NodeIdTaken(RecordIdTaken):
    """A node with this id exists and differs from the request."""

    type = "node.id_taken"


class NodeChanged(RecordChanged):
    """The node has another revision than ``if_revision``; ``details.revision`` is the present one."""

    type = "node.changed"


class NodeCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ListNodes for these filters."""

    type = "node.cursor_invalid"


class NodeInvalid(InvalidArgument):
    """The fields do not fit together; ``details.path`` names the field."""

    type = "node.invalid"


class NodeFixed(FailedPrecondition):
    """The node ``local`` is the daemon's own machine: it cannot be changed, drained or removed."""

    type = "node.fixed"


class NodeInUse(FailedPrecondition):
    """Jobs for the node have not ended, or schedules name it; or, of a change of how it is reached, jobs run there."""

    type = "node.in_use"


class NodeUnreachable(Unavailable):
    """The node cannot be reached; the sentence says why."""

    type = "node.unreachable"


class NodeUnusable(FailedPrecondition):
    """The node can be reached, and no job can run there."""

    type = "node.unusable"


class Node(Record, kw_only=True):
    """A host on which jobs run. Optional fields are present only if they are set."""

    id: str
    """The name; jobs keep it in ``node_id`` when the node is removed."""
    name: str
    hostname: str
    """What ssh is told."""
    user: str | None = None
    port: int | None = None
    ip_address: str | None = None
    """Its address, as it was last reached."""
    status: NodeStatus
    reason: str | None = None
    """Why it could not be reached the last time, in words."""
    drained: bool = False
    """Whether no job begins there."""
    capabilities: dict[str, Any] = field(default_factory=dict)
    """What was found there: ``tools``, their ``versions``, ``os``, ``arch``, ``cores``; ``runner`` runs its jobs."""
    last_heartbeat: int | None = None
    """When it last answered (ms), to half a minute; while it has no jobs it is not asked."""
    managed_by: str | None = None
    """The file that apply made it from, as a path from the root of its project."""
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its state, from 0."""


class NodePage(Record):
    """One page of nodes, by name, and the cursor of the next page."""

    nodes: list[Node]
    next_cursor: str | None = None


class NodeChecked(Record):
    """What a check of a node has found."""

    node: Node
    limits: list[str] = field(default_factory=list)
    """What jobs there lack that jobs here have, in sentences."""


@command(0x0320, Effect.CHANGE, errors=(NodeNameTaken, NodeInvalid), in_project=False)
class AddNode(Command[Node]):
    """Add a host on which jobs are to run. Nothing is connected to before a job, or a check, needs it.

    Its name is its id. A node of the same name that is reached in the same way is returned, so that a request can be
    repeated.
    """

    name: Annotated[Name, Meta(extra={"metavar": "NAME"})]
    hostname: Hostname | None = None
    user: User | None = None
    port: Port | None = None
    managed_by: ManagedBy | None = None


@command(0x0321, Effect.READ, errors=(NodeCursorInvalid,), in_project=False)
class ListNodes(Command[NodePage]):
    """List the nodes by name; ``local`` is the daemon's own machine."""

    status: Annotated[NodeStatus, Meta(description="only nodes with this status")] | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0322, Effect.READ, errors=(NodeNotFound, NodeAmbiguous), in_project=False)
class GetNode(Command[Node]):
    """Get a node."""

    node: NodeReference


@command(
    0x0323,
    Effect.CHANGE,
    errors=(NodeNotFound, NodeAmbiguous, NodeChanged, NodeFixed, NodeInUse, NodeInvalid),
    in_project=False,
)
class UpdateNode(Command[Node]):
    """Change how a node is reached; refused while jobs run there, which would be looked for on another host.

    ``clear`` takes ``user``, ``port`` and ``managed_by``.
    """

    node: NodeReference
    hostname: Hostname | None = None
    user: User | None = None
    port: Port | None = None
    managed_by: ManagedBy | None = None
    clear: (
        Annotated[
            list[Annotated[str, Meta(max_length=64)]],
            Meta(max_length=4, description="fields to unset", extra={"option": "--clear", "metavar": "FIELD"}),
        ]
        | None
    ) = None
    if_revision: Revision | None = None


@command(
    0x0324, Effect.CHANGE, errors=(NodeNotFound, NodeAmbiguous, NodeChanged, NodeFixed, NodeInUse), in_project=False
)
class RemoveNode(Command[Node]):
    """Remove a node for which no job waits or runs, and which no schedule uses; ended jobs keep its name."""

    node: NodeReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0325, Effect.CHANGE, errors=(NodeNotFound, NodeAmbiguous, NodeFixed), in_project=False)
class DrainNode(Command[Node]):
    """Let no further job begin on a node; those that run go on."""

    node: NodeReference


@command(0x0326, Effect.CHANGE, errors=(NodeNotFound, NodeAmbiguous, NodeFixed), in_project=False)
class UndrainNode(Command[Node]):
    """Let jobs begin on a drained node again."""

    node: NodeReference


@command(
    0x0327,
    Effect.ACT,
    errors=(NodeNotFound, NodeAmbiguous, NodeFixed, NodeUnreachable, NodeUnusable),
    repeat=Repeat.AGAIN,
    in_project=False,
)
class CheckNode(Command[NodeChecked]):
    """Connect to a node, find what it has, and tell what its jobs lack."""

    node: NodeReference
