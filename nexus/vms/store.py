"""All SQL of VM records, against a transaction or a reader of the store."""

from __future__ import annotations

import uuid
from typing import Any

from nexus.hints import command_line
from nexus.store import Reader, StoreConflict, Transaction, find_row
from nexus.vms.commands import (
    CreateVm,
    UpdateVm,
    Vm,
    VmAmbiguous,
    VmCidsExhausted,
    VmIdTaken,
    VmNameTaken,
    VmNotFound,
    VmRunning,
)
from nexus.vms.states import VmRole, VmState

__all__ = ["count_by_state", "delete", "find", "insert", "page", "resolve", "update"]

FIRST_CID = 3
"""0 is the hypervisor, 1 the loopback, 2 the host (vsock(7))."""
LAST_CID = 4_294_967_294
"""4294967295 is VMADDR_CID_ANY."""

_COLUMNS = (
    "id, name, role, state, cid, vcpu_count, mem_size_mib, created_at, updated_at, started_at, stopped_at, "
    "pid, socket_path, uds_path, console_log_path, config_json"
)
_ROLES = {role.value: role for role in VmRole}
_STATES = {state.value: state for state in VmState}

_SELECT = f"SELECT {_COLUMNS} FROM vms"
_BY_ID = f"{_SELECT} WHERE id = ?"
_INSERT = (
    "INSERT INTO vms (id, name, role, state, cid, vcpu_count, mem_size_mib, created_at, updated_at) "
    f"VALUES (?1, ?2, ?3, 'created', coalesce(?7, (SELECT coalesce(max(cid) + 1, {FIRST_CID}) FROM vms)), "
    f"?4, ?5, ?6, ?6) RETURNING {_COLUMNS}"
)


def _vm(row: tuple[Any, ...]) -> Vm:
    return Vm(row[0], row[1], _ROLES[row[2]], _STATES[row[3]], *row[4:])


def find(reader: Reader, reference: str) -> Vm | None:
    """Return the VM with exactly this id, else this name, else the only one whose id has this prefix (4 characters).

    Raises:
        VmAmbiguous: several ids begin with it.
    """
    row = find_row(reader, _SELECT, reference, word="VM", ambiguous=VmAmbiguous)
    return None if row is None else _vm(row)


def resolve(reader: Reader, reference: str) -> Vm:
    """Like ``find``, but the VM must exist.

    Raises:
        VmNotFound: no VM has this id or name.
        VmAmbiguous: several ids begin with it.
    """
    vm = find(reader, reference)
    if vm is None:
        raise VmNotFound(f'VM "{reference}" not found', details={"vm": reference})
    return vm


def page(reader: Reader, after: tuple[int, str] | None, limit: int) -> list[Vm]:
    """Return at most ``limit`` VMs, newest first, after the position ``after`` (created_at, id).

    The role and state of these records are plain strings, not enum members. Encoding and comparing accept both, and
    this saves ten thousand look-ups.
    """
    where = "" if after is None else "WHERE (created_at, id) < (?, ?) "
    sql = f"SELECT {_COLUMNS} FROM vms {where}ORDER BY created_at DESC, id DESC LIMIT ?"
    return [Vm(*row) for row in reader.all(sql, (*(after or ()), limit))]


def count_by_state(reader: Reader) -> dict[str, int]:
    """Return the number of VMs in each state; states without VMs are left out."""
    return dict(reader.all("SELECT state, count(*) FROM vms GROUP BY state"))


def insert(tx: Transaction, wanted: CreateVm) -> tuple[Vm, bool]:
    """Create a VM, or return the one that the same request created before; the second value is True for a new VM.

    Raises:
        VmNameTaken, VmIdTaken, VmCidsExhausted: the name, the id or every CID is in use.
    """
    id_ = wanted.id
    if id_ is not None:
        row = tx.one(_BY_ID, (id_,))
        if row is not None:
            vm = _vm(row)
            if (vm.name, vm.role, vm.vcpu_count, vm.mem_size_mib) == (
                wanted.name,
                wanted.role,
                wanted.vcpu_count,
                wanted.mem_size_mib,
            ):
                return vm, False
            raise VmIdTaken(
                f'cannot create VM "{wanted.name}": VM "{vm.name}" has the id {id_} and differs from this request',
                hint="To repeat a request, give the name, role, vCPUs and memory that the VM has now; "
                "for another VM choose another id.",
                details={"id": id_, "name": vm.name},
            )
    row_id = id_ or str(uuid.uuid4())
    values = (row_id, wanted.name, wanted.role.value, wanted.vcpu_count, wanted.mem_size_mib, tx.now)
    try:
        # The common case needs one statement; the cause of a conflict is looked up only when it occurs.
        row = tx.one(_INSERT, (*values, None))
    except StoreConflict:
        _refuse_taken_name(tx, wanted.name, f'cannot create VM "{wanted.name}"')
        row = tx.one(_INSERT, (*values, _lowest_free_cid(tx)))
    assert row is not None
    return _vm(row), True


def _refuse_taken_name(tx: Transaction, name: str, cannot: str) -> None:
    row = tx.one("SELECT id FROM vms WHERE name = ?", (name,))
    if row is not None:
        raise VmNameTaken(
            f'{cannot}: VM name "{name}" already exists',
            hint=f"Choose another name, or look at it: {command_line('nexusctl', 'vm', 'inspect', name)}",
            details={"name": name, "id": row[0]},
        )


def _lowest_free_cid(tx: Transaction) -> int:
    row = tx.one(
        "SELECT min(free) FROM (SELECT ?1 AS free WHERE NOT EXISTS (SELECT 1 FROM vms WHERE cid = ?1) UNION ALL "
        "SELECT * FROM (SELECT a.cid + 1 FROM vms AS a WHERE a.cid < ?2 "
        "AND NOT EXISTS (SELECT 1 FROM vms AS b WHERE b.cid = a.cid + 1) ORDER BY a.cid LIMIT 1))",
        (FIRST_CID, LAST_CID),
    )
    if row is None or row[0] is None:
        raise VmCidsExhausted(
            "cannot create a VM: every vsock CID is in use", hint="Delete VMs that are no longer needed."
        )
    return int(row[0])


def _refuse_running(vm: Vm, cannot: str) -> None:
    if vm.state is VmState.RUNNING:
        raise VmRunning(
            f'{cannot} VM "{vm.name}": VM is running, stop it first', details={"id": vm.id, "name": vm.name}
        )


def delete(tx: Transaction, reference: str) -> Vm:
    """Delete a VM that is not running, and return it.

    Raises:
        VmNotFound, VmAmbiguous: the reference does not name one VM.
        VmRunning: the VM is running.
    """
    vm = resolve(tx, reference)
    _refuse_running(vm, "cannot delete")
    tx.execute("DELETE FROM vms WHERE id = ?", (vm.id,))
    return vm


def update(tx: Transaction, wanted: UpdateVm) -> tuple[Vm, dict[str, Any]]:
    """Change a VM that is not running; returns the new VM, and the changed fields with their old and new values.

    Raises:
        VmNotFound, VmAmbiguous: the reference does not name one VM.
        VmRunning: the VM is running.
        VmNameTaken: another VM has the new name.
    """
    vm = resolve(tx, wanted.vm)
    changes: dict[str, Any] = {}
    for field in ("name", "role", "vcpu_count", "mem_size_mib"):
        value = getattr(wanted, field)
        if value is not None and value != getattr(vm, field):
            changes[field] = {"from": getattr(vm, field), "to": value}
    _refuse_running(vm, "cannot update")
    if "name" in changes:
        _refuse_taken_name(tx, changes["name"]["to"], f'cannot update VM "{vm.name}"')
    if changes:
        columns = ", ".join(f"{field} = ?" for field in changes)
        values = [str(c["to"]) if isinstance(c["to"], VmRole) else c["to"] for c in changes.values()]
        tx.execute(f"UPDATE vms SET {columns}, updated_at = max(?, created_at) WHERE id = ?", (*values, tx.now, vm.id))
    return resolve(tx, vm.id), changes
