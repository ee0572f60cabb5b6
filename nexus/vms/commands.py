"""The public contract of VM records: the record, the commands, the errors."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, Record, command
from nexus_protocol.errors import FailedPrecondition, ResourceExhausted

from nexus.records.errors import (
    QueryInvalid,
    RecordAmbiguous,
    RecordChanged,
    RecordCursorInvalid,
    RecordIdTaken,
    RecordNameTaken,
    RecordNotFound,
)
from nexus.records.events import record_events
from nexus.records.fields import (
    ClientId,
    Cursor,
    ManagedBy,
    Match,
    Name,
    PageLimit,
    Reference,
    Revision,
    StateRevision,
    key,
)
from nexus.vms.states import VmRole, VmState

__all__ = [
    "CreateVm",
    "DeleteVm",
    "GetVm",
    "ListVms",
    "UpdateVm",
    "Vm",
    "VmAmbiguous",
    "VmChanged",
    "VmCidsExhausted",
    "VmCursorInvalid",
    "VmIdTaken",
    "VmNameTaken",
    "VmNotFound",
    "VmPage",
    "VmRunning",
]

record_events(
    "vm",
    "A VM record",
    created={
        "role": "what it is for",
        "cid": "its address",
        "vcpu_count": "its virtual CPUs",
        "mem_size_mib": "its memory",
    },
    deleted={"cid": "its address"},
)

VmReference = Annotated[Reference, Meta(extra={"completes": "vm"})]
VcpuCount = Annotated[
    int, Meta(ge=1, le=32, description="virtual CPUs, 1 to 32", extra={"option": "--vcpu"}), key("vcpu")
]
MemSizeMib = Annotated[
    int, Meta(ge=16, le=1_048_576, description="memory in MiB, 16 to 1048576", extra={"option": "--mem"}), key("mem")
]
Role = Annotated[VmRole, Meta(description="the purpose of the VM: portal, work or service"), key("role")]


class VmNotFound(RecordNotFound):
    """No VM has this id or name."""

    type = "vm.not_found"


class VmAmbiguous(RecordAmbiguous):
    """Several ids begin with this reference; ``details.matches`` lists some of them."""

    type = "vm.ambiguous"


class VmNameTaken(RecordNameTaken):
    """Another VM of the project has this name."""

    type = "vm.name_taken"


class VmIdTaken(RecordIdTaken):
    """A VM with this id exists and differs from the request."""

    type = "vm.id_taken"


class VmChanged(RecordChanged):
    """The VM has another revision than ``if_revision``; ``details.revision`` is the present one."""

    type = "vm.changed"


class VmCidsExhausted(ResourceExhausted):
    """All 4,294,967,292 vsock context ids are in use."""

    type = "vm.cids_exhausted"


class VmRunning(FailedPrecondition):
    """The VM is running; the command needs one that is not."""

    type = "vm.running"


class VmCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ListVms for these filters."""

    type = "vm.cursor_invalid"


class Vm(Record):
    """A VM record. Optional fields are present only if they are set."""

    id: str
    name: str
    project_id: str
    project: str
    """The name of its project."""
    role: VmRole
    state: VmState
    cid: int
    """vsock context id, 3 to 4294967294, unique."""
    vcpu_count: int
    mem_size_mib: int
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its state, from 0."""
    started_at: int | None = None
    stopped_at: int | None = None
    pid: int | None = None
    """The process id of the virtual machine monitor, while it runs."""
    socket_path: str | None = None
    """The control socket of the virtual machine monitor."""
    uds_path: str | None = None
    """The socket on the host that connects to the guest's vsock."""
    console_log_path: str | None = None
    config_json: str | None = None
    """The configuration with which the virtual machine monitor was last started."""
    managed_by: str | None = None
    """The file that apply made it from, as a path from the root of its project."""


class VmPage(Record):
    """One page of VMs, newest first, and the cursor of the next page."""

    vms: list[Vm]
    next_cursor: str | None = None


@command(0x0100, Effect.CHANGE, errors=(VmNameTaken, VmIdTaken, VmCidsExhausted))
class CreateVm(Command[Vm]):
    """Create a VM record in state created, with a unique vsock CID.

    With an ``id`` chosen by the client, a request can be repeated after a lost reply: if a VM with this id and the
    same name, role, vCPUs and memory exists, it is returned. The CID is 3 or the highest in use + 1; once the highest
    possible CID is in use, it is the lowest free one.
    """

    name: Annotated[Name, Meta(extra={"metavar": "NAME"})]
    role: Role = VmRole.WORK
    vcpu_count: VcpuCount = 1
    mem_size_mib: MemSizeMib = 128
    managed_by: ManagedBy | None = None
    id: ClientId | None = None


@command(0x0101, Effect.READ, errors=(VmCursorInvalid, QueryInvalid), large_reply=True, all_projects=True)
class ListVms(Command[VmPage]):
    """List VM records, sorted by ``created_at`` and then ``id``, both descending.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow. It
    is bound to the filters and stays valid while VMs are created and deleted.
    """

    role: Annotated[VmRole, Meta(description="only VMs of this role")] | None = None
    state: Annotated[VmState, Meta(description="only VMs in this state")] | None = None
    match: Match | None = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0102, Effect.READ, errors=(VmNotFound, VmAmbiguous))
class GetVm(Command[Vm]):
    """Get one VM record."""

    vm: VmReference


@command(0x0103, Effect.CHANGE, errors=(VmNotFound, VmAmbiguous, VmChanged, VmRunning))
class DeleteVm(Command[Vm]):
    """Delete the record of a VM that is not running, and return it."""

    vm: VmReference
    if_revision: Revision | None = None
    if_state_revision: StateRevision | None = None


@command(0x0107, Effect.CHANGE, errors=(VmNotFound, VmAmbiguous, VmChanged, VmRunning, VmNameTaken))
class UpdateVm(Command[Vm]):
    """Change the name, role, vCPUs or memory of a VM that is not running."""

    vm: VmReference
    name: Annotated[Name, Meta(description="a new name")] | None = None
    role: Role | None = None
    vcpu_count: VcpuCount | None = None
    mem_size_mib: MemSizeMib | None = None
    managed_by: ManagedBy | None = None
    if_revision: Revision | None = None
