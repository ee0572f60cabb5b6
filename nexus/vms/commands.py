"""The public contract of VM records: the record, the commands, the errors."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, Record, command
from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted

from nexus.vms.states import VmRole, VmState

__all__ = [
    "CreateVm",
    "DeleteVm",
    "GetVm",
    "ListVms",
    "UpdateVm",
    "Vm",
    "VmAmbiguous",
    "VmCidsExhausted",
    "VmCursorInvalid",
    "VmIdTaken",
    "VmNameTaken",
    "VmNotFound",
    "VmPage",
    "VmRunning",
]

# "$" also matches before a final newline, hence the lookahead.
_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_NAME_PATTERN = (
    r"^(?![0-9A-Fa-f]{8}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{4}-?[0-9A-Fa-f]{12}$)"
    r"[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)"
)

VmName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=_NAME_PATTERN,
        description="1 to 64 of A-Z a-z 0-9 . _ -, the first a letter or digit, and not in the form of a UUID",
    ),
]
VmReference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="the id, else the name, else a unique prefix of the id of 4 or more characters",
        extra={"metavar": "NAME", "completes": "vm"},
    ),
]
VcpuCount = Annotated[int, Meta(ge=1, le=32, description="virtual CPUs, 1 to 32", extra={"option": "--vcpu"})]
MemSizeMib = Annotated[
    int, Meta(ge=16, le=1_048_576, description="memory in MiB, 16 to 1048576", extra={"option": "--mem"})
]
Role = Annotated[VmRole, Meta(description="the purpose of the VM: portal, work or service")]


class VmNotFound(NotFound):
    """No VM has this id or name."""

    type = "vm.not_found"


class VmAmbiguous(Conflict):
    """Several ids begin with this reference; ``details.matches`` lists some of them."""

    type = "vm.ambiguous"


class VmNameTaken(Conflict):
    """Another VM has this name."""

    type = "vm.name_taken"


class VmIdTaken(Conflict):
    """A VM with this id exists and differs from the request."""

    type = "vm.id_taken"


class VmCidsExhausted(ResourceExhausted):
    """All 4,294,967,292 vsock context ids are in use."""

    type = "vm.cids_exhausted"


class VmRunning(FailedPrecondition):
    """The VM is running; the command needs one that is not."""

    type = "vm.running"


class VmCursorInvalid(InvalidArgument):
    """The cursor was not returned by ListVms for these filters."""

    type = "vm.cursor_invalid"


class Vm(Record):
    """A VM record. Optional fields are present only if they are set."""

    id: str
    name: str
    role: VmRole
    state: VmState
    cid: int
    """vsock context id, 3 to 4294967294, unique."""
    vcpu_count: int
    mem_size_mib: int
    created_at: int
    updated_at: int
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

    name: Annotated[VmName, Meta(extra={"metavar": "NAME"})]
    role: Role = VmRole.WORK
    vcpu_count: VcpuCount = 1
    mem_size_mib: MemSizeMib = 128
    id: (
        Annotated[
            str,
            Meta(
                pattern=f"^{_UUID}$(?!\\n)",
                description="a UUID chosen by the client, in lower case, which makes the request safe to repeat",
            ),
        ]
        | None
    ) = None


@command(0x0101, Effect.READ, errors=(VmCursorInvalid,), large_reply=True)
class ListVms(Command[VmPage]):
    """List VM records, sorted by ``created_at`` and then ``id``, both descending.

    A page ends at ``limit`` records or 1 MiB, whichever comes first; ``next_cursor`` is present when more follow. It
    is bound to the filters and stays valid while VMs are created and deleted.
    """

    role: Annotated[VmRole, Meta(description="only VMs of this role")] | None = None
    state: Annotated[VmState, Meta(description="only VMs in this state")] | None = None
    limit: Annotated[int, Meta(ge=1, le=10_000, description="records in a page, 1 to 10000")] = 1000
    cursor: Annotated[str, Meta(max_length=512, description="next_cursor of the previous page")] | None = None


@command(0x0102, Effect.READ, errors=(VmNotFound, VmAmbiguous))
class GetVm(Command[Vm]):
    """Get one VM record."""

    vm: VmReference


@command(0x0103, Effect.CHANGE, errors=(VmNotFound, VmAmbiguous, VmRunning))
class DeleteVm(Command[Vm]):
    """Delete the record of a VM that is not running, and return it."""

    vm: VmReference


@command(0x0107, Effect.CHANGE, errors=(VmNotFound, VmAmbiguous, VmRunning, VmNameTaken))
class UpdateVm(Command[Vm]):
    """Change the name, role, vCPUs or memory of a VM that is not running."""

    vm: VmReference
    name: Annotated[VmName, Meta(description="a new name")] | None = None
    role: Role | None = None
    vcpu_count: VcpuCount | None = None
    mem_size_mib: MemSizeMib | None = None
