"""``nexusctl vm``: the verbs of VM records, and how VM records are printed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nexus.cli.output import Column, Printer, can_ask, confirm, format_time, hint, print_fields
from nexus.cli.verbs import NounGroup, Number, build_command, completers, for_each, verb
from nexus.hints import command_line
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["vm"]

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


def _create(app: App, values: dict[str, Any], out: Printer) -> None:
    vm = app.call_raw(build_command(CreateVm, values))

    def sentence() -> None:
        click.echo(f'Created VM "{vm["name"]}" (state: {vm["state"]}, CID: {vm["cid"]})')
        hint(f"Inspect it: {command_line('nexusctl', 'vm', 'inspect', vm['name'])}")

    out.one(vm, key="name", sentence=sentence)


def _list(app: App, values: dict[str, Any], out: Printer) -> None:
    limit = values.pop("limit")
    vms: list[dict[str, Any]] = []
    cursor: str | None = None
    while limit is None or len(vms) < limit:
        page_limit = 10_000 if limit is None else min(10_000, limit - len(vms))
        page = app.call_raw(build_command(ListVms, {**values, "limit": page_limit, "cursor": cursor}))
        vms += page["vms"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    out.many(vms, _COLUMNS, key="name", nothing="No VMs found.")


def _inspect(app: App, values: dict[str, Any], out: Printer) -> int:
    found: list[dict[str, Any]] = []
    code = for_each(values["vm"], lambda name: found.append(app.call_raw(GetVm(name))))
    if out.for_person:
        for index, vm in enumerate(found):
            click.echo("\n" * (index > 0), nl=False)
            _print_vm(vm)
    elif len(values["vm"]) > 1:
        out.many(found, (), key="name", nothing="No VMs found.")
    elif found:
        out.one(found[0], key="name", sentence=lambda: None)
    return code


def _print_vm(vm: dict[str, Any]) -> None:
    print_fields(
        [
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
    )


def _update(app: App, values: dict[str, Any], out: Printer) -> None:
    if all(values[field] is None for field in ("name", "role", "vcpu_count", "mem_size_mib")):
        raise click.UsageError("nothing to change: give --name, --role, --vcpu or --mem")
    vm = app.call_raw(build_command(UpdateVm, values))
    out.one(vm, key="name", sentence=lambda: click.echo(f'Updated VM "{vm["name"]}"'))


def _delete(app: App, values: dict[str, Any], out: Printer) -> int:
    names = values["vm"]
    if not values["yes"]:
        # A name that begins with a dash must come after --.
        words = ["--yes", "--", *names] if any(name.startswith("-") for name in names) else [*names, "--yes"]
        line = command_line("nexusctl", "vm", "delete", *words)
        question = ""
        if can_ask():
            found: list[dict[str, Any]] = []
            code = for_each(names, lambda name: found.append(app.call_raw(GetVm(name))))
            if code:
                return code
            question = _delete_question(found)
            names = tuple(vm["id"] for vm in found)  # the VMs of the question, even if their names are taken meanwhile
        if not confirm(question, "refusing to delete VM without confirmation", line):
            return 1

    deleted: list[dict[str, Any]] = []

    def delete(name: str) -> None:
        vm = app.call_raw(DeleteVm(name))
        deleted.append(vm)
        if not one_document:
            out.one(vm, key="name", sentence=lambda: click.echo(f'Deleted VM "{vm["name"]}"'))

    one_document = out.output == "json" and len(names) > 1
    code = for_each(names, delete)
    if one_document:
        out.many(deleted, (), key="name", nothing="No VMs deleted.")
    return code


def _delete_question(vms: list[dict[str, Any]]) -> str:
    """The question, with full names and ids, since a prefix of an id may have been typed."""
    shown = [f'"{vm["name"]}" ({vm["id"]})' for vm in vms]
    if len(shown) == 1:
        return f"Delete VM {shown[0]}?"
    return f"Delete {len(shown)} VMs: {', '.join(shown)}?"


def _make_list() -> click.Command:
    limit = click.Option(["--limit"], type=Number(1), help="Maximum number of VMs (default: all).")
    return verb(ListVms, _list, parameters=[limit], exclude=("cursor", "limit"))


def _make_delete() -> click.Command:
    yes = click.Option(["-y", "--yes"], is_flag=True, help="Skip confirmation.")
    return verb(DeleteVm, _delete, parameters=[yes], variadic=True)


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
        "create": ("Create a VM record.", lambda: verb(CreateVm, _create, help=_CREATE_HELP)),
        "list": ("List VMs, newest first.", _make_list),
        "inspect": ("Show VM details.", lambda: verb(GetVm, _inspect, variadic=True, help=_INSPECT_HELP)),
        "update": ("Change a VM that is not running.", lambda: verb(UpdateVm, _update)),
        "delete": ("Delete the record of a VM that is not running.", _make_delete),
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
