"""Paged lists: no record twice and none missed, also during concurrent changes."""

from __future__ import annotations

import base64
import contextlib
import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nexus_protocol import InvalidArgument
from support.daemon import DaemonProcess
from support.raw import RawClient, pack
from support.soak import SOAK

from nexus.vms.commands import CreateVm, DeleteVm, ListVms, Vm, VmCursorInvalid
from nexus.vms.states import VmRole, VmState

MIB = 1024 * 1024


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[RawClient]:
    """A connection to the shared daemon, which has no VMs at first."""
    with RawClient(shared.socket_path) as client:
        _empty(client)
        yield client


def _empty(client: RawClient) -> None:
    for sequence in client.begin_many(DeleteVm(vm.id) for vm in _all(client, limit=10_000)):
        client.payload(sequence)


def _create(client: RawClient, count: int, role: VmRole = VmRole.WORK, prefix: str = "vm") -> None:
    for sequence in client.begin_many(CreateVm(name=f"{prefix}-{n}", role=role) for n in range(count)):
        client.payload(sequence)


def _all(client: RawClient, limit: int = 1000, role: VmRole | None = None, state: VmState | None = None) -> list[Vm]:
    vms: list[Vm] = []
    cursor = None
    while True:
        page = client.call(ListVms(role=role, state=state, limit=limit, cursor=cursor))
        assert len(page.vms) <= limit
        vms += page.vms
        cursor = page.next_cursor
        if cursor is None:
            return vms


def _in_order(vms: list[Vm]) -> bool:
    keys = [(vm.created_at, vm.id) for vm in vms]
    return keys == sorted(keys, reverse=True)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 19, 20, 21, 10_000])
def test_pages_of_any_size_return_every_vm_once_in_order(client: RawClient, limit: int) -> None:
    _create(client, 20)
    vms = _all(client, limit)
    assert _in_order(vms)
    assert sorted(vm.name for vm in vms) == sorted(f"vm-{n}" for n in range(20))


def test_empty_list_has_no_cursor(client: RawClient) -> None:
    page = client.call(ListVms())
    assert (page.vms, page.next_cursor) == ([], None)


def test_vms_of_the_same_millisecond_are_sorted_by_id(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        _create(client, 50)
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        connection.execute("UPDATE vms SET created_at = 1700000000000 + cid % 2")
        connection.commit()
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        for limit in (1, 7, 25, 1000):
            vms = _all(client, limit)
            assert _in_order(vms)
            assert len({vm.id for vm in vms}) == 50


def test_filters_apply_to_every_page(client: RawClient) -> None:
    _create(client, 10, VmRole.WORK, "work")
    _create(client, 10, VmRole.PORTAL, "portal")
    assert {vm.role for vm in _all(client, 3, role=VmRole.PORTAL)} == {VmRole.PORTAL}
    assert len(_all(client, 3, role=VmRole.PORTAL, state=VmState.CREATED)) == 10
    assert _all(client, 3, state=VmState.RUNNING) == []
    assert _all(client, 3, role=VmRole.SERVICE) == []


@pytest.mark.parametrize("limit", [0, -1, 10_001, 2**64 - 1])
def test_limit_out_of_bounds_is_refused(client: RawClient, limit: int) -> None:
    error = client.error(client.begin_raw(0x0101, pack({"limit": limit})))
    assert isinstance(error, InvalidArgument)
    assert error.details["path"] == "limit"


def test_cursor_is_bound_to_its_filters(client: RawClient) -> None:
    _create(client, 4)
    cursor = client.call(ListVms(limit=2, role=VmRole.WORK)).next_cursor
    for role, state in ((None, None), (VmRole.PORTAL, None), (VmRole.WORK, VmState.CREATED)):
        error = client.call_error(ListVms(limit=2, role=role, state=state, cursor=cursor))
        assert isinstance(error, VmCursorInvalid)
        assert error.details["path"] == "cursor"
        assert error.hint
    assert len(client.call(ListVms(limit=1, role=VmRole.WORK, cursor=cursor)).vms) == 1, "another limit is fine"


def _cursor(value: object) -> str:
    return base64.urlsafe_b64encode(pack(value)).decode().rstrip("=")


@pytest.mark.parametrize(
    "cursor",
    [
        "", "x", "é", "AAAA", "====", "A" * 512, _cursor([]), _cursor([None, None, 1]), _cursor([[None, None], [1]]),
        _cursor([[None, None], [2**63, "a"]]), _cursor([[None, None], [2**64 - 1, "a"]]),
        _cursor([[None, None], [-1, 5]]), _cursor([[None, None], [1.5, "a"]]), _cursor({"a": 1}),
        _cursor([[1, 2], [3, "a"]]), _cursor([[None, None], ["x", "a"]]), _cursor([[None, None], [1, b"a"]]),
        _cursor([[None, None, None], [1, "a"]]), _cursor([None, [1, "a"]]), _cursor([[[[]]], [1, "a"]]),
    ],
)  # fmt: skip
def test_invalid_cursor_is_refused(client: RawClient, cursor: str) -> None:
    assert isinstance(client.call_error(ListVms(cursor=cursor)), VmCursorInvalid)


@pytest.mark.slow
def test_page_of_ten_thousand_vms_ends_at_one_mebibyte(client: RawClient) -> None:
    _create(client, 10_000)
    sequence = client.begin(ListVms(limit=10_000))
    payload = client.payload(sequence)
    assert MIB * 0.99 < len(payload) < MIB * 1.01
    vms = _all(client, limit=10_000)
    assert _in_order(vms)
    assert len({vm.id for vm in vms}) == 10_000
    _empty(client)


_steps = st.lists(
    st.one_of(
        st.tuples(st.just("create"), st.integers(1, 4)),
        st.tuples(st.just("delete"), st.integers(0, 30)),
        st.tuples(st.just("page"), st.integers(1, 5)),
    ),
    max_size=25,
)


@settings(
    max_examples=40 * SOAK, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(initial=st.integers(0, 15), steps=_steps)
def test_paging_returns_every_vm_that_exists_throughout_concurrent_changes(
    shared: DaemonProcess, initial: int, steps: list[tuple[str, int]]
) -> None:
    with RawClient(shared.socket_path) as client:
        _empty(client)
        _create(client, initial)
        existing = {vm.id for vm in _all(client)}
        stayed = set(existing)
        walked: list[Vm] = []
        cursor: str | None = None
        begun = ended = False
        made = 0
        for step, number in [*steps, *[("page", 5)] * 20]:
            if step == "create":
                for _ in range(number):
                    made += 1
                    existing.add(client.call(CreateVm(name=f"more-{made}")).id)
            elif step == "delete" and existing:
                deleted = sorted(existing)[number % len(existing)]
                client.call(DeleteVm(deleted))
                existing.discard(deleted)
                stayed.discard(deleted)
            elif step == "page" and not ended:
                if not begun:
                    begun, stayed = True, set(existing)
                page = client.call(ListVms(limit=number, cursor=cursor))
                walked += page.vms
                cursor = page.next_cursor
                ended = cursor is None
        ids = [vm.id for vm in walked]
        assert ended
        assert _in_order(walked)
        assert len(ids) == len(set(ids)), "no VM twice"
        assert stayed <= set(ids), "no VM missed"
