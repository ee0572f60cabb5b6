"""Verbs as a type checker sees them. ``test_result.py`` runs mypy on it, for which an unused ``ignore`` is an error."""

from __future__ import annotations

from typing import assert_type

from nexus.cli.app import App
from nexus.cli.output import Column
from nexus.cli.records import Noun, all_records
from nexus.cli.result import Result, Results
from nexus.cli.verbs import Values
from nexus.services.commands import GetServiceStatus
from nexus.services.records import Service, ServiceStatus
from nexus.vms.commands import CreateVm, GetVm, ListVms, Vm, VmPage

COLUMN: Column[Vm] = Column("NAME", lambda vm: vm.name)
MISSPELT: Column[Vm] = Column("NAME", lambda vm: vm.nmae)  # type: ignore[attr-defined]
NOUN = Noun("VM", "VMs", "vm", VmPage.vms)


def verb(app: App, values: Values) -> None:
    assert_type(NOUN, Noun[Vm])
    assert_type(values.build(CreateVm), CreateVm)
    assert_type(app.call(values.build(CreateVm)), Vm)
    assert_type(app.fetch(GetVm("box")), Result[Vm])
    assert_type(app.fetch(GetVm("box")).record.cid, int)
    assert_type(app.fetch(ListVms()).rows(VmPage.vms), Results[Vm])
    assert_type(app.fetch(GetServiceStatus("web")).part(ServiceStatus.service), Result[Service])
    assert_type(all_records(app, NOUN, lambda count, cursor: ListVms(limit=count, cursor=cursor)), Results[Vm])
    app.fetch(ListVms()).rows(VmPage.vm)  # type: ignore[attr-defined]
    app.call(GetVm("box")).nmae  # type: ignore[attr-defined]  # noqa: B018
    values.word(1)  # type: ignore[arg-type]
