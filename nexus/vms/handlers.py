"""One function for each command on VM records."""

from __future__ import annotations

import asyncio
import base64
import binascii
import functools
from typing import Annotated, Any

import msgspec
from nexus_protocol import InvalidArgument, encode_record

from nexus import journal
from nexus.handling import PAGE_BYTES, Context, encoded_list, handles
from nexus.store import Transaction
from nexus.vms import store
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, Vm, VmCursorInvalid, VmPage
from nexus.vms.store import count_by_state

__all__ = ["count_by_state", "create_vm", "delete_vm", "get_vm", "list_vms", "update_vm"]

_CHUNK = 100
"""Records read at a time: about half a millisecond of the event loop, then others have their turn."""


def _record(tx: Transaction, ctx: Context, kind: str, vm: Vm, detail: dict[str, Any]) -> None:
    journal.record(tx, ctx.origin, kind, "vm", vm.id, vm.name, detail)


@handles(CreateVm)
async def create_vm(ctx: Context, command: CreateVm) -> Vm:
    def change(tx: Transaction) -> Vm:
        vm, new = store.insert(tx, command)
        if new:
            detail = {
                "role": vm.role,
                "cid": vm.cid,
                "vcpu_count": vm.vcpu_count,
                "mem_size_mib": vm.mem_size_mib,
            }
            _record(tx, ctx, "vm.created", vm, detail)
        return vm

    return await ctx.store.write(change)


@handles(GetVm)
def get_vm(ctx: Context, command: GetVm) -> Vm:
    return ctx.store.read(lambda reader: store.resolve(reader, command.vm))


@handles(DeleteVm)
async def delete_vm(ctx: Context, command: DeleteVm) -> Vm:
    def change(tx: Transaction) -> Vm:
        vm = store.delete(tx, command.vm)
        _record(tx, ctx, "vm.deleted", vm, {"cid": vm.cid})
        return vm

    return await ctx.store.write(change)


@handles(UpdateVm)
async def update_vm(ctx: Context, command: UpdateVm) -> Vm:
    if all(value is None for value in (command.name, command.role, command.vcpu_count, command.mem_size_mib)):
        raise InvalidArgument(
            f'cannot update VM "{command.vm}": nothing to change was given',
            hint="Give at least one of name, role, vcpu_count and mem_size_mib.",
            details={"path": ""},
        )

    def change(tx: Transaction) -> Vm:
        vm, changes = store.update(tx, command)
        if changes:
            _record(tx, ctx, "vm.updated", vm, changes)
        return vm

    return await ctx.store.write(change)


@handles(ListVms)
async def list_vms(ctx: Context, command: ListVms) -> VmPage:
    """The records are read and encoded chunk by chunk, so that a long list delays nobody else.

    What the filters leave out is passed over here and not in SQL, where looking for the next one that fits could
    take as long as the whole table.
    """
    after = _decode_cursor(command)
    encoded: list[bytes] = []
    size = 0
    cursor: str | None = None
    follows = True
    while follows:
        # One more than is looked at tells whether more follow.
        vms = ctx.store.read(functools.partial(store.page, after=after, limit=_CHUNK + 1))
        follows = len(vms) > _CHUNK
        for vm in vms[:_CHUNK]:
            if command.role in (None, vm.role) and command.state in (None, vm.state):
                data = encode_record(vm)
                if len(encoded) == command.limit or (encoded and size + len(data) > PAGE_BYTES):
                    cursor = _encode_cursor(command, after)
                    follows = False
                    break
                encoded.append(data)
                size += len(data)
            after = (vm.created_at, vm.id)
        if follows:
            await asyncio.sleep(0)
    return VmPage(vms=encoded_list(encoded), next_cursor=cursor)


class _Cursor(msgspec.Struct, array_like=True):
    role: str | None
    state: str | None
    created_at: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    id: str


_cursor_decoder = msgspec.msgpack.Decoder(_Cursor)


def _encode_cursor(command: ListVms, after: tuple[int, str] | None) -> str:
    assert after is not None
    return base64.urlsafe_b64encode(encode_record(_Cursor(command.role, command.state, *after))).decode().rstrip("=")


def _decode_cursor(command: ListVms) -> tuple[int, str] | None:
    if command.cursor is None:
        return None
    try:
        raw = base64.b64decode(command.cursor + "=" * (-len(command.cursor) % 4), altchars=b"-_", validate=True)
        cursor = _cursor_decoder.decode(raw)
    except (binascii.Error, ValueError):
        raise VmCursorInvalid(
            "cannot go on with the list: this is not one of its cursors", details={"path": "cursor"}
        ) from None
    if (cursor.role, cursor.state) != (command.role, command.state):
        raise VmCursorInvalid(
            "cannot go on with the list: the cursor belongs to other filters",
            hint="Give the same role and state as for the first page.",
            details={"path": "cursor"},
        )
    return cursor.created_at, cursor.id
