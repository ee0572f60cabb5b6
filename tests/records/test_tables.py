"""Each record type's table, record and codec agree, and its lists find records by their indexes."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from nexus_protocol.events import WRITTEN, event_kind
from support.daemon import DaemonProcess
from support.stores import look_at

from nexus.checkpoints.store import CHECKPOINTS
from nexus.client import BlockingClient
from nexus.conversations.import_store import SOURCES
from nexus.conversations.store import CONVERSATIONS
from nexus.daemon.dispatch import load_capabilities
from nexus.jobs.schedules.store import SCHEDULES
from nexus.journal.rows import OWN_TABLES, append_only_tables, derived_tables, journaled_tables
from nexus.ledger.agents.store import AGENTS
from nexus.ledger.features.store import FEATURES, SUB_FEATURES
from nexus.ledger.leases.store import LEASES
from nexus.ledger.requirements.store import REQUIREMENTS
from nexus.ledger.sessions.store import SESSIONS
from nexus.ledger.tasks.store import TASKS
from nexus.memory.continue_points.store import CONTINUE_POINTS
from nexus.memory.episodes.store import EPISODES
from nexus.nodes.store import NODES
from nexus.projects.store import PROJECTS
from nexus.records.errors import RecordCursorInvalid
from nexus.records.pages import MAX_PASSED_OVER
from nexus.records.table import Table
from nexus.services.commands import (
    AddService,
    GetConfig,
    ListServices,
    RemoveService,
    StartService,
    UpdateConfig,
    UpdateService,
)
from nexus.services.states import ServiceState
from nexus.services.store import SERVICES
from nexus.store.connection import connect
from nexus.store.fulltext import OF_INDEX
from nexus.store.migrate import migrate, target_version
from nexus.vms.commands import CreateVm, ListVms, UpdateVm, Vm
from nexus.vms.states import VmRole, VmState
from nexus.vms.store import VMS

TABLES: dict[str, Table[Any]] = {
    "vm": VMS,
    "service": SERVICES,
    "project": PROJECTS,
    "schedule": SCHEDULES,
    "conversation": CONVERSATIONS,
    "conversation_source": SOURCES,
    "node": NODES,
    "task": TASKS,
    "agent": AGENTS,
    "feature": FEATURES,
    "sub_feature": SUB_FEATURES,
    "requirement": REQUIREMENTS,
    "session": SESSIONS,
    "checkpoint": CHECKPOINTS,
    "lease": LEASES,
    "continue_point": CONTINUE_POINTS,
    "episode": EPISODES,
}


@pytest.fixture(scope="module")
def schema() -> Iterator[sqlite3.Connection]:
    """An empty database of the newest schema."""
    with contextlib.closing(connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, 0, target_version())
        yield connection


@pytest.fixture
def nexus(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A client of a daemon without records."""
    with BlockingClient(daemon.socket_path) as client:
        yield client


@pytest.mark.parametrize("kind", TABLES)
def test_every_field_has_its_column(schema: sqlite3.Connection, kind: str) -> None:
    table = TABLES[kind]
    tables = {
        name: {row[1] for row in schema.execute(f"PRAGMA table_info({name})")}
        for name in (table.name, "service_config")
    }
    for field, column in table.columns.items():
        if field == "project":  # the name of the project, which is read with the record
            continue
        name, _, text = column.name.rpartition(".")
        assert text in tables[name or table.name], field
    assert set(table.columns) == set(table.record.__struct_fields__) - table.computed
    assert set(table.rows.columns) == tables[table.name] | {
        f"service_config.{column}" for column in tables["service_config"] - {"id"} if table.rows.joined is not None
    }
    assert table.observed <= {*table.columns, *table.private}
    schema.execute(table.select)


@pytest.mark.parametrize("kind", TABLES)
def test_each_filter_has_an_index_in_the_order_of_the_list(schema: sqlite3.Connection, kind: str) -> None:
    table = TABLES[kind]
    indexes = [row[1] for row in schema.execute(f"PRAGMA index_list({table.name})")]
    columns = [[row[2] for row in schema.execute(f"PRAGMA index_info({index})")] for index in indexes]
    order = [table.columns[field].name for field in table.order]
    for beginning in ([], ["project_id"]) if table.has_project else ([],):
        # The list of all projects by one value of a filter is sorted: few ask for it.
        by_number = table.order == ("number", "id")
        for field in (None, *table.indexed) if beginning or not by_number else (None,):
            wanted = [*beginning, *([table.columns[field].name] if field else []), *order]
            # A name, and a number, is unique in a project, and needs no id behind it.
            unique = by_number and bool(beginning) and wanted[:-1] in columns
            assert wanted in columns or unique or wanted == ["project_id", "name", "id"], wanted
            # A name, or a number, is unique in a project, and needs no id behind it.
            is_served = wanted in columns or wanted == ["project_id", "name", "id"]
            if table.is_numbered and table.order[0] == "number":
                # Over all projects numbers are read by their index, whatever the filter is.
                is_served |= wanted[:-1] in columns if beginning else field is not None
            assert is_served, wanted


@pytest.mark.parametrize(
    ("create", "updates"),
    [(CreateVm, (UpdateVm,)), (AddService, (UpdateService, UpdateConfig))],
    ids=["vm", "service"],
)
def test_every_field_of_an_update_is_one_of_the_create(create: type[Any], updates: tuple[type[Any], ...]) -> None:
    own = {"clear", "set_environment", "unset_environment"}
    renamed = {"UpdateConfig": {"filename": "config_filename", "format": "config_format"}}
    for update in updates:
        for field in update.__struct_fields__[1:]:
            if field not in own and not field.startswith("if_"):
                assert renamed.get(update.__name__, {}).get(field, field) in create.__struct_fields__


def test_columns_hold_what_fields_have() -> None:
    vm = Vm("x", "a", "p", "shop", VmRole.WORK, VmState.STOPPED, 3, 1, 128, 5, 6, 7, 8, stopped_at=9)
    row = [VMS.encode(field, getattr(vm, field)) for field in VMS.columns]
    assert all(value is None or type(value) in (int, str, bytes, float) for value in row)
    assert VMS.decode(row) == vm
    assert msgspec.msgpack.encode(VMS.decode(row)) == msgspec.msgpack.encode(vm)


@pytest.mark.parametrize(
    ("value", "column"),
    [
        (".env", ".env"), ("/a b/?.env", "/a b/?.env"), ("{}", "{}"), ("null", "null"), ('["x"]', '"[\\"x\\"]"'),
        ('"x"', '"\\"x\\""'), ([".env"], '[".env"]'), (["a", "?b"], '["a","?b"]'), (["é"], '["é"]'), (None, None),
    ],
)  # fmt: skip
def test_column_of_configuration_files_keeps_one_name_as_text(value: Any, column: str | None) -> None:
    assert SERVICES.encode("config_filename", value) == column
    assert SERVICES.columns["config_filename"].to_field(column) == value


@pytest.mark.parametrize("name", [".env", "conf/app.env", "[draft.env", '"half.env', "[1", "1"])
def test_configuration_file_of_an_older_version_is_read(
    make_daemon: Callable[..., DaemonProcess], root: Path, name: str
) -> None:
    daemon = make_daemon().start()
    with BlockingClient(daemon.socket_path) as client:
        client.call(AddService("web", directory=str(root), config_filename="x"))
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.database)) as database, database:
        database.execute("UPDATE service_config SET filename = ?", (name,))
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        assert client.call(GetConfig("web")).filename == name
        assert client.call(ListServices()).services[0].config_filename == name
        both = client.call(UpdateService("web", config_filename=[name, "?more.env"]))
        assert both.config_filename == [name, "?more.env"]
        assert client.call(GetConfig("web")).paths == [f"{root}/{name}", f"{root}/more.env"]


def test_schema_deletes_and_changes_nothing_by_itself(schema: sqlite3.Connection) -> None:
    tables = [row[0] for row in schema.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    keys = [key for table in tables for key in schema.execute(f"PRAGMA foreign_key_list({table})")]
    assert keys, "there are foreign keys"
    assert {(key[5], key[6]) for key in keys} == {("NO ACTION", "NO ACTION")}
    # Triggers keep the search index alone, which can be made again from the tables.
    triggers = schema.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
    written = {
        table
        for _, sql in triggers
        for table in re.findall(r"\b(?:INSERT INTO|UPDATE(?! OF)|DELETE FROM|REPLACE INTO)\s+(\w+)", sql)
    }
    assert [name for name, _ in triggers if not name.startswith(OF_INDEX)] == []
    assert written == {"search_index", "search_name"}


def test_every_table_is_journaled_derived_or_the_own_of_the_store(schema: sqlite3.Connection) -> None:
    load_capabilities()
    journaled = journaled_tables()
    joined = {rows.joined[0]: name for name, rows in journaled.items() if rows.joined is not None}
    kinds = [set(journaled), set(joined), set(derived_tables()), set(append_only_tables()), set(OWN_TABLES)]
    tables = [row[0] for row in schema.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    # Each table is of one kind, and each name of a kind is a table.
    assert sorted(name for kind in kinds for name in kind) == sorted(
        table for table in tables if table != "sqlite_sequence" and not table.startswith(OF_INDEX)
    )
    assert len(joined) == sum(rows.joined is not None for rows in journaled.values())
    for name, rows in journaled.items():
        others = rows.joined[0] if rows.joined is not None else None
        columns = {row[1] for row in schema.execute(f"PRAGMA table_info({name})")}
        if others is not None:
            columns |= {f"{others}.{row[1]}" for row in schema.execute(f"PRAGMA table_info({others})")} - {
                f"{others}.id"
            }
        assert set(rows.columns) == columns, "an image has every column"
        assert len(set(rows.columns)) == len(rows.columns)
        assert rows.secret | rows.volatile <= columns
        assert rows.key in columns
        if rows.joined is not None:
            keys = schema.execute(f"PRAGMA foreign_key_list({name})").fetchall()
            assert (others, rows.joined[1], "id") in [(key[2], key[3], key[4]) for key in keys]
        declared = {event_kind(f"{rows.kind}{WRITTEN}").kind}
        assert declared == {f"{rows.kind}.written"}


def test_page_that_passes_over_many_records_ends_with_a_cursor(nexus: BlockingClient) -> None:
    count = MAX_PASSED_OVER + 500
    for start in range(0, count, 500):
        nexus.batch([CreateVm(f"vm-{number}") for number in range(start, start + 500)])
    nexus.call(CreateVm("gate", role=VmRole.PORTAL))
    both = ListVms(role=VmRole.WORK, state=VmState.STOPPED)
    page = nexus.call(both)
    assert page.vms == []
    assert page.next_cursor is not None
    last = nexus.call(msgspec.structs.replace(both, cursor=page.next_cursor))
    assert (last.vms, last.next_cursor) == ([], None)
    for command, names in (
        (ListVms(role=VmRole.PORTAL), ["gate"]),
        (ListVms(role=VmRole.SERVICE), []),
        (ListVms(state=VmState.RUNNING), []),
        (ListVms(role=VmRole.PORTAL, state=VmState.CREATED), ["gate"]),
    ):
        page = nexus.call(command)
        assert ([vm.name for vm in page.vms], page.next_cursor) == (names, None)


def test_services_are_found_by_tag_and_state(daemon: DaemonProcess, nexus: BlockingClient) -> None:
    for number in range(30):
        tags = ["all", *(["third"] if number % 3 == 0 else []), f"own-{number}"]
        nexus.call(AddService(f"s{number:02}", run_command=["sleep", "100"], start_window_ms=0, tags=tags))
    nexus.call(StartService("s03"))

    def names(**filters: Any) -> list[str]:
        found, cursor = [], None
        while True:
            page = nexus.call(ListServices(limit=4, cursor=cursor, **filters))
            found += [service.name for service in page.services]
            cursor = page.next_cursor
            if cursor is None:
                return found

    everything = [f"s{number:02}" for number in range(30)]
    assert names(tag="all") == everything
    assert names(tag="third") == everything[::3]
    assert names(tag="own-7") == ["s07"]
    assert names(tag="nothing") == []
    assert names(state=ServiceState.RUNNING) == ["s03"]
    assert names(state=ServiceState.RUNNING, tag="third") == ["s03"]
    assert names(state=ServiceState.STOPPED, tag="third") == [name for name in everything[::3] if name != "s03"]
    nexus.call(UpdateService("s07", tags=["third"]))
    nexus.call(UpdateService("s00", clear=["tags"]))
    nexus.call(UpdateService("s06", name="renamed"))
    nexus.call(RemoveService("s09"))
    assert names(tag="third") == ["renamed", "s03", "s07", *everything[12::3]]
    assert names(tag="own-7") == []
    with look_at(daemon.database) as database:
        rows = set(database.execute("SELECT record_id, tag FROM tag"))
        there = database.execute("SELECT service.id, each.value FROM service, json_each(tags) AS each").fetchall()
    assert rows == set(there)


def test_cursor_of_another_form_is_refused(nexus: BlockingClient) -> None:
    for number in range(3):
        nexus.call(CreateVm(f"vm-{number}"))
        nexus.call(AddService(f"s{number}", run_command="true"))
    vms, services = nexus.call(ListVms(limit=1)).next_cursor, nexus.call(ListServices(limit=1)).next_cursor
    for command, type_ in (
        (ListVms(cursor=services), "vm.cursor_invalid"),
        (ListServices(cursor=vms), "service.cursor_invalid"),
    ):
        with pytest.raises(RecordCursorInvalid) as raised:
            nexus.call(command)  # type: ignore[arg-type]
        assert raised.value.type == type_
