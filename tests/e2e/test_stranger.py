"""The main features of the daemon, tested by a client that was written from the protocol's documents alone."""

from __future__ import annotations

import ast
import os
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import stranger as stranger_module
from support.daemon import DaemonProcess
from support.stranger import ConnectionLost, ErrorReply, SpecClient, find_socket

# Command codes, from COMMANDS.md.
SHUTDOWN, GET_SYSTEM_STATUS, PING, HEALTH, DESCRIBE, HELLO = 40, 41, 42, 43, 44, 45
GET_SETTING, SET_SETTING, LIST_SETTINGS, DELETE_SETTING, BACKUP_DATABASE, WATCH_EVENTS = 46, 47, 48, 49, 50, 51
CREATE_VM, LIST_VMS, GET_VM, DELETE_VM, UPDATE_VM = 0x0100, 0x0101, 0x0102, 0x0103, 0x0107


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[SpecClient]:
    """A connection to a daemon with an empty database."""
    with SpecClient(find_socket(daemon.environment)) as connection:
        yield connection


@pytest.fixture
def reader(shared: DaemonProcess) -> Iterator[SpecClient]:
    """A connection to the daemon of all tests that create nothing; its database is empty."""
    with SpecClient(find_socket(shared.environment)) as connection:
        yield connection


def names(vms: dict[str, list[dict[str, object]]]) -> list[object]:
    return [vm["name"] for vm in vms["vms"]]


def test_spec_client_imports_nothing_of_the_project() -> None:
    tree = ast.parse(Path(stranger_module.__file__).read_text(encoding="utf-8"))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in ([alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or "."])
    }
    assert imported - set(sys.stdlib_module_names) == {"msgpack"}


# The state store


def test_health_reports_the_database_with_path_tables_and_size(reader: SpecClient, shared: DaemonProcess) -> None:
    health = reader.call(HEALTH)
    assert health["status"] == "ok"
    database = health["database"]
    assert database["path"] == str(shared.database)
    assert database["table_count"] == len(database["tables"]) == 47
    assert {"journal", "schema_meta", "settings", "vms"} < set(database["tables"])
    assert isinstance(database["size_bytes"], int)
    assert database["size_bytes"] > 0


def test_health_reports_wal_mode_foreign_keys_and_migrations(reader: SpecClient) -> None:
    database = reader.call(HEALTH)["database"]
    assert database["journal_mode"] == "wal"
    assert database["foreign_keys"] is True
    assert database["schema_version"] == 14
    assert [migration["version"] for migration in database["migrations"]] == list(range(1, 15))


def test_database_is_in_the_state_directory_by_default(reader: SpecClient, shared: DaemonProcess) -> None:
    root = shared.root
    assert reader.call(HEALTH)["database"]["path"] == str(root / "state" / "nexus" / "nexus.db")
    assert (root / "state" / "nexus" / "nexus.db").is_file()


def test_db_option_sets_the_database_path(make_daemon: Callable[..., DaemonProcess], root: Path) -> None:
    elsewhere = root / "elsewhere" / "path.db"
    daemon = make_daemon("--db", str(elsewhere)).start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        assert nexus.call(HEALTH)["database"]["path"] == str(elsewhere)
    assert elsewhere.is_file()
    assert not daemon.database.exists()


def test_nexusd_help_shows_the_db_option() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "nexus.daemon.main", "--help"], capture_output=True, text=True, check=True
    )
    assert "--db PATH" in result.stdout


def test_records_and_migrations_survive_a_restart(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon().start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        before = nexus.call(CREATE_VM, name="kept")
        migrations = nexus.call(HEALTH)["database"]["migrations"]
    assert daemon.stop() == 0
    daemon.start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        assert nexus.call(GET_VM, vm="kept") == before
        assert nexus.call(HEALTH)["database"]["migrations"] == migrations


def test_database_of_an_unknown_version_is_set_aside_with_a_warning(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon().start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        nexus.call(CREATE_VM, name="old")
    assert daemon.stop() == 0
    with sqlite3.connect(daemon.database) as database:
        database.execute("UPDATE schema_meta SET value = '0' WHERE key = 'version'")
    database.close()
    daemon.start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        assert nexus.call(HEALTH)["database"]["schema_version"] == 14
        assert nexus.call(LIST_VMS) == {"vms": []}
    (kept,) = [path for path in daemon.state.iterdir() if _has_vm(path, "old")]
    assert [line for line in daemon.log().splitlines() if " warning " in line and kept.name in line]


def _has_vm(path: Path, name: str) -> bool:
    if not path.is_file():
        return False
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        try:
            return bool(connection.execute("SELECT 1 FROM vms WHERE name = ?", (name,)).fetchall())
        finally:
            connection.close()
    except sqlite3.DatabaseError:
        return False


# VM records


def test_create_vm_returns_defaults_and_the_first_cid(nexus: SpecClient) -> None:
    before = int(time.time() * 1000)
    vm = nexus.call(CREATE_VM, name="test")
    assert uuid.UUID(vm.pop("id")).version == 4
    created, updated = vm.pop("created_at"), vm.pop("updated_at")
    assert before <= created == updated <= int(time.time() * 1000)
    # Unset fields, such as started_at and pid, are left out.
    assert (vm.pop("revision"), vm.pop("state_revision")) == (1, 0)
    assert (vm.pop("project_id"), vm.pop("project")) == ("00000000-0000-4000-8000-000000000000", "default")
    assert vm == {"name": "test", "role": "work", "state": "created", "cid": 3, "vcpu_count": 1, "mem_size_mib": 128}


def test_create_vm_accepts_every_field(nexus: SpecClient) -> None:
    vm = nexus.call(CREATE_VM, name="big", role="portal", vcpu_count=4, mem_size_mib=1024)
    assert (vm["role"], vm["vcpu_count"], vm["mem_size_mib"]) == ("portal", 4, 1024)


def test_create_vm_with_a_taken_name_is_a_conflict(nexus: SpecClient) -> None:
    nexus.call(CREATE_VM, name="dup")
    with pytest.raises(ErrorReply) as caught:
        nexus.call(CREATE_VM, name="dup")
    assert (caught.value.code, caught.value.type) == ("conflict", "vm.name_taken")
    assert '"dup" already exists' in caught.value.message
    assert caught.value.hint
    assert names(nexus.call(LIST_VMS)) == ["dup"]


def test_create_vm_with_an_id_is_idempotent(nexus: SpecClient) -> None:
    wanted = {"name": "once", "id": str(uuid.uuid4())}
    assert nexus.call(CREATE_VM, **wanted) == nexus.call(CREATE_VM, **wanted)
    with pytest.raises(ErrorReply) as caught:
        nexus.call(CREATE_VM, **wanted | {"vcpu_count": 2})
    assert caught.value.type == "vm.id_taken"


def test_cids_count_up_from_3_and_stay_unique_after_a_delete(nexus: SpecClient) -> None:
    assert [nexus.call(CREATE_VM, name=f"vm-{i}")["cid"] for i in range(3)] == [3, 4, 5]
    nexus.call(DELETE_VM, vm="vm-0")
    assert nexus.call(CREATE_VM, name="next")["cid"] >= 3
    cids = [vm["cid"] for vm in nexus.call(LIST_VMS)["vms"]]
    assert len(set(cids)) == len(cids) == 3


def test_new_vms_are_in_state_created(nexus: SpecClient) -> None:
    for number, role in enumerate(("work", "portal", "service")):
        nexus.call(CREATE_VM, name=f"vm-{number}", role=role)
    assert {vm["state"] for vm in nexus.call(LIST_VMS)["vms"]} == {"created"}


def test_list_vms_is_newest_first_and_filters_by_role_and_state(nexus: SpecClient) -> None:
    assert nexus.call(LIST_VMS) == {"vms": []}
    nexus.call(CREATE_VM, name="my-vm")
    nexus.call(CREATE_VM, name="portal-1", role="portal")
    everything = nexus.call(LIST_VMS)["vms"]
    assert {vm["name"] for vm in everything} == {"my-vm", "portal-1"}
    keys = [(vm["created_at"], vm["id"]) for vm in everything]
    assert keys == sorted(keys, reverse=True)
    assert names(nexus.call(LIST_VMS, role="work")) == ["my-vm"]
    assert names(nexus.call(LIST_VMS, role="portal", state="created")) == ["portal-1"]
    assert names(nexus.call(LIST_VMS, state="running")) == []


def test_list_vms_pages_give_the_whole_list(nexus: SpecClient) -> None:
    for number in range(7):
        nexus.call(CREATE_VM, name=f"vm-{number}")
    found: list[object] = []
    page = nexus.call(LIST_VMS, limit=3)
    while True:
        found += names(page)
        if "next_cursor" not in page:
            break
        page = nexus.call(LIST_VMS, limit=3, cursor=page["next_cursor"])
    assert found == names(nexus.call(LIST_VMS))


def test_get_vm_accepts_name_id_and_id_prefix(nexus: SpecClient) -> None:
    vm = nexus.call(CREATE_VM, name="find-me")
    for reference in ("find-me", vm["id"], vm["id"][:8]):
        assert nexus.call(GET_VM, vm=reference) == vm


def test_get_and_delete_of_a_missing_vm_are_not_found(nexus: SpecClient) -> None:
    for code in (GET_VM, DELETE_VM):
        with pytest.raises(ErrorReply) as caught:
            nexus.call(code, vm="ghost")
        assert (caught.value.code, caught.value.type) == ("not_found", "vm.not_found")
        assert caught.value.message == 'VM "ghost" not found'


@pytest.mark.parametrize("by", ["name", "id"])
def test_delete_vm_removes_and_returns_the_record(nexus: SpecClient, by: str) -> None:
    vm = nexus.call(CREATE_VM, name="doomed")
    assert nexus.call(DELETE_VM, vm=vm[by]) == vm
    assert nexus.call(LIST_VMS) == {"vms": []}
    with pytest.raises(ErrorReply):
        nexus.call(GET_VM, vm=vm["id"])


def test_update_vm_changes_only_the_given_fields(nexus: SpecClient) -> None:
    vm = nexus.call(CREATE_VM, name="before")
    changed = nexus.call(UPDATE_VM, vm="before", name="after", mem_size_mib=256)
    assert changed["updated_at"] >= vm["updated_at"]
    now = {"name": "after", "mem_size_mib": 256, "revision": 2, "updated_at": changed["updated_at"]}
    assert changed == vm | now


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"name": ""}, "name"),
        ({"name": "x", "role": "invalid"}, "role"),
        ({"name": "x", "vcpu_count": 0}, "vcpu_count"),
        ({"name": "x", "colour": "red"}, "colour"),
        ({"role": "work"}, "name"),
    ],
)
def test_invalid_request_error_names_the_field(reader: SpecClient, fields: dict[str, object], path: str) -> None:
    with pytest.raises(ErrorReply) as caught:
        reader.call(CREATE_VM, **fields)
    assert caught.value.code == "invalid_argument"
    assert caught.value.details["path"] == path
    assert reader.call(LIST_VMS) == {"vms": []}


# The daemon


def test_hello_returns_limits_and_sets_the_actor_of_events(nexus: SpecClient) -> None:
    welcome = nexus.call(HELLO, client="stranger/1", actor="agent-7")
    assert welcome["protocol_versions"] == [1]
    assert welcome["limits"]["max_payload_bytes"] == 65536
    nexus.call(CREATE_VM, name="mine")
    (event,) = list(nexus.items(nexus.begin(WATCH_EVENTS, follow=False)))
    assert (event["kind"], event["actor"], event["subject_name"]) == ("vm.created", "agent-7", "mine")
    assert (event["uid"], event["pid"]) == (os.geteuid(), os.getpid())


def test_ping_returns_its_payload(reader: SpecClient) -> None:
    assert reader.call(PING, payload=bytes(range(256))) == {"payload": bytes(range(256))}
    assert reader.call(PING) == {}


def test_system_status_counts_vms_and_connections(nexus: SpecClient, daemon: DaemonProcess) -> None:
    nexus.call(CREATE_VM, name="one")
    status = nexus.call(GET_SYSTEM_STATUS)
    assert status["pid"] == daemon.pid
    assert status["counts"]["vms"] == {"created": 1}
    assert status["connections"] == 1


def test_describe_lists_commands_with_schemas(reader: SpecClient) -> None:
    commands = {command["code"]: command for command in reader.call(DESCRIBE)["commands"]}
    assert {PING, CREATE_VM, WATCH_EVENTS} <= commands.keys()
    assert commands[CREATE_VM]["name"] == "CreateVm"
    assert commands[WATCH_EVENTS]["streams"] is True
    assert commands[CREATE_VM]["request"]["$defs"]["CreateVm"]["required"] == ["name"]


def test_settings_keep_their_types_and_known_ones_their_defaults(nexus: SpecClient) -> None:
    known = nexus.call(GET_SETTING, key="journal.keep_days")
    assert (known["value"], known["is_set"], known["default"]) == (30, False, 30)
    for value, type_ in (("text", "string"), (7, "int"), (True, "bool"), ({"a": [1, None]}, "json")):
        setting = nexus.call(SET_SETTING, key="my.key", value=value)
        assert (setting["value"], setting["type"], setting["is_set"]) == (value, type_, True)
        assert nexus.call(GET_SETTING, key="my.key") == setting
    listed = [setting["key"] for setting in nexus.call(LIST_SETTINGS)["settings"]]
    assert listed == [
        *("backup.every", "backup.keep_days"),
        *("jobs.keep_days", "jobs.max_output", "journal.keep_days", "leases.keep_days", "metrics.keep_days", "my.key"),
    ]
    assert nexus.call(DELETE_SETTING, key="my.key")["key"] == "my.key"
    with pytest.raises(ErrorReply) as caught:
        nexus.call(GET_SETTING, key="my.key")
    assert caught.value.type == "setting.not_found"
    with pytest.raises(ErrorReply) as caught:
        nexus.call(SET_SETTING, key="journal.keep_days", value="soon")
    assert caught.value.type == "setting.invalid"


def test_backup_is_a_database_with_the_same_rows(nexus: SpecClient, root: Path) -> None:
    nexus.call(CREATE_VM, name="saved")
    backup = nexus.call(BACKUP_DATABASE, path=str(root / "copy.db"))
    assert backup["size_bytes"] == (root / "copy.db").stat().st_size
    assert _has_vm(root / "copy.db", "saved")


def test_backup_to_an_unusable_path_is_a_client_error(nexus: SpecClient, root: Path) -> None:
    (root / "taken.db").write_text("something")
    for path, code in ((root / "taken.db", "conflict"), (root / "missing" / "copy.db", "failed_precondition")):
        with pytest.raises(ErrorReply) as caught:
            nexus.call(BACKUP_DATABASE, path=str(path))
        assert caught.value.code == code
    assert (root / "taken.db").read_text() == "something"


def test_events_can_be_resumed_across_a_restart(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon().start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        watch = nexus.begin(WATCH_EVENTS)
        nexus.call(CREATE_VM, name="first")
        seen = nexus.item(watch)
        assert seen["subject_name"] == "first"
        with SpecClient(find_socket(daemon.environment)) as other:
            assert other.call(SHUTDOWN) == {}
        with pytest.raises(ErrorReply) as caught:
            nexus.result(watch)
        assert caught.value.code == "unavailable"
        assert caught.value.details["resume_after"] == seen["seq"]
        with pytest.raises((ConnectionLost, OSError)):
            nexus.call(PING)
    assert daemon.process is not None
    assert daemon.process.wait(20) == 0
    daemon.start()
    with SpecClient(find_socket(daemon.environment)) as nexus:
        nexus.call(CREATE_VM, name="second")
        watch = nexus.begin(WATCH_EVENTS, after=seen["seq"], kinds=["vm.*"])
        assert nexus.item(watch)["subject_name"] == "second"


def test_concurrent_requests_get_one_reply_each_and_a_stream_can_be_cancelled(nexus: SpecClient) -> None:
    watch = nexus.begin(WATCH_EVENTS)
    creates = [nexus.begin(CREATE_VM, name=f"vm-{number}") for number in range(200)]
    pings = {nexus.begin(PING, payload=b"%d" % number): b"%d" % number for number in range(200)}
    assert {sequence: nexus.result(sequence)["payload"] for sequence in pings} == pings
    assert sorted(nexus.result(sequence)["cid"] for sequence in creates) == list(range(3, 203))
    assert [nexus.item(watch)["kind"] for _ in creates] == ["vm.created"] * 200
    nexus.cancel(watch)
    with pytest.raises(ErrorReply) as caught:
        nexus.result(watch)
    assert caught.value.code == "cancelled"
    assert nexus.call(PING) == {}


def test_daemon_stop_removes_the_socket_and_exits_with_0(nexus: SpecClient, daemon: DaemonProcess) -> None:
    nexus.call(CREATE_VM, name="kept")
    assert daemon.stop() == 0
    assert not daemon.socket_path.exists()
    with pytest.raises((ConnectionLost, OSError)):
        nexus.call(PING)
    with pytest.raises(OSError, match="No such file"):
        SpecClient(find_socket(daemon.environment))
