"""``nexusctl vm``: the verbs of VM records, and how VM records are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus.cli.output import Column, format_time
from nexus.cli.records import Noun, make_create, make_delete, make_inspect, make_list, make_update
from nexus.cli.verbs import NounGroup, completers
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["vm"]

_VM = Noun("VM", "VMs", "vm", "vms")
_COLUMNS = (
    Column("NAME", lambda vm: vm["name"], 20),
    Column("ROLE", lambda vm: vm["role"], 10),
    Column("STATE", lambda vm: vm["state"], 10),
    Column("VCPU", lambda vm: vm["vcpu_count"], 6),
    Column("MEM", lambda vm: f"{vm['mem_size_mib']}M", 8),
    Column("CID", lambda vm: vm["cid"], 6),
    Column("CREATED", lambda vm: format_time(vm["created_at"]), wide=True),
    Column("ID", lambda vm: vm["id"], wide=True),
)


def _told(vm: dict[str, Any]) -> str:
    return f"state: {vm['state']}, CID: {vm['cid']}"


def _lines(vm: dict[str, Any]) -> list[tuple[str, Any]]:
    return [
        ("Name", vm["name"]),
        ("ID", vm["id"]),
        ("Role", vm["role"]),
        ("State", vm["state"]),
        ("CID", vm["cid"]),
        ("vCPUs", vm["vcpu_count"]),
        ("Memory", f"{vm['mem_size_mib']} MiB"),
        ("Created", format_time(vm["created_at"])),
        ("Started", format_time(vm.get("started_at"))),
        ("Stopped", format_time(vm.get("stopped_at"))),
    ]


_CREATE_HELP = """Create a VM record with its own vsock CID.

The name has 1 to 64 letters, digits and . _ - and begins with a letter or digit.

\b
    nexusctl vm create web --vcpu 2 --mem 512
"""

_INSPECT_HELP = """Show VM details.

NAME is a name, an id, or the first characters of an id, at least 4.
"""

vm = NounGroup(
    "vm",
    "Manage virtual machines.",
    {
        "create": ("Create a VM record.", lambda: make_create(CreateVm, _VM, told=_told, help=_CREATE_HELP)),
        "list": ("List VMs, newest first.", lambda: make_list(ListVms, _VM, _COLUMNS)),
        "inspect": ("Show VM details.", lambda: make_inspect(GetVm, _VM, _lines, help=_INSPECT_HELP)),
        "update": (
            "Change a VM that is not running.",
            lambda: make_update(UpdateVm, _VM, "--name, --role, --vcpu or --mem"),
        ),
        "delete": ("Delete the record of a VM that is not running.", lambda: make_delete(GetVm, DeleteVm, _VM)),
    },
    {
        **dict.fromkeys(("rm", "remove"), " (did you mean 'delete'?)"),
        **dict.fromkeys(("show", "get", "info"), " (did you mean 'inspect'?)"),
        "ls": " (did you mean 'list'?)",
        **dict.fromkeys(("start", "stop", "restart", "run"), ": this version has VM records, but cannot run VMs yet"),
    },
)


def _complete_vm(app: App, incomplete: str) -> list[str]:
    page = app.call_raw(ListVms(limit=10_000))
    return [vm["name"] for vm in page["vms"] if vm["name"].startswith(incomplete)]


completers["vm"] = _complete_vm
