"""The handlers of the commands on VM records."""

from __future__ import annotations

from nexus.journal.operation import Operation
from nexus.records.contents import Contents, Held, contents
from nexus.records.handlers import creates, deletes, gets, lists, updates
from nexus.store import Reader, Transaction
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, Vm, VmRunning
from nexus.vms.states import VmState
from nexus.vms.store import VMS, free_cid, names_and_states

__all__ = ["COUNTED", "create_vm", "delete_vm", "get_vm", "list_vms", "update_vm"]


def _refuse_running(_tx: Transaction, vm: Vm, _command: object, cannot: str) -> None:
    if vm.state is VmState.RUNNING:
        raise VmRunning(f"{cannot}: VM is running, stop it first", details={"id": vm.id, "name": vm.name})


def _refuse_change(tx: Transaction, vm: Vm, command: UpdateVm, cannot: str) -> None:
    given = {field for field in UpdateVm.__struct_fields__[1:] if getattr(command, field) is not None}
    if given - {"if_revision", "managed_by"}:  # what manages the record is no matter of the VM that runs
        _refuse_running(tx, vm, command, cannot)


create_vm = creates(VMS, CreateVm, lambda tx, _command: {"state": VmState.CREATED, "cid": free_cid(tx)})
get_vm = gets(VMS, GetVm)
list_vms = lists(VMS, ListVms, "vms")
update_vm = updates(VMS, UpdateVm, _refuse_change)
delete_vm = deletes(VMS, DeleteVm, _refuse_running, told=("cid",))
COUNTED = VMS


def _held(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[Held]:
    rows = names_and_states(reader, project_id, after, limit)
    return [Held("vm", *row, runs=row[2] == VmState.RUNNING) for row in rows]


def _delete_all(tx: Transaction, operation: Operation, _project_id: str, held: list[Held]) -> None:
    for each in held:
        VMS.delete(tx, operation, VMS.get(tx, each.id), told=("cid",))


contents(Contents("vm", "VM", _held, _delete_all))
