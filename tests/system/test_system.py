"""The commands on the daemon itself, through a real daemon."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from nexus_protocol import Cancelled, Conflict, InvalidArgument, NexusError
from support.daemon import DaemonProcess
from support.raw import RawClient, connect, pack, wait_until

from nexus.capabilities import CAPABILITIES
from nexus.journal.commands import WatchEvents
from nexus.system.commands import (
    BackupDatabase,
    DeleteSetting,
    Describe,
    GetSetting,
    GetSystemStatus,
    Health,
    Hello,
    ListSettings,
    Ping,
    SetSetting,
    SettingInvalid,
    SettingNotFound,
)
from nexus.system.settings import KNOWN
from nexus.vms.commands import CreateVm


@pytest.fixture
def client(shared: DaemonProcess) -> Iterator[RawClient]:
    """A connection to the shared daemon; all settings are deleted afterwards."""
    with RawClient(shared.socket_path) as client:
        yield client
        for setting in client.call(ListSettings()).settings:
            if setting.is_set:
                client.call(DeleteSetting(setting.key))


@pytest.mark.parametrize("size", [0, 1, 65_000])
def test_ping_returns_the_same_bytes(client: RawClient, size: int) -> None:
    payload = os.urandom(size)
    assert client.call(Ping(payload)).payload == payload


def test_ping_accepts_at_most_65000_bytes_and_no_text(client: RawClient) -> None:
    assert isinstance(client.call_error(Ping(bytes(65_001))), InvalidArgument)
    assert isinstance(client.error(client.begin_raw(42, pack({"payload": "eHg="}))), InvalidArgument)


def test_system_status_reports_process_and_load(shared: DaemonProcess, client: RawClient) -> None:
    before = client.call(GetSystemStatus())
    with RawClient(shared.socket_path) as other:
        stream = other.begin(WatchEvents())
        other.call(Ping())
        status = client.call(GetSystemStatus())
        assert (status.connections, status.open_requests) == (before.connections + 1, before.open_requests + 1)
        other.cancel(stream)
        assert other.error(stream).code == "cancelled"
    assert status.pid == shared.pid
    assert 0 <= status.uptime_ms <= int(time.time() * 1000) - status.started_at + 1000
    assert abs(status.memory_rss_bytes - shared.rss_bytes()) < 32 * 1024 * 1024
    client.call(CreateVm(name="counted"))
    assert client.call(GetSystemStatus()).counts["vms"]["created"] == 1


def test_health_is_ok_and_describes_the_database(shared: DaemonProcess, client: RawClient) -> None:
    report = client.call(Health())
    assert report.status == "ok"
    assert {check.status for check in report.checks} == {"ok"}
    assert report.database is not None
    assert report.database.path == str(shared.database)
    assert report.database.journal_mode == "wal"
    assert report.database.foreign_keys is True
    assert report.database.table_count == len(report.database.tables) >= 4
    assert [migration["version"] for migration in report.database.migrations] == list(
        range(1, report.database.schema_version + 1)
    )


def test_describe_returns_every_command_with_schemas_and_doc(client: RawClient) -> None:
    commands = {entry.name: entry for entry in client.call(Describe()).commands}
    assert [entry.code for entry in commands.values()] == sorted(entry.code for entry in commands.values())
    assert {"Ping", "Describe", "WatchEvents", "CreateVm", "ListVms", "Shutdown"} <= set(commands)
    for entry in commands.values():
        assert entry.doc
        assert entry.request
        assert entry.reply
        assert entry.streams == (entry.item is not None)
    assert commands["WatchEvents"].streams
    assert [commands[name].effect for name in ("GetVm", "CreateVm", "StartService")] == ["read", "change", "act"]
    assert "vm.name_taken" in commands["CreateVm"].errors
    assert len(CAPABILITIES) >= 3


def test_actor_of_hello_is_recorded_in_later_events_of_the_connection(client: RawClient) -> None:
    client.call(SetSetting("a.first", 1))
    client.call(Hello(client="test 1", actor="agent"))
    client.call(SetSetting("a.second", 1))
    client.call(Hello(client="test 1"))
    client.call(SetSetting("a.third", 1))
    stream = client.begin(WatchEvents(kinds=["setting.set"], follow=False))
    actors = {event["subject_id"]: event.get("actor") for event in client.items(stream) if "kind" in event}
    assert (actors["a.first"], actors["a.second"], actors["a.third"]) == (None, "agent", None)


# Settings


@pytest.mark.parametrize(
    ("value", "type_"),
    [
        ("", "string"), ("text", "string"), ("42", "string"), ("a\x00\n\u2028ü", "string"), (0, "int"),
        (-(2**63), "int"), (2**64 - 1, "int"), (True, "bool"), (False, "bool"), (1.5, "json"), ([], "json"),
        ({}, "json"),
        ({"a": [1, None, {"b": True}]}, "json"),
    ],
)  # fmt: skip
def test_setting_keeps_its_value_and_type(shared: DaemonProcess, client: RawClient, value: object, type_: str) -> None:
    setting = client.call(SetSetting("some.key", value))
    assert (setting.key, setting.value, setting.type, setting.is_set) == ("some.key", value, type_, True)
    got = client.call(GetSetting("some.key"))
    assert got == setting
    assert type(got.value) is type(value)
    assert client.call(DeleteSetting("some.key")).value == value
    assert isinstance(client.call_error(GetSetting("some.key")), SettingNotFound)


def _nested(levels: int) -> object:
    value: object = "end"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [None, b"bytes", [b"bytes"], float("nan"), float("inf"), {"a": float("-inf")}, _nested(33)],
    ids=lambda value: repr(value)[:20],
)
def test_value_that_no_setting_can_hold_is_refused(client: RawClient, value: object) -> None:
    error = client.error(client.begin_raw(47, pack({"key": "some.key", "value": value})))
    assert isinstance(error, InvalidArgument)
    assert str(error.details["path"]).startswith("value")
    assert isinstance(client.call_error(GetSetting("some.key")), SettingNotFound)


def test_setting_value_may_be_nested_32_levels_deep(client: RawClient) -> None:
    assert client.call(SetSetting("some.key", _nested(32))).value == _nested(32)


@pytest.mark.parametrize("key", ["", ".a", "-a", "a b", "a\n", "ä", "a" * 129, "a/b"], ids=ascii)
def test_invalid_setting_key_is_refused(client: RawClient, key: str) -> None:
    for request in (SetSetting(key, 1), GetSetting(key), DeleteSetting(key)):
        error: NexusError = client.call_error(request)
        assert isinstance(error, InvalidArgument)
        assert error.details["path"] == "key"


def test_known_setting_has_a_default_and_bounds(client: RawClient) -> None:
    known = client.call(GetSetting("journal.keep_days"))
    assert (known.value, known.default, known.is_set, known.type) == (30, 30, False, "int")
    for bad in (0, -1, 36_501, "30", True, 1.5, [30]):
        assert isinstance(client.call_error(SetSetting("journal.keep_days", bad)), SettingInvalid)
    assert client.call(SetSetting("journal.keep_days", 7)).value == 7
    listed = {setting.key: setting for setting in client.call(ListSettings()).settings}
    assert (listed["journal.keep_days"].value, listed["journal.keep_days"].default) == (7, 30)
    client.call(DeleteSetting("journal.keep_days"))
    assert client.call(GetSetting("journal.keep_days")) == known
    error = client.call_error(DeleteSetting("journal.keep_days"))
    assert isinstance(error, SettingNotFound)
    assert "default" in str(error.hint)


def test_settings_are_listed_sorted_by_key(client: RawClient) -> None:
    for key in ("z", "a", "m.n"):
        client.call(SetSetting(key, key))
    keys = [setting.key for setting in client.call(ListSettings()).settings]
    assert keys == sorted(keys)
    assert {"a", "m.n", "z", "journal.keep_days"} <= set(keys)


# Backups


def test_backup_is_a_complete_separate_database(shared: DaemonProcess, client: RawClient, tmp_path: Path) -> None:
    client.call(SetSetting("kept", "yes"))
    path = tmp_path / "copy.db"
    backup = client.call(BackupDatabase(str(path)))
    assert backup.path == str(path)
    assert backup.size_bytes == path.stat().st_size
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("SELECT value FROM settings WHERE key = 'kept'").fetchone() == ("yes",)
    default = client.call(BackupDatabase())
    assert Path(default.path).parent == shared.state / "backups"
    assert Path(default.path).is_file()


def test_backup_to_an_existing_or_unusable_path_is_refused(client: RawClient, tmp_path: Path) -> None:
    there = tmp_path / "there.db"
    there.write_text("precious")
    error = client.call_error(BackupDatabase(str(there)))
    assert isinstance(error, NexusError)
    assert error.code in (Conflict.code, "failed_precondition")
    assert there.read_text() == "precious"
    for path in ("relative.db", "", "/a\x00b"):
        assert isinstance(client.call_error(BackupDatabase(path)), InvalidArgument)
    for path in ("/proc/none/copy.db", "/" + "x" * 4000, str(tmp_path), "/dev/null/x"):
        assert client.call_error(BackupDatabase(path)).code != "internal", path
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["there.db"]


def test_many_large_settings_are_listed_in_pages(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client:
        for number in range(200):
            client.call(SetSetting(f"free.{number:03}", "x" * 15_000))
        keys: list[str] = []
        pages, cursor = 0, None
        while pages == 0 or cursor is not None:
            page = client.call(ListSettings(cursor))
            keys += [setting.key for setting in page.settings]
            cursor = page.next_cursor
            pages += 1
        assert pages == 3
        assert keys == sorted([*(f"free.{number:03}" for number in range(200)), *KNOWN])


def test_setting_value_with_too_many_elements_is_refused(client: RawClient) -> None:
    with pytest.raises(InvalidArgument, match="more than 1000 elements"):
        client.call(SetSetting("free.bomb", [[]] * 1001))


def test_event_records_the_actor_at_the_time_of_the_request(client: RawClient) -> None:
    commands = [Hello("test", "alice"), SetSetting("free.a", 1), Hello("test", "bob")]
    for sequence in client.begin_many(commands):
        client.result(sequence)
    events = client.items(client.begin(WatchEvents(follow=False, subject="free.a")))
    assert [event["actor"] for event in events] == ["alice"]


def test_queued_stream_ends_when_the_client_half_closes(daemon: DaemonProcess) -> None:
    with RawClient(daemon.socket_path) as client, RawClient(daemon.socket_path) as other:
        *_, stream = client.begin_many([*[Ping()] * 2000, WatchEvents()])
        client.half_close()
        client.read_to_end()
        assert stream in client.last_sequences()
        wait_until(lambda: other.call(GetSystemStatus()).connections == 1, "the connection to be closed")


def test_backup_cancelled_too_late_returns_its_result(daemon: DaemonProcess, root: Path) -> None:
    with RawClient(daemon.socket_path) as client:
        sequence = client.begin(BackupDatabase(str(root / "copy.db")))
        client.cancel(sequence)
        try:
            made = Path(client.result(sequence)["path"]).exists()
        except Cancelled:
            client.call(BackupDatabase())  # one backup is made at a time, so this one ends after a backup in progress
            made = not (root / "copy.db").exists()
        assert made


_SHIFTED = """
import os, sys, time

ahead, wall, wall_ns = {file!r}, time.time, time.time_ns
time.time = lambda: wall() + 86400 * 3650 * os.path.exists(ahead)
time.time_ns = lambda: wall_ns() + 86400 * 3650 * 10**9 * os.path.exists(ahead)
from nexus.daemon.main import run
sys.exit(run([]))
"""


def test_clock_that_jumps_forward_and_back_deletes_no_backup_and_no_event(
    make_daemon: Callable[..., DaemonProcess],
) -> None:
    daemon = make_daemon()
    ahead = daemon.root / "ahead"
    daemon.command = lambda: [sys.executable, "-c", _SHIFTED.format(file=str(ahead))]  # type: ignore[method-assign]
    for number, jumped in enumerate((False, True, False)):
        if jumped:
            ahead.touch()
        else:
            ahead.unlink(missing_ok=True)
        daemon.start()
        with connect(daemon) as client:
            client.call(SetSetting(key="a", value=number))
            backups = [client.call(BackupDatabase(keep_days=1)) for _ in range(5)]
            assert {backup.pruned for backup in backups} == {0}
        daemon.stop()
    assert len(list((daemon.state / "backups").iterdir())) == 15
    daemon.start()
    with connect(daemon) as client:
        events = list(client.items(client.begin(WatchEvents(follow=False, kinds=["setting.set"]))))
    assert len(events) == 3
