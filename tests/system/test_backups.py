"""Backups without being asked: as often as the setting says, whatever clocks, restarts and disks do."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from nexus_protocol import NexusError
from support.daemon import DaemonProcess, running
from support.faults import fill, on_small_disk
from support.raw import RawClient, connect, wait_until
from support.set_clock import ClockedDaemon
from support.stores import Gate, make_store, put
from support.stores import running as store_running

from nexus.store import BackupOptions, StoreUnavailable, Transaction
from nexus.store.backup import timestamp
from nexus.store.sqlite import SqliteStore
from nexus.system import manager as managers
from nexus.system.commands import (
    BackupDatabase,
    Batch,
    DeleteSetting,
    GetSetting,
    Health,
    Ping,
    SetSetting,
    SettingInvalid,
)
from nexus.system.manager import BackupManager
from nexus.vms.commands import CreateVm

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
EVENT = "INSERT INTO journal (at, kind, subject_kind, subject_id, uid, pid) VALUES (1, 'vm.created', 'vm', 'x', 0, 1)"


def happen(tx: Transaction) -> None:
    """Let something have changed."""
    tx.execute(EVENT)


class World:
    """A manager of backups in this process, whose clocks a test sets."""

    def __init__(self, store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = store
        self.now = int(time.time() * 1000)
        """What the wall clock is trusted to say."""
        self.boot_clock = 0
        self.monotonic = 1000.0
        self.settings: dict[str, Any] = {"backup.every": "1d", "backup.keep_days": 30}
        monkeypatch.setattr(managers, "boot_clock_ms", lambda: self.boot_clock)
        monkeypatch.setattr(managers, "time", SimpleNamespace(**vars(time) | {"monotonic": lambda: self.monotonic}))
        self.begin_anew()

    def begin_anew(self) -> None:
        """What a restart of the daemon does to it."""
        context = SimpleNamespace(
            store=self.store,
            boot=SimpleNamespace(trusted_now_ms=lambda: self.now),
            setting=lambda key: self.settings[key],
        )
        self.manager = BackupManager(context)  # type: ignore[arg-type]

    def pass_time(self, ms: int) -> None:
        self.now += ms
        self.boot_clock += ms
        self.monotonic += ms / 1000

    async def change(self) -> None:
        await self.store.write(happen)

    async def look(self) -> int:
        """Look once, as each minute; returns how many backups there are."""
        try:
            await self.manager._look()
        except NexusError as error:
            self.manager._failed(error.message)
        return self.count()

    def count(self) -> int:
        directory = self.store.backup_directory
        return sum(path.suffix == ".db" for path in directory.iterdir()) if directory.exists() else 0


def scenario(root: Path, monkeypatch: pytest.MonkeyPatch, fn: Callable[[World], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        async with store_running(make_store(root)) as store:
            await fn(World(store, monkeypatch))

    asyncio.run(run())


def test_backup_is_made_once_in_the_time_and_only_after_a_change(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(world: World) -> None:
        assert await world.look() == 0, "nothing has happened in the new database"
        await world.change()
        assert await world.look() == 1
        await world.change()
        world.pass_time(DAY_MS - 1)
        assert await world.look() == 1
        world.pass_time(1)
        assert await world.look() == 2
        for _ in range(3):
            world.pass_time(DAY_MS)
            assert await world.look() == 2, "nothing has changed since"
            world.begin_anew()
        await world.change()
        assert await world.look() == 3
        assert await world.look() == 3

    scenario(root, monkeypatch, fn)


def test_restart_neither_repeats_nor_delays_a_backup(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(world: World) -> None:
        await world.change()
        assert await world.look() == 1
        for hour in range(1, 24):
            await world.change()
            world.pass_time(HOUR_MS)
            world.begin_anew()
            assert await world.look() == 1, hour
        world.pass_time(HOUR_MS)
        world.begin_anew()
        assert await world.look() == 2

    scenario(root, monkeypatch, fn)


def test_backup_of_a_client_counts_and_one_before_a_migration_does_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fn(world: World) -> None:
        await world.change()
        directory = world.store.backup_directory
        directory.mkdir()
        (directory / f"nexus-before-v99-{timestamp(world.now)}.db").touch()
        assert await world.look() == 2
        await world.change()
        world.pass_time(DAY_MS)
        await world.store.backup(options=BackupOptions(with_files=True, dated_ms=world.now))
        assert await world.look() == 2, "the archive of a moment ago has everything"
        world.pass_time(DAY_MS)
        assert await world.look() == 2
        await world.change()
        assert await world.look() == 3

    scenario(root, monkeypatch, fn)


def test_clock_set_forward_and_back_neither_stops_backups_nor_makes_many(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fn(world: World) -> None:
        await world.change()
        world.now += 3650 * DAY_MS  # wrong since the boot, so that it is trusted
        assert await world.look() == 1
        world.now -= 3650 * DAY_MS
        made = 1
        for hour in range(1, 72):
            await world.change()
            world.pass_time(HOUR_MS)
            now = await world.look()
            assert now - made <= 1
            made = now
            assert made == 1 + hour // 24, hour
        # Set back by a year: the backups of before are of the future.
        world.now -= 365 * DAY_MS
        for hour in range(72, 144):
            await world.change()
            world.pass_time(HOUR_MS)
            assert await world.look() == 1 + hour // 24, hour
        # A restart at a time when all backups are of the future makes one, and the next does not.
        world.now -= 3650 * DAY_MS
        for _ in range(3):
            await world.change()
            world.pass_time(60_000)
            world.begin_anew()
            assert await world.look() == 7

    scenario(root, monkeypatch, fn)


def test_off_makes_none_and_a_shorter_time_counts_at_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(world: World) -> None:
        await world.change()
        world.settings["backup.every"] = "off"
        assert await world.look() == 0
        assert world.manager.health() == ("ok", "backups are off: the setting backup.every")
        world.settings["backup.every"] = "1h"
        assert await world.look() == 1
        status, sentence = world.manager.health()
        assert (status, sentence[:24]) == ("ok", "the newest backup is of ")
        await world.change()
        world.pass_time(30 * 60_000)
        assert await world.look() == 1
        world.settings["backup.every"] = "10m"
        assert await world.look() == 2
        world.settings["backup.every"] = "rubbish of another program"
        await world.change()
        world.pass_time(HOUR_MS)
        assert await world.look() == 2

    scenario(root, monkeypatch, fn)


def no_folder(store: SqliteStore) -> None:
    store.backup_directory.touch()


def broken_link(store: SqliteStore) -> None:
    store.backup_directory.symlink_to("/proc/none")


@pytest.mark.parametrize("spoil", [no_folder, broken_link])
def test_failure_is_told_and_retried_with_a_growing_wait(
    root: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[SqliteStore], None]
) -> None:
    async def fn(world: World) -> None:
        await world.change()
        spoil(world.store)
        attempts: list[float] = []
        failed = world.manager._failed

        def noted(problem: str) -> None:
            attempts.append(world.monotonic)
            failed(problem)

        monkeypatch.setattr(world.manager, "_failed", noted)
        for _ in range(600):
            try:
                await world.manager._look()
            except NexusError as error:
                world.manager._failed(error.message)
            world.pass_time(60_000)
        waits = [round((after - before) / 60) for before, after in itertools.pairwise(attempts)]
        assert waits[:7] == [1, 2, 4, 8, 16, 32, 60]
        assert set(waits[7:]) == {60}
        status, sentence = world.manager.health()
        assert status == "degraded"
        assert sentence.startswith("cannot ")
        assert str(world.store.backup_directory) in sentence
        assert "the next attempt is in" in sentence
        world.store.backup_directory.unlink()
        world.manager.look_now()
        assert await world.look() == 1
        assert world.manager.health()[0] == "ok"

    scenario(root, monkeypatch, fn)


def test_deleted_database_is_not_backed_up_by_itself(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(world: World) -> None:
        await world.change()
        world.store.path.unlink()
        with pytest.raises(StoreUnavailable):
            await world.manager._look()
        assert world.count() == 0

    scenario(root, monkeypatch, fn)


def test_backup_holds_up_neither_the_writer_nor_the_loop(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(world: World) -> None:
        await world.change()
        await world.store.write(put("large", "x" * 30_000_000), size_bytes=30_000_000)
        begun, end = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        backup = world.store.backup_now

        def slow(*arguments: Any) -> Any:
            loop.call_soon_threadsafe(begun.set)
            try:
                return backup(*arguments)
            finally:
                loop.call_soon_threadsafe(end.set)

        monkeypatch.setattr(world.store, "backup_now", slow)
        look = asyncio.create_task(world.manager._look())
        await begun.wait()
        assert world.manager.children() == 1
        written = 0
        while not end.is_set():
            await world.store.write(put(f"k{written}"))
            written += 1
        await look
        assert world.manager.children() == 0
        assert written > 3

    scenario(root, monkeypatch, fn)


def test_end_of_the_daemon_does_not_wait_for_a_backup(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fn(world: World) -> None:
        await world.change()
        gate = Gate()
        monkeypatch.setattr(world.store, "backup_now", lambda *_arguments: gate(None))  # type: ignore[arg-type]
        monkeypatch.setattr(managers, "FIRST_LOOK_S", 0.0)
        await world.manager.start()
        await gate.entered()
        await world.manager.close()
        gate.open()

    scenario(root, monkeypatch, fn)


# A real daemon


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[RawClient]:
    with connect(daemon) as client:
        yield client


def backups_of(daemon: DaemonProcess) -> list[Path]:
    directory = daemon.state / "backups"
    return sorted(path for path in directory.iterdir() if path.suffix == ".db") if directory.exists() else []


def backup_check(client: RawClient) -> tuple[str, str]:
    (check,) = [check for check in client.call(Health()).checks if check.name == "backup"]
    return check.status, check.message


def test_daemon_makes_a_backup_when_the_setting_says_so(daemon: DaemonProcess, client: RawClient) -> None:
    assert backup_check(client) == ("ok", "no backup was made yet")
    assert backups_of(daemon) == []
    client.call(SetSetting("backup.every", "1h"))
    wait_until(lambda: backups_of(daemon), "a backup")
    wait_until(lambda: backup_check(client)[1].startswith("the newest backup is of "), "the backup to be told")
    client.call(CreateVm("more"))
    client.call(Batch.of([SetSetting("backup.every", "2h"), SetSetting("backup.keep_days", 3)]))
    client.call(DeleteSetting("backup.every"))
    client.call(Ping())
    assert len(backups_of(daemon)) == 1


def test_clock_of_a_daemon_that_jumps_makes_one_backup_in_the_time(root: Path) -> None:
    daemon = ClockedDaemon(root)
    daemon.start()
    try:
        with connect(daemon) as client:
            client.call(SetSetting("backup.every", "1h"))
            wait_until(lambda: backups_of(daemon), "a backup")
            for number, seconds in enumerate((86_400 * 3650, 0, -86_400 * 3650, 86_400, 0)):
                daemon.set_clock(seconds)
                client.call(CreateVm(f"vm{number}"))
                client.call(SetSetting("backup.keep_days", 5 + number))
                client.call(Health())
        assert len(backups_of(daemon)) == 1
    finally:
        daemon.close()


def test_full_disk_is_told_and_does_not_repeat_the_backup(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon()

    def use(disk: Path) -> None:
        with connect(daemon) as client:
            client.call(CreateVm("some"))
            filler = fill(disk, leave_kib=300)
            client.call(SetSetting("backup.every", "1h"))
            wait_until(lambda: backup_check(client)[0] == "degraded", "the failure to be told")
            assert "the disk is full; the next attempt is in 1 min" in backup_check(client)[1]
            assert client.call(Health()).status == "degraded"
            assert list((daemon.state / "backups").iterdir()) == []
            filler.unlink()
            client.call(BackupDatabase())
            client.call(SetSetting("backup.keep_days", 9))
            wait_until(lambda: backup_check(client)[0] == "ok", "the backup of the client to be noticed")
            assert len(backups_of(daemon)) == 1
        assert daemon.stop() == 0
        assert daemon.log().count("no backup was made") == 1

    on_small_disk(daemon.root / "state", 4096, running(daemon, use))


@pytest.mark.parametrize("value", ["1m", "90s", "1h30m", "1.5d", "3650d", "off", 86_400])
def test_setting_takes_times_and_off(client: RawClient, value: object) -> None:
    assert client.call(SetSetting("backup.every", value)).value == value
    assert client.call(GetSetting("backup.every")).value == value


@pytest.mark.parametrize("value", ["", "59s", "4000d", "never", "1 day", "-1d", True, 1.5, 59, ["1d"], {"d": 1}])
def test_setting_refuses_what_is_no_time(client: RawClient, value: object) -> None:
    with pytest.raises(SettingInvalid, match=r"^cannot set backup\.every to .*: it takes a time such as 12h or 1d"):
        client.call(SetSetting("backup.every", value))
    assert client.call(GetSetting("backup.every")).value == "1d"


def test_setting_of_days_is_the_default_of_the_command(daemon: DaemonProcess, client: RawClient) -> None:
    directory = daemon.state / "backups"
    directory.mkdir(mode=0o700)
    now = int(time.time() * 1000)
    for days in (10, 11, 12, 13, 14):
        (directory / f"nexus-{timestamp(now - days * DAY_MS)}.db").touch()
    assert client.call(BackupDatabase()).pruned == 0
    client.call(SetSetting("backup.keep_days", 5))
    assert client.call(BackupDatabase()).pruned >= 3, "of seven, the newest three are kept, the present one aside"
