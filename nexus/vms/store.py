"""All SQL of VM records that ``records.Table`` does not have."""

from __future__ import annotations

from nexus.records.errors import RecordErrors
from nexus.records.table import Table
from nexus.store import Reader, Transaction
from nexus.vms.commands import (
    Vm,
    VmAmbiguous,
    VmChanged,
    VmCidsExhausted,
    VmCursorInvalid,
    VmIdTaken,
    VmNameTaken,
    VmNotFound,
)

__all__ = ["VMS", "free_cid", "names_and_states"]

FIRST_CID = 3
"""0 is the hypervisor, 1 the loopback, 2 the host (vsock(7))."""
LAST_CID = 4_294_967_294
"""4294967295 is VMADDR_CID_ANY."""

VMS = Table(
    Vm,
    "vms",
    kind="vm",
    word="VM",
    look="vm inspect",
    errors=RecordErrors(VmNotFound, VmAmbiguous, VmNameTaken, VmIdTaken, VmChanged, VmCursorInvalid),
    observed=("state", "started_at", "stopped_at", "pid", "socket_path", "uds_path", "console_log_path", "config_json"),
    indexed=("role", "state"),
    told=("role", "cid", "vcpu_count", "mem_size_mib"),
    searchable=True,
)


def names_and_states(reader: Reader, project_id: str, after: str = "", limit: int = -1) -> list[tuple[str, str, str]]:
    """The id, name and state of VMs of a project, by name: at most ``limit`` (-1: all) after a name."""
    return reader.all(
        "SELECT id, name, state FROM vms WHERE project_id = ? AND name > ? ORDER BY name LIMIT ?",
        (project_id, after, limit),
    )


def free_cid(tx: Transaction) -> int:
    """Return 3 or the highest CID in use + 1; once the highest possible one is in use, the lowest free one.

    Raises:
        VmCidsExhausted: every CID is in use.
    """
    row = tx.one("SELECT max(cid) FROM vms")
    highest = FIRST_CID - 1 if row is None or row[0] is None else int(row[0])
    return highest + 1 if highest < LAST_CID else _lowest_free_cid(tx)


def _lowest_free_cid(tx: Transaction) -> int:
    if tx.one("SELECT 1 FROM vms WHERE cid = ?", (FIRST_CID,)) is None:
        return FIRST_CID
    row = tx.one(
        "SELECT a.cid + 1 FROM vms AS a WHERE a.cid < ? "
        "AND NOT EXISTS (SELECT 1 FROM vms AS b WHERE b.cid = a.cid + 1) ORDER BY a.cid LIMIT 1",
        (LAST_CID,),
    )
    if row is None:
        raise VmCidsExhausted(
            "cannot create a VM: every vsock CID is in use", hint="Delete VMs that are no longer needed."
        )
    return int(row[0])
