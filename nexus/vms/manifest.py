"""The section ``vms`` of ``nexus.toml``: VM records."""

from __future__ import annotations

from collections.abc import Sequence

from nexus.cli.apply.keys import Keys
from nexus.cli.apply.sections import PlainSection, Planning
from nexus.cli.apply.steps import Change
from nexus.cli.records import Noun
from nexus.vms.commands import CreateVm, DeleteVm, GetVm, ListVms, UpdateVm, Vm, VmPage
from nexus.vms.states import VmState

__all__ = ["SECTIONS", "VMS"]


class _Vms(PlainSection[Vm]):
    def pruned(self, planning: Planning) -> list[str]:
        names = super().pruned(planning)
        for name in names if planning.prune else ():
            if self.observed(planning)[name].state == VmState.RUNNING:
                raise planning.file.wrong(
                    (self.table,),
                    f'cannot remove VM "{name}", which is no longer in the file: it is running',
                    "Stop it first, or apply without --prune.",
                )
        return names

    def check_update(self, planning: Planning, record: Vm, changes: Sequence[Change]) -> None:
        if record.state == VmState.RUNNING:
            name = record.name
            raise planning.file.wrong(
                (self.table, name, *self.keys.path(changes[0].field)),
                f'cannot update VM "{name}": it is running',
                "Stop it first, or leave it as it is.",
            )


VMS = _Vms(
    "vms",
    "vm",
    Noun("VM", "VMs", "vm", VmPage.vms),
    "VM records",
    Keys(CreateVm),
    list_=ListVms,
    get=GetVm,
    update=UpdateVm,
    remove=DeleteVm,
    mark="v",
)
SECTIONS = (VMS,)
