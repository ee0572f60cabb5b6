"""One handler for each command on VM records."""

from __future__ import annotations

import functools
from typing import Annotated, Any

import msgspec
from nexus_protocol import InvalidArgument

from nexus import journal
from nexus.capability import Context, handles
from nexus.paging import decode_cursor, encode_cursor, read_page
from nexus.store import Transaction
from nexus.vms import store
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, Vm, VmCursorInvalid, VmPage
from nexus.vms.store import count_by_state

__all__ = ["count_by_state", "create_vm", "delete_vm", "get_vm", "list_vms", "update_vm"]


def _record(tx: Transaction, ctx: Context, kind: str, vm: Vm, detail: dict[str, Any]) -> None:
    journal.record(tx, ctx.caller, kind, "vm", vm.id, vm.name, detail)


@handles(CreateVm)
def create_vm(tx: Transaction, ctx: Context, command: CreateVm) -> Vm:
    vm, new = store.insert(tx, command)
    if new:
        detail = {"role": vm.role, "cid": vm.cid, "vcpu_count": vm.vcpu_count, "mem_size_mib": vm.mem_size_mib}
        _record(tx, ctx, "vm.created", vm, detail)
    return vm


@handles(GetVm)
def get_vm(ctx: Context, command: GetVm) -> Vm:
    return ctx.store.read(lambda reader: store.resolve(reader, command.vm))


@handles(DeleteVm)
def delete_vm(tx: Transaction, ctx: Context, command: DeleteVm) -> Vm:
    vm = store.delete(tx, command.vm)
    _record(tx, ctx, "vm.deleted", vm, {"cid": vm.cid})
    return vm


@handles(UpdateVm)
def update_vm(tx: Transaction, ctx: Context, command: UpdateVm) -> Vm:
    if all(value is None for value in (command.name, command.role, command.vcpu_count, command.mem_size_mib)):
        raise InvalidArgument(
            f'cannot update VM "{command.vm}": no field to change was given',
            hint="Give at least one of name, role, vcpu_count and mem_size_mib.",
            details={"path": ""},
        )
    vm, changes = store.update(tx, command)
    if changes:
        _record(tx, ctx, "vm.updated", vm, changes)
    return vm


_Position = tuple[Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)], str]


@handles(ListVms)
async def list_vms(ctx: Context, command: ListVms) -> VmPage:
    filters = (command.role, command.state)
    after: tuple[int, str] | None = None
    if command.cursor is not None:
        hint = "Give the same role and state as for the first page."
        after = decode_cursor(command.cursor, filters, _Position, VmCursorInvalid, hint)
    vms, last = await read_page(
        lambda after, count: ctx.store.read(functools.partial(store.page, after=after, limit=count)),
        lambda vm: (vm.created_at, vm.id),
        lambda vm: command.role in (None, vm.role) and command.state in (None, vm.state),
        after,
        command.limit,
    )
    return VmPage(vms=vms, next_cursor=None if last is None else encode_cursor(filters, last))
