"""``nexusctl vm``: the verbs of VM records, and how VM records are printed."""

from __future__ import annotations

from nexus.cli.output import Column, format_time
from nexus.cli.records import Noun, record_group
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, Vm, VmPage

__all__ = ["vm"]

_VM = Noun("VM", "VMs", "vm", VmPage.vms)
_COLUMNS: tuple[Column[Vm], ...] = (
    Column("NAME", lambda vm: vm.name, 20),
    Column("ROLE", lambda vm: vm.role, 10),
    Column("STATE", lambda vm: vm.state, 10),
    Column("VCPU", lambda vm: vm.vcpu_count, 6),
    Column("MEM", lambda vm: f"{vm.mem_size_mib}M", 8),
    Column("CID", lambda vm: vm.cid, 6),
    Column("CREATED", lambda vm: format_time(vm.created_at), wide=True),
    Column("ID", lambda vm: vm.id, wide=True),
)


def _lines(vm: Vm) -> list[tuple[str, object]]:
    return [
        ("Name", vm.name),
        ("ID", vm.id),
        ("Project", None if vm.project == "default" else vm.project),
        ("Role", vm.role),
        ("State", vm.state),
        ("CID", vm.cid),
        ("vCPUs", vm.vcpu_count),
        ("Memory", f"{vm.mem_size_mib} MiB"),
        ("Created", format_time(vm.created_at)),
        ("Started", format_time(vm.started_at)),
        ("Stopped", format_time(vm.stopped_at)),
    ]


_CREATE_HELP = """Create a VM record with its own vsock CID.

The name has 1 to 64 letters, digits and . _ - and begins with a letter or digit.

\b
    nexusctl vm create web --vcpu 2 --mem 512
"""

vm = record_group(
    _VM,
    "Manage virtual machines.",
    CreateVm,
    ListVms,
    GetVm,
    UpdateVm,
    DeleteVm,
    columns=_COLUMNS,
    lines=_lines,
    helps=(
        "Create a VM record.",
        "List VMs, newest first.",
        "Show VM details.",
        "Change a VM that is not running.",
        "Delete the record of a VM that is not running.",
    ),
    told=lambda vm: f"state: {vm.state}, CID: {vm.cid}",
    create_help=_CREATE_HELP,
    suggestions=dict.fromkeys(
        ("start", "stop", "restart", "run"), ": this version has VM records, but cannot run VMs yet"
    ),
)
