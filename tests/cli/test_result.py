"""What a verb prints: the record, and the map that was received; and the values of a command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from nexus_protocol.errors import BadFrame
from support.typing_check import mypy

from nexus.cli.result import Result, Results, received
from nexus.cli.verbs import Values
from nexus.vms.commands import GetVm, ListVms, UpdateVm, Vm, VmPage
from nexus.vms.states import VmRole

PLAIN: dict[str, Any] = {
    "id": "1",
    "name": "box",
    "project_id": "p",
    "project": "default",
    "role": "work",
    "state": "created",
    "cid": 3,
    "vcpu_count": 1,
    "mem_size_mib": 128,
    "created_at": 5,
    "updated_at": 5,
    "revision": 1,
    "state_revision": 0,
    "of_the_future": 1,
}


def test_result_has_the_record_and_the_map_that_was_received() -> None:
    found = received(GetVm("box"), PLAIN)
    assert found.plain is PLAIN
    assert (found.record.name, found.record.role) == ("box", VmRole.WORK)
    assert found.record is found.record


def test_record_is_decoded_only_when_it_is_read() -> None:
    found = received(GetVm("box"), {"id": "1"})
    assert found.plain == {"id": "1"}
    with pytest.raises(BadFrame, match="missing required field"):
        _ = found.record


def test_rows_are_named_by_the_field_of_the_page() -> None:
    rows = received(ListVms(), {"vms": [PLAIN, PLAIN | {"name": "other"}]}).rows(VmPage.vms)
    assert rows.plain[1]["name"] == "other"
    assert [vm.name for vm in rows.records] == ["box", "other"]
    assert [(one.plain["name"], one.record.name) for one in rows] == [("box", "box"), ("other", "other")]
    assert len(received(ListVms(), {}).rows(VmPage.vms)) == 0


def test_lists_are_joined_in_their_order() -> None:
    pages = [received(ListVms(), {"vms": [PLAIN | {"name": name}]}).rows(VmPage.vms) for name in "abc"]
    joined = Results.joined(pages)
    assert [vm.name for vm in joined.records] == [plain["name"] for plain in joined.plain] == ["a", "b", "c"]
    assert len(Results.joined([])) == 0
    gathered: list[Result[Vm]] = list(joined)[::-1]
    assert [vm.name for vm in Results.of(gathered).records] == ["c", "b", "a"]


def test_values_are_read_by_type_and_build_a_command() -> None:
    values = Values(
        {"vm": "box", "role": "service", "mem_size_mib": 64, "name": None, "yes": True, "names": ("a", "b")}
    )
    assert values.build(UpdateVm, vcpu_count=2) == UpdateVm("box", role=VmRole.SERVICE, mem_size_mib=64, vcpu_count=2)
    assert (values.word("vm"), values.text("name"), values.number("mem_size_mib"), values.flag("yes")) == (
        "box",
        None,
        64,
        True,
    )
    assert values.every("names", str) == ["a", "b"]
    with pytest.raises(AssertionError):
        values.word("mem_size_mib")
    values.drop("yes")
    assert not values.any_given(lambda name: name == "name")
    values.put("name", "new")
    assert values.any_given(lambda name: name == "name")


@pytest.mark.slow
def test_type_checker_finds_a_misspelt_field_of_a_record() -> None:
    checked = mypy(Path(__file__).with_name("typed.py"))
    assert checked.returncode == 0, checked.stdout
