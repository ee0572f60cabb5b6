"""Service records through a real daemon: names, references, repeated requests, updates, lists, durability."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from nexus_protocol import Command, InvalidArgument, NexusError, encode_record
from support.daemon import DaemonProcess
from support.raw import RawClient, pack

from nexus.journal.commands import WatchEvents
from nexus.records.scope import DEFAULT_ID
from nexus.services.commands import (
    AddDependency,
    AddService,
    GetConfig,
    GetServiceStatus,
    ListServices,
    RemoveService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.errors import (
    ServiceAmbiguous,
    ServiceCursorInvalid,
    ServiceIdTaken,
    ServiceInvalid,
    ServiceNameTaken,
    ServiceNeeded,
    ServiceNotFound,
)
from nexus.services.records import Service
from nexus.services.states import RestartPolicy, ServiceState, ServiceType
from nexus.system.commands import GetSystemStatus

SECRET = "hunter2-very-secret"


def events(client: RawClient, kind: str = "service.*") -> list[dict[str, Any]]:
    return list(client.items(client.begin(WatchEvents(kinds=[kind], follow=False))))


def names(client: RawClient, **options: Any) -> list[str]:
    return [service.name for service in client.call(ListServices(**options)).services]


def test_new_service_is_stopped_and_has_all_declared_fields(client: RawClient) -> None:
    sequence = client.begin(AddService(name="web", run_command=["python3", "-m", "x"], environment={"B": "1", "A": ""}))
    service = client.result(sequence)
    assert str(uuid.UUID(service["id"])) == service["id"]
    assert service["created_at"] == service["updated_at"] == service["state_at"]
    assert {k: v for k, v in service.items() if not k.endswith("_at") and k != "id"} == {
        "project": "default", "project_id": DEFAULT_ID, "name": "web", "state": "stopped", "health": "unknown",
        "run_command": ["python3", "-m", "x"],
        "type": "simple", "environment_names": ["A", "B"], "config_format": "env", "git_auth_type": "none",
        "restart": "no", "restart_backoff_ms": 1000, "restart_backoff_max_ms": 30_000, "restart_limit": 5,
        "restart_window_ms": 60_000, "restart_unhealthy": False, "start_window_ms": 1000, "health_interval_ms": 2000,
        "health_timeout_ms": 2000, "health_retries": 3, "health_start_period_ms": 0, "stop_signal": "SIGTERM",
        "stop_grace_ms": 10_000, "autostart": False, "log_limit_mib": 16, "restarts": 0, "revision": 1,
        "state_revision": 0,
    }  # fmt: skip
    assert client.call(GetSystemStatus()).counts["services"] == {"stopped": 1}


BAD_NAMES = [
    "", "x" * 65, "-a", ".a", "a b", "a\n", "a\x00", "a/b", "ä", "0f8fad5b-d9cb-469f-a165-70867728950e", "a:b",
]  # fmt: skip


@pytest.mark.parametrize("name", BAD_NAMES, ids=ascii)
def test_bad_name_is_refused_with_path_name(client: RawClient, name: str) -> None:
    client.call(AddService(name="good"))
    for error in (client.call_error(AddService(name=name)), client.call_error(UpdateService("good", name=name))):
        assert isinstance(error, InvalidArgument)
        assert error.details["path"] == "name"


def test_taken_name_is_refused_for_add_and_update(client: RawClient) -> None:
    client.call(AddService(name="a"))
    client.call(AddService(name="b"))
    for error in (client.call_error(AddService(name="a")), client.call_error(UpdateService("b", name="a"))):
        assert isinstance(error, ServiceNameTaken)
        assert error.hint
    assert names(client) == ["a", "b"]


def test_service_is_found_by_id_name_and_prefix(client: RawClient) -> None:
    one = client.call(AddService(name="one", id="abcd0000-0000-4000-8000-000000000001"))
    client.call(AddService(name="two", id="abcd0000-0000-4000-8000-000000000002"))
    for reference in (one.id, one.id.upper(), "one", one.id[:36]):
        assert client.call(GetConfig(reference)).service == "one"
    error = client.call_error(GetConfig("abcd"))
    assert isinstance(error, ServiceAmbiguous)
    assert [match["name"] for match in error.details["matches"]] == ["one", "two"]
    for reference in ("abc", "none", "abcd0000-0000-4000-8000-000000000003"):
        assert isinstance(client.call_error(GetConfig(reference)), ServiceNotFound)


# Repeated requests


def test_repeated_add_with_id_returns_the_same_service_and_writes_no_event(client: RawClient) -> None:
    request = AddService(name="once", environment={"A": SECRET}, tags=["a", "b", "a"], id=str(uuid.uuid4()))
    service = client.call(request)
    before = len(events(client))
    assert client.call(request) == service
    assert len(events(client)) == before
    assert service.tags == ["a", "b"]


@pytest.mark.parametrize(
    "change",
    [{"name": "other"}, {"environment": {"A": "2"}}, {"port": 1}, {"run_command": ["x"]}, {"tags": []}],
    ids=lambda change: next(iter(change)),
)
def test_add_with_a_known_id_and_other_fields_is_refused(client: RawClient, change: dict[str, Any]) -> None:
    fields: dict[str, Any] = {"name": "once", "environment": {"A": SECRET}, "tags": ["a"], "id": str(uuid.uuid4())}
    client.call(AddService(**fields))
    error = client.call_error(AddService(**fields | change))
    assert isinstance(error, ServiceIdTaken)
    assert SECRET not in f"{error.message}{error.hint}{error.details}"


def test_fifty_concurrent_adds_of_one_name_create_one_service(shared: DaemonProcess, client: RawClient) -> None:
    clients = [RawClient(shared.socket_path) for _ in range(50)]
    try:
        sequences = [(each, each.begin(AddService(name="wanted"))) for each in clients]
        results = []
        for each, sequence in sequences:
            try:
                results.append(each.result(sequence)["id"])
            except ServiceNameTaken:
                pass
    finally:
        for each in clients:
            each.close()
    assert len(results) == 1
    assert names(client) == ["wanted"]


# Updates


def test_update_changes_only_the_given_fields(client: RawClient) -> None:
    before = client.call(AddService(name="a", port=1, run_command="x", environment={"A": "1", "B": "2"}))
    after = client.call(
        UpdateService("a", name="b", port=0, restart=RestartPolicy.ALWAYS, clear=["run_command"],
                      set_environment={"C": "3"}, unset_environment=["A", "NOT_THERE"])
    )  # fmt: skip
    changed = {f for f in Service.__struct_fields__ if getattr(before, f) != getattr(after, f)} - {"updated_at"}
    assert changed == {"name", "port", "restart", "run_command", "environment_names", "revision"}
    variables = client.call(GetConfig("b", reveal=True)).variables
    assert [(variable.name, variable.value) for variable in variables] == [("B", "2"), ("C", "3")]
    assert client.call(UpdateService("b", environment={})).environment_names == []
    assert client.call(UpdateService("b", clear=["port"])).port is None


def test_update_to_the_present_values_writes_no_event(client: RawClient) -> None:
    service = client.call(AddService(name="a", port=1, tags=["x"]))
    before = len(events(client))
    assert client.call(UpdateService("a", name="a", port=1, tags=["x", "x"])) == service
    assert len(events(client)) == before


def test_update_config_sets_and_clears_file_and_command(client: RawClient) -> None:
    client.call(AddService(name="a", directory="/srv", run_command="x"))
    config = client.call(UpdateConfig("a", filename="conf/.env", run_command=["y"]))
    assert (config.filename, config.path, config.run_command) == ("conf/.env", "/srv/conf/.env", ["y"])
    assert client.call(UpdateConfig("a", clear=["filename", "run_command"])).run_command is None
    assert client.call(GetConfig("a")).path is None


REFUSED_UPDATES: list[tuple[Callable[[], Command[Any]], str]] = [
    (lambda: UpdateService("a"), ""),
    (lambda: UpdateConfig("a"), ""),
    (lambda: UpdateService("a", clear=[]), ""),
    (lambda: UpdateService("a", clear=["name"]), "clear"),
    (lambda: UpdateService("a", clear=["restart"]), "clear"),
    (lambda: UpdateService("a", clear=["nonsense\u202e"]), "clear"),
    (lambda: UpdateConfig("a", clear=["format"]), "clear"),
    (lambda: UpdateConfig("a", clear=["port"]), "clear"),
    (lambda: UpdateService("a", port=1, clear=["port"]), "port"),
    (lambda: UpdateConfig("a", filename="x", clear=["filename"]), "filename"),
    (lambda: UpdateService("a", environment={"A": "1"}, set_environment={"B": "1"}), "environment"),
    (lambda: UpdateService("a", set_environment={"B": "1"}, unset_environment=["B"]), "unset_environment"),
    (lambda: UpdateService("a", set_environment={f"V{n}": "" for n in range(500)}), "set_environment"),
]


@pytest.mark.parametrize(("make", "path"), REFUSED_UPDATES)
def test_contradictory_or_empty_update_is_refused(
    client: RawClient, make: Callable[[], Command[Any]], path: str
) -> None:
    client.call(AddService(name="a", environment={"OLD": "x"}))
    error = client.call_error(make())
    assert isinstance(error, ServiceInvalid)
    assert error.message.startswith('cannot update service "a": ')
    assert error.details == {"path": path}
    assert "\u202e" not in error.message


# The journal, secrets and removal


def test_journal_has_every_change_and_no_secret(client: RawClient, shared: DaemonProcess) -> None:
    start = len(events(client))
    client.call(AddService(name="a", environment={"PASSWORD": SECRET}, run_command=f"run --token {SECRET}"))
    client.call(UpdateService("a", set_environment={"PASSWORD": SECRET + "2"}, port=7, run_command=[SECRET, "b"]))
    client.call(UpdateConfig("a", filename=".env"))
    client.call(AddService(name="b"))
    client.call(AddDependency("a", "b"))
    client.call(RemoveService("a"))
    recorded = events(client)[start:]
    kinds = [event["kind"].removeprefix("service.") for event in recorded]
    assert kinds == ["added", "updated", "updated", "added", "dependency_added", "dependency_removed", "removed"]
    assert recorded[1]["detail"] == {
        "environment": {"changed": ["PASSWORD"]},
        "run_command": {"changed": True},
        "port": {"from": None, "to": 7},
    }
    assert recorded[4]["detail"]["dependency"] == "b"
    assert SECRET not in str(recorded)
    assert SECRET not in shared.log()


def test_error_contains_no_value_of_an_environment(client: RawClient) -> None:
    for environment in ({"1X": SECRET}, {"A": SECRET + "\0"}, {SECRET + "-": "1"}):
        error = client.error(client.begin_raw(5, pack({"name": "a", "environment": environment})))
        assert isinstance(error, InvalidArgument)
        assert SECRET not in f"{error.message}{error.hint}{error.details}"


def test_remove_of_a_service_with_dependents_is_refused(client: RawClient) -> None:
    for name in ("db", "a", "b"):
        client.call(AddService(name=name))
    client.call(AddDependency("a", "db"))
    client.call(AddDependency("b", "db"))
    error = client.call_error(RemoveService("db"))
    assert isinstance(error, ServiceNeeded)
    assert error.message == 'cannot remove service "db": "a", "b" depend on it'
    assert error.details["dependents"] == ["a", "b"]
    assert "dependency remove a db" in str(error.hint)
    client.call(RemoveService("a"))  # its own dependency is removed with it
    client.call(RemoveService("b"))
    assert client.call(RemoveService("db")).name == "db"


def test_records_survive_a_kill_of_the_daemon(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        web = client.call(
            AddService(name="web", run_command="x", environment={"A": "å\n"}, tags=["t"], type=ServiceType.ONESHOT,
                       health_retries=7, memory_limit_mib=5)
        )  # fmt: skip
        db = client.call(AddService(name="db", health_exec=["a", ""], repo_url="https://example.org/x.git"))
        client.call(AddDependency("web", "db"))
        depending = client.call(GetServiceStatus("web")).service
        assert (depending.id, depending.revision) == (web.id, web.revision + 1)
    daemon.kill()
    daemon.start()
    with RawClient(daemon.socket_path) as client:
        assert client.call(ListServices()).services == [db, depending]
        assert client.call(GetConfig("web", reveal=True)).variables[0].value == "å\n"


# Lists


@pytest.mark.parametrize("limit", [1, 2, 7, 20, 10_000])
def test_pages_of_any_size_list_every_service_once_by_name(client: RawClient, limit: int) -> None:
    for sequence in client.begin_many(AddService(name=f"s{n:02}", tags=["even"] * (n % 2 == 0)) for n in range(20)):
        client.payload(sequence)
    for tag, expected in ((None, 20), ("even", 10), ("none", 0)):
        found: list[str] = []
        cursor = None
        while True:
            page = client.call(ListServices(limit=limit, tag=tag, cursor=cursor, state=ServiceState.STOPPED))
            found += [service.name for service in page.services]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == sorted(set(found))
        assert len(found) == expected


def test_cursor_of_other_filters_is_refused(client: RawClient) -> None:
    for n in range(3):
        client.call(AddService(name=f"s{n}"))
    cursor = client.call(ListServices(limit=1)).next_cursor
    for command in (ListServices(tag="x", cursor=cursor), ListServices(cursor="AAAA"), ListServices(cursor="é")):
        error: NexusError = client.call_error(command)
        assert isinstance(error, ServiceCursorInvalid)
        assert error.details["path"] == "cursor"
    assert [s.name for s in client.call(ListServices(cursor=cursor)).services] == ["s1", "s2"]


@pytest.mark.slow
def test_pages_of_ten_thousand_services_stay_within_one_mebibyte(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        for sequence in client.begin_many(AddService(name=f"s{n:05}") for n in range(10_000)):
            client.payload(sequence)
        found: list[str] = []
        cursor = None
        while True:
            page = client.call(ListServices(limit=10_000, cursor=cursor))
            assert len(encode_record(page)) < 1.1 * 1024 * 1024
            found += [service.name for service in page.services]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == [f"s{n:05}" for n in range(10_000)]
