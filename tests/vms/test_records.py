"""VM records through a real daemon: names, bounds, references, repeated requests, updates."""

from __future__ import annotations

import contextlib
import sqlite3
import uuid
from collections.abc import Iterator

import pytest
from nexus_protocol import InvalidArgument
from support.daemon import DaemonProcess
from support.raw import RawClient, pack

from nexus.journal.commands import WatchEvents
from nexus.records.scope import DEFAULT_ID
from nexus.store.connection import connect
from nexus.store.migrate import available_migrations
from nexus.store.writer import Numbers, SqliteTransaction
from nexus.vms import store
from nexus.vms.commands import (
    CreateVm,
    DeleteVm,
    GetVm,
    ListVms,
    UpdateVm,
    VmAmbiguous,
    VmCidsExhausted,
    VmIdTaken,
    VmNameTaken,
    VmNotFound,
    VmRunning,
)
from nexus.vms.states import TRANSITIONS, VmRole, VmState


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[RawClient]:
    """A connection to the shared daemon; all VMs are deleted afterwards."""
    with RawClient(shared.socket_path) as client:
        yield client
        for vm in client.call(ListVms(limit=10_000)).vms:
            client.call(DeleteVm(vm.id))


def _events(client: RawClient) -> int:
    sequence = client.begin(WatchEvents(follow=False))
    return len(list(client.items(sequence)))


def _edit(daemon: DaemonProcess, sql: str, *parameters: object) -> None:
    """Stop the daemon, change its database directly, and start it again."""
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.database)) as connection:
        connection.execute(sql, parameters)
        connection.commit()
    daemon.start()


# Names and bounds


@pytest.mark.parametrize("name", ["a", "7", "A.b_c-d", "x" * 64, "web.1", "0-0", "deadbeef", "a" * 31 + "g"])
def test_valid_names_are_accepted_unchanged(client: RawClient, name: str) -> None:
    assert client.call(CreateVm(name=name)).name == name
    assert client.call(GetVm(name)).name == name


BAD_NAMES = [
    "", "x" * 65, "-a", ".a", "_a", "a b", " a", "a ", "a\n", "a\r\n", "\n", "a\x00", "a/b", "../a", "ä", "aä",
    "vm\u202e", "\u0661", "0f8fad5b-d9cb-469f-a165-70867728950e", "0F8FAD5B-D9CB-469F-A165-70867728950E",
    "0f8fad5bd9cb469fa16570867728950e", "0F8FAD5BD9CB469FA16570867728950E", "a:b", "a,b", "a*",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_invalid_names_are_refused_with_the_field(client: RawClient, name: str) -> None:
    client.call(CreateVm(name="good"))
    for error in (client.call_error(CreateVm(name=name)), client.call_error(UpdateVm("good", name=name))):
        assert isinstance(error, InvalidArgument)
        assert error.details["path"] == "name"
    assert client.call(GetVm("good")).name == "good"


@pytest.mark.parametrize(
    ("field", "good", "bad"),
    [
        ("vcpu_count", (1, 32), (0, 33, -1, 2**63, 1.0, True, "1")),
        ("mem_size_mib", (16, 1_048_576), (15, 1_048_577, 0, -128, 2**64 - 1)),
        ("role", ("portal", "work", "service"), ("", "Work", "vm", 1)),
        ("id", (str(uuid.uuid4()),), ("", "x", str(uuid.uuid4()).upper(), uuid.uuid4().hex, str(uuid.uuid4()) + "\n")),
    ],
)
def test_bounds_are_inclusive_and_errors_name_the_field(
    client: RawClient, field: str, good: tuple[object, ...], bad: tuple[object, ...]
) -> None:
    for number, value in enumerate(good):
        assert client.result(client.begin_raw(0x0100, pack({"name": f"vm{number}", field: value})))[field] == value
    for value in bad:
        error = client.error(client.begin_raw(0x0100, pack({"name": "bad", field: value})))
        assert isinstance(error, InvalidArgument), value
        assert error.details["path"] == field
    assert isinstance(client.call_error(GetVm("bad")), VmNotFound)


def test_new_vm_has_defaults_and_no_unset_fields(client: RawClient) -> None:
    sequence = client.begin(CreateVm(name="plain"))
    vm = client.result(sequence)
    assert str(uuid.UUID(vm["id"])) == vm["id"]
    assert vm["created_at"] == vm["updated_at"]
    assert {key: value for key, value in vm.items() if key not in ("id", "created_at", "updated_at")} == {
        "project": "default", "project_id": DEFAULT_ID,
        "name": "plain", "role": "work", "state": "created", "cid": 3, "vcpu_count": 1, "mem_size_mib": 128,
        "revision": 1, "state_revision": 0,
    }  # fmt: skip


# Repeated requests


def test_repeated_create_with_an_id_returns_the_same_vm_without_an_event(client: RawClient) -> None:
    request = CreateVm(name="once", role=VmRole.PORTAL, vcpu_count=2, mem_size_mib=64, id=str(uuid.uuid4()))
    vm = client.call(request)
    assert vm.id == request.id
    events = _events(client)
    assert client.call(request) == vm
    assert _events(client) == events


@pytest.mark.parametrize(
    "change", [{"name": "other"}, {"role": VmRole.SERVICE}, {"vcpu_count": 3}, {"mem_size_mib": 65}], ids=str
)
def test_create_with_a_used_id_and_other_values_is_refused(client: RawClient, change: dict[str, object]) -> None:
    same = {"name": "once", "role": VmRole.PORTAL, "vcpu_count": 2, "mem_size_mib": 64, "id": str(uuid.uuid4())}
    client.call(CreateVm(**same))  # type: ignore[arg-type]
    error = client.call_error(CreateVm(**same | change))  # type: ignore[arg-type]
    assert isinstance(error, VmIdTaken)
    assert error.details["id"] == same["id"]


def test_create_with_a_used_name_is_refused_with_and_without_an_id(client: RawClient) -> None:
    vm = client.call(CreateVm(name="web"))
    for id_ in (None, str(uuid.uuid4())):
        error = client.call_error(CreateVm(name="web", id=id_))
        assert isinstance(error, VmNameTaken)
        assert error.details == {"name": "web", "id": vm.id}
        assert "nexusctl vm inspect web" in str(error.hint)
    assert client.call(CreateVm(name="WEB")).name == "WEB", "names differ by case"


# References


def test_reference_matches_id_then_name_then_id_prefix(client: RawClient) -> None:
    one = client.call(CreateVm(name="one", id="abcd1111-0000-4000-8000-000000000001"))
    two = client.call(CreateVm(name="two", id="abcd2222-0000-4000-8000-000000000002"))
    named = client.call(CreateVm(name="abcd1"))
    assert client.call(GetVm(one.id)) == one
    assert client.call(GetVm("two")) == two
    assert client.call(GetVm("abcd1")) == named, "a name takes precedence over a prefix"
    assert client.call(GetVm("abcd11")) == one
    assert client.call(GetVm("ABCD2")) == two
    assert client.call(GetVm("abcd2222-0000-4000-8000-00000000000")) == two
    error = client.call_error(GetVm("abcd"))
    assert isinstance(error, VmAmbiguous)
    assert sorted(match["name"] for match in error.details["matches"]) == ["one", "two"]
    for reference in ("abc", "abcd3", "abcd1111-0000-4000-8000-0000000000011", "%", "abc_", "abcd*", "tw", "two\n"):
        assert isinstance(client.call_error(GetVm(reference)), VmNotFound), reference
    assert isinstance(client.call_error(GetVm("")), InvalidArgument)
    assert isinstance(client.call_error(DeleteVm("abcd")), VmAmbiguous)
    assert isinstance(client.call_error(UpdateVm("abcd", vcpu_count=2)), VmAmbiguous)
    assert client.call(DeleteVm("abcd2")) == two
    assert isinstance(client.call_error(GetVm("two")), VmNotFound)


def test_ambiguous_prefix_lists_some_of_the_matches(client: RawClient) -> None:
    for number in range(20):
        client.call(CreateVm(name=f"vm{number}", id=f"feed0000-0000-4000-8000-{number:012x}"))
    error = client.call_error(GetVm("feed"))
    assert 2 <= len(error.details["matches"]) <= 10


# Updates


def test_update_changes_only_the_given_fields(client: RawClient) -> None:
    before = client.call(CreateVm(name="web"))
    after = client.call(UpdateVm("web", name="shop", role=VmRole.SERVICE, vcpu_count=4, mem_size_mib=512))
    assert (after.name, after.role, after.vcpu_count, after.mem_size_mib) == ("shop", "service", 4, 512)
    assert (after.id, after.cid, after.state, after.created_at) == (
        before.id,
        before.cid,
        before.state,
        before.created_at,
    )
    assert after.updated_at >= before.updated_at
    assert client.call(GetVm("shop")) == after
    assert isinstance(client.call_error(GetVm("web")), VmNotFound)


def test_update_to_the_current_values_writes_no_event(client: RawClient) -> None:
    vm = client.call(CreateVm(name="web"))
    events = _events(client)
    assert client.call(UpdateVm("web", name="web", vcpu_count=1)) == vm
    assert _events(client) == events


def test_update_without_fields_of_an_unknown_vm_or_to_a_used_name_is_refused(client: RawClient) -> None:
    client.call(CreateVm(name="one"))
    client.call(CreateVm(name="two"))
    assert isinstance(client.call_error(UpdateVm("one")), InvalidArgument)
    assert isinstance(client.call_error(UpdateVm("nobody", vcpu_count=2)), VmNotFound)
    assert isinstance(client.call_error(UpdateVm("one", name="two", vcpu_count=9)), VmNameTaken)
    assert client.call(GetVm("one")).vcpu_count == 1, "the update was refused as a whole"


def test_delete_returns_the_vm_and_frees_its_name(client: RawClient) -> None:
    vm = client.call(CreateVm(name="web"))
    assert client.call(DeleteVm("web")) == vm
    assert isinstance(client.call_error(DeleteVm("web")), VmNotFound)
    assert client.call(CreateVm(name="web")).id != vm.id


# States


@pytest.mark.parametrize("state", list(VmState))
def test_only_a_running_vm_refuses_update_and_delete(daemon: DaemonProcess, state: VmState) -> None:
    with RawClient(daemon.socket_path) as client:
        vm = client.call(CreateVm(name="web"))
    _edit(daemon, "UPDATE vms SET state = ?, started_at = 5, pid = 77, config_json = '{}'", state.value)
    with RawClient(daemon.socket_path) as client:
        found = client.call(GetVm("web"))
        assert (found.state, found.started_at, found.pid, found.config_json) == (state, 5, 77, "{}")
        assert client.call(ListVms(state=state)).vms == [found]
        if state is VmState.RUNNING:
            for refused in (DeleteVm(vm.id), UpdateVm("web", vcpu_count=2), UpdateVm("web", name="web")):
                error = client.call_error(refused)
                assert isinstance(error, VmRunning)
                assert error.code == "failed_precondition"
                assert error.details == {"id": vm.id, "name": "web"}
            assert client.call(GetVm("web")) == found
        else:
            assert client.call(UpdateVm("web", vcpu_count=2)).vcpu_count == 2
            assert client.call(DeleteVm("web")).state == state


def test_transition_table_covers_every_state_and_has_no_final_state() -> None:
    assert set(TRANSITIONS) == set(VmState)
    allowed = {(a.value, b.value) for a, following in TRANSITIONS.items() for b in following}
    assert allowed == {
        ("created", "running"), ("created", "failed"),
        ("running", "stopped"), ("running", "crashed"), ("running", "failed"),
        ("stopped", "running"), ("stopped", "failed"),
        ("crashed", "running"), ("crashed", "failed"),
        ("failed", "running"),
    }  # fmt: skip


# CIDs


def test_cids_count_up_from_3_and_skip_freed_ones_below_the_highest(client: RawClient) -> None:
    assert [client.call(CreateVm(name=f"vm{n}")).cid for n in range(4)] == [3, 4, 5, 6]
    client.call(DeleteVm("vm1"))
    assert client.call(CreateVm(name="next")).cid == 7
    client.call(DeleteVm("next"))
    assert client.call(CreateVm(name="again")).cid == 7


def test_lowest_free_cid_is_used_once_the_last_one_is_in_use(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        for number in range(5):
            client.call(CreateVm(name=f"vm{number}"))
    _edit(daemon, "UPDATE vms SET cid = 4294967294 WHERE name = 'vm4'")
    with RawClient(daemon.socket_path) as client:
        client.call(DeleteVm("vm0"))
        client.call(DeleteVm("vm2"))
        assert [client.call(CreateVm(name=f"new{n}")).cid for n in range(4)] == [3, 5, 7, 8]
        client.call(DeleteVm("vm4"))
        assert client.call(CreateVm(name="after")).cid == 9


def test_create_without_a_free_cid_fails_with_cids_exhausted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four billion rows are too many for a test: the same table and statements are used with a range of three CIDs."""
    monkeypatch.setattr(store, "LAST_CID", 5)
    with contextlib.closing(connect(":memory:", isolation_level=None)) as connection:
        for statement in available_migrations()[1].up:
            connection.execute(statement.replace("4294967294", "5"))
        tx = SqliteTransaction(connection, 0, Numbers(b"k" * 32))

        def insert(name: str) -> int:
            cid = store.free_cid(tx)
            values = (str(uuid.uuid4()), name, "work", "created", cid)
            tx.execute("INSERT INTO vms (id, name, role, state, cid) VALUES (?, ?, ?, ?, ?)", values)
            return cid

        assert [insert(name) for name in ("a", "b", "c")] == [3, 4, 5]
        with pytest.raises(VmCidsExhausted) as caught:
            insert("d")
        assert caught.value.code == "resource_exhausted"
        assert caught.value.hint
        connection.execute("DELETE FROM vms WHERE cid = 4")
        assert insert("d") == 4
