"""The replay finds each kind of disagreement between the journal and the rows: otherwise it would prove nothing."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from nexus_protocol import NexusError
from support.daemon import DaemonProcess, short_directory
from support.replay import BARRIER, changes, check
from support.stores import look_at

from nexus.client import BlockingClient
from nexus.services.commands import (
    AddDependency,
    AddService,
    ListServices,
    RemoveService,
    StartService,
    StopService,
    UpdateService,
)
from nexus.store.maintenance import migrate_database, restore_database
from nexus.store.migrate import target_version
from nexus.system.commands import BackupDatabase, DeleteSetting, ListSettings, SetSetting
from nexus.vms.commands import CreateVm, DeleteVm, ListVms, UpdateVm

SLEEP = ["sleep", "600"]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with changes of several kinds, and no daemon."""
    root, copy = short_directory(), tmp_path_factory.mktemp("replay") / "nexus.db"
    daemon = DaemonProcess(root)
    try:
        daemon.start()
        with BlockingClient(daemon.socket_path) as nexus:
            nexus.call(CreateVm("a"))
            nexus.call(UpdateVm("a", vcpu_count=3))
            nexus.call(CreateVm("b"))
            nexus.call(DeleteVm("b"))
            nexus.call(SetSetting("k", "one"))
            nexus.call(SetSetting("k", "two"))
            nexus.call(SetSetting("gone", 1))
            nexus.call(DeleteSetting("gone"))
            for name in ("db", "web", "old"):
                nexus.call(AddService(name, run_command=SLEEP, port=0, tags=["t"], environment={"A": "1"}))
            nexus.call(AddDependency("web", "db", tunnel_enabled=True))
            nexus.call(StartService("web"))
            nexus.call(UpdateService("web", set_environment={"B": "2"}))
            nexus.call(StopService("db", cascade=True))
            nexus.call(RemoveService("old"))
        assert daemon.stop() == 0
        with (
            contextlib.closing(sqlite3.connect(daemon.database)) as source,
            contextlib.closing(sqlite3.connect(copy)) as target,
        ):
            source.backup(target)
    finally:
        daemon.close()
        shutil.rmtree(root)
    return copy


def test_untouched_database_agrees(written: Path) -> None:
    with look_at(written) as database:
        assert check(database) == []


_BOTH = "before IS NOT NULL AND after IS NOT NULL"
_SERVICE_EVENT = f"(SELECT max(seq) FROM journal WHERE row_table = 'service' AND {_BOTH})"
_SECRET = "(SELECT digest FROM secret_value LIMIT 1)"
_OTHER = "x'" + msgspec.msgpack.encode({"vcpu_count": 7}).hex() + "'"
_UPDATE = f"row_table = 'vms' AND {_BOTH}"

MUTANTS = {
    "a column without an image": ("UPDATE vms SET vcpu_count = 5", "forward: vcpu_count"),
    "a column of the joined table": ("UPDATE service_config SET format = 'properties'", "service_config.format"),
    "a secret without an image": ('UPDATE service SET environment = \'{"A":"9"}\'', "environment of"),
    "a row without an image": ("INSERT INTO settings VALUES ('x', 'y', 'string')", "the row ('settings', 'x')"),
    "a row that went without an image": ("DELETE FROM settings", "the row ('settings', 'k')"),
    "a column of a joined row alone": ("INSERT INTO service_config (filename) VALUES ('x')", "belong to no row"),
    "an image that is not there": (f"DELETE FROM journal WHERE seq = {_SERVICE_EVENT}", "the image has"),
    "another value before": (f"UPDATE journal SET before = {_OTHER} WHERE {_UPDATE}", "the image has 7"),
    "another value after": (f"UPDATE journal SET after = {_OTHER} WHERE {_UPDATE}", "vcpu_count"),
    "an image without its row": (f"UPDATE journal SET row_key = NULL WHERE {_UPDATE}", "images without a row"),
    "a secret that is gone": (f"DELETE FROM secret_value WHERE digest = {_SECRET}", "is not in secret_value"),
    "an operation that is gone": ("DELETE FROM operation WHERE command = 'CreateVm'", "which does not exist"),
    "an event without an operation": ("UPDATE journal SET operation_id = NULL WHERE seq = 3", "has no operation"),
    "a cause that is not there": ("UPDATE operation SET cause = 10000 WHERE id = 2", "was caused by 10000"),
    "a cause of later": ("UPDATE operation SET cause = 3 WHERE id = 2", "was caused by 3"),
    "an unknown command": ("UPDATE operation SET command = 'Nothing' WHERE id = 2", "neither a command nor a cause"),
    "a state of no operation": ("UPDATE service SET operation_id = 10000", "the state of"),
    "a key that had two effects": ("UPDATE operation SET key = 'k' WHERE command = 'CreateVm'", "more than once"),
    "a tag more": ("INSERT INTO tag VALUES ('service', 'x', 'y')", "tag has"),
    "a tag less": ("DELETE FROM tag", "tag lacks"),
    "a lease more": ("INSERT INTO port_lease VALUES (9, 'service', 'x', 'run', 1)", "port_lease has"),
    "a lease less": ("DELETE FROM port_lease", "port_lease lacks"),
    "an undeclared field": ("UPDATE journal SET detail = '{\"x\":1}' WHERE seq = 1", "undeclared fields: ['x']"),
    "an undeclared kind": ("UPDATE journal SET kind = 'vm.x' WHERE seq = 1", "vm.x, which is not declared"),
}


@pytest.mark.parametrize("mutant", MUTANTS, ids=list(MUTANTS))
def test_a_mutant_is_found(written: Path, tmp_path: Path, mutant: str) -> None:
    sql, expected = MUTANTS[mutant]
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db", isolation_level=None)) as copy:
        with look_at(written) as database:
            database.backup(copy)
        assert copy.execute(sql).rowcount > 0
        problems = check(copy)
    assert any(expected in problem for problem in problems), problems


def test_backward_replay_ends_at_a_barrier(written: Path, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / "copy.db", isolation_level=None)) as copy:
        with look_at(written) as database:
            database.backup(copy)
        copy.execute(
            "UPDATE journal SET kind = 'schema.migrated', detail = '{}', operation_id = NULL, row_table = NULL, "
            "row_key = NULL, revision = NULL, before = NULL, after = NULL WHERE seq = 5"
        )
        copy.execute("UPDATE journal SET operation_id = NULL WHERE seq < 5")
        assert check(copy, complete=False) == []
        assert any("barrier" in problem for problem in check(copy))


FROZEN = Path(__file__).parents[1] / "data" / "schemas"


def change_everything(daemon: DaemonProcess) -> None:
    """Change and delete the rows that there are, and make others."""
    with BlockingClient(daemon.socket_path) as nexus:
        for vm in nexus.call(ListVms()).vms:
            with contextlib.suppress(NexusError):
                nexus.call(UpdateVm(vm.id, vcpu_count=vm.vcpu_count + 1))
                nexus.call(DeleteVm(vm.id))
        for service in nexus.call(ListServices()).services:
            with contextlib.suppress(NexusError):
                nexus.call(UpdateService(service.id, tags=["t"], set_environment={"B": "2"}))
                nexus.call(StopService(service.id, cascade=True))
                nexus.call(RemoveService(service.id))
        for setting in nexus.call(ListSettings()).settings:
            if setting.is_set:
                nexus.call(DeleteSetting(setting.key))
        nexus.call(CreateVm("new"))
        nexus.call(SetSetting("new", "x"))


@pytest.mark.parametrize("version", range(2, target_version() + 1))
def test_rows_of_an_older_version_replay_backward_to_the_migration(
    make_daemon: Callable[..., DaemonProcess], version: int
) -> None:
    daemon = make_daemon()
    daemon.state.mkdir(parents=True, mode=0o700)
    shutil.copy(FROZEN / f"schema-v{version}.db", daemon.database)
    daemon.start()
    change_everything(daemon)
    assert daemon.stop() == 0
    with look_at(daemon.database) as database:
        assert check(database, complete=False) == []
        barriers = sum(change.kind == BARRIER for change in changes(database))
        assert barriers == (version < target_version())

    migrate_database(daemon.database, daemon.state / "backups", target_version() - 1)
    daemon.start()
    change_everything(daemon)
    assert daemon.stop() == 0
    with look_at(daemon.database) as database:
        assert check(database, complete=False) == []


def test_restored_database_replays(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon().start()
    change_everything(daemon)
    with BlockingClient(daemon.socket_path) as nexus:
        backup = nexus.call(BackupDatabase()).path
    change_everything(daemon)
    assert daemon.stop() == 0
    restore_database(daemon.database, Path(backup))
    daemon.start()
    change_everything(daemon)
    assert daemon.stop() == 0
    with look_at(daemon.database) as database:
        assert check(database) == []
