"""A database that is lost, exchanged or overwritten beside living processes: none of them is ended by a daemon."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nexus_protocol.errors import NexusError
from support.daemon import DaemonProcess
from support.live_services import listen
from support.services import ServiceWorld
from support.stores import contents

from nexus.services.commands import AddDependency, ListServices, StartService
from nexus.services.states import ServiceState
from nexus.system.commands import BackupDatabase, Health
from nexus.vms.commands import CreateVm, ListVms

EX_CONFIG = 78


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    """A running daemon with a running service that has written output; all of it is ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.start()
        world.puppet("web")
        world.call(StartService(service="web"))
        world.order("web", "say kept")
        yield world


def processes(world: ServiceWorld) -> Path:
    return world.state / "processes"


def untouched(world: ServiceWorld) -> dict[str, list[int]]:
    """What a daemon that must not touch the service has to leave as it is: its processes, by run."""
    return {run: sorted(pids) for run, pids in world.runs()["web"].items()}


def refusal(world: ServiceWorld) -> str:
    """Run a daemon that must refuse to start; returns what it says."""
    code, output = world.daemon.run_to_failure()
    assert code == EX_CONFIG, output
    assert "Traceback" not in output
    said = output[output.index("nexusd: cannot ") :]
    assert "nexusctl db restore" in said
    assert "nexusd --fresh" in said
    assert str(processes(world)) in said
    return said


def deleted(path: Path) -> None:
    path.unlink()
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def deleted_without_its_log(path: Path) -> None:
    path.unlink()


def emptied(path: Path) -> None:
    deleted(path)
    path.touch()


def renamed(path: Path) -> None:
    deleted_without_its_log(path.rename(path.with_name("elsewhere.db")))


def without_tables(path: Path) -> None:
    import sqlite3

    deleted(path)
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (x)")
        connection.execute("DROP TABLE t")
    connection.close()


def of_an_unknown_version(path: Path) -> None:
    import sqlite3

    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE schema_meta SET value = 'none' WHERE key = 'version'")
    connection.close()


def kept(world: ServiceWorld) -> list[str]:
    """What is in the daemon's folder, without what each start may remove: shared memory and a dead daemon's address."""
    return sorted(path.name for path in world.state.iterdir() if not path.name.endswith(("-shm", ".address")))


LOSSES = [deleted, deleted_without_its_log, emptied, renamed, without_tables, of_an_unknown_version]


@pytest.mark.parametrize("how", ["kill", "stop"])
@pytest.mark.parametrize("lose", LOSSES, ids=lambda lose: lose.__name__)
def test_daemon_without_its_database_refuses_to_start_beside_processes(
    world: ServiceWorld, lose: Callable[[Path], None], how: str
) -> None:
    service, runs = world.service("web"), untouched(world)
    getattr(world.daemon, how)()
    lose(world.daemon.database)
    before = kept(world)
    for _ in range(2):  # the refused start must not make the database that the next one finds
        refusal(world)
    assert kept(world) == before, "nothing was made or set aside"
    assert untouched(world) == runs
    assert b"kept" in world.kept_on_disk(service)


def test_restored_backup_finds_the_processes_again(world: ServiceWorld, root: Path) -> None:
    runs = untouched(world)
    world.call(BackupDatabase(path=str(root / "copy.db")))
    world.daemon.kill()
    deleted(world.daemon.database)
    refusal(world)
    world.cli.ok("db", "restore", str(root / "copy.db"), "--yes")
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING
    assert untouched(world) == runs
    assert b"kept" in world.output("web")


def test_fresh_sets_the_processes_aside_and_ends_none(world: ServiceWorld) -> None:
    runs = untouched(world)
    world.daemon.stop()
    deleted(world.daemon.database)
    world.daemon.arguments = ["--fresh"]
    world.daemon.start()
    assert world.call(ListServices()).services == []
    (aside,) = world.state.glob("processes.set-aside-*")
    assert str(aside) in world.daemon.log()
    assert untouched(world) == runs
    assert [b"kept" in path.read_bytes() for path in aside.rglob("log/*.log")] == [True]
    # The new database and its folder belong together from now on.
    world.puppet("other")
    world.call(StartService(service="other"))
    world.daemon.stop()
    for arguments in (["--fresh"], []):
        world.daemon.arguments = arguments
        world.daemon.start()
        assert world.service("other").state is ServiceState.RUNNING
        world.daemon.stop()
    assert untouched(world) == runs
    assert list(world.state.glob("processes.set-aside-*")) == [aside]


def test_fresh_sets_the_tunnels_aside_and_they_go_on(world: ServiceWorld, root: Path) -> None:
    def answer_through_a_tunnel_to(name: str) -> Callable[[], str]:
        world.add(name, listen(then=f"os.getpid = lambda: {name!r}"), port=0, health_tcp=0)
        world.add(f"{name}-user", "exec sleep 1000")
        world.call(AddDependency(service=f"{name}-user", dependency=name, condition="healthy", tunnel_enabled=True))
        pid = world.call(StartService(service=f"{name}-user")).service.pid
        pairs = Path(f"/proc/{pid}/environ").read_text().split("\0")
        (port,) = [pair.partition("=")[2] for pair in pairs if pair.startswith(f"NEXUS_{name.upper()}_PORT=")]

        def answer() -> str:
            with socket.create_connection(("127.0.0.1", int(port)), timeout=30) as connection:
                return connection.recv(64).decode()

        return answer

    old = answer_through_a_tunnel_to("old")
    assert old() == "old"
    world.daemon.stop()
    deleted(world.daemon.database)
    world.daemon.arguments = ["--fresh"]
    world.daemon.start()
    (aside,) = world.state.glob("tunnels.set-aside-*")
    assert answer_through_a_tunnel_to("new")() == "new"
    assert old() == "old", "a tunnel of the new database has its number"
    assert [path.name for path in aside.iterdir()] == ["1"]


def test_set_aside_processes_are_found_again_with_their_database(world: ServiceWorld, root: Path) -> None:
    runs = untouched(world)
    world.call(BackupDatabase(path=str(root / "copy.db")))
    world.daemon.stop()
    deleted(world.daemon.database)
    world.daemon.arguments = ["--fresh"]
    world.daemon.start()
    world.daemon.stop()
    (aside,) = world.state.glob("processes.set-aside-*")
    shutil.rmtree(processes(world))
    aside.rename(processes(world))
    world.daemon.arguments = []
    refusal(world)
    world.cli.ok("db", "restore", str(root / "copy.db"), "--yes")
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING
    assert untouched(world) == runs


def test_daemon_start_has_the_option_and_shows_the_refusal(world: ServiceWorld) -> None:
    runs = untouched(world)
    world.daemon.stop()
    deleted(world.daemon.database)
    refused = world.cli("daemon", "start")
    assert refused.code == 1
    assert refused.err.startswith("Error: cannot start with a new database: ")
    assert "nexusctl daemon start --fresh" in refused.err
    world.cli.ok("daemon", "start", "--fresh")
    try:
        assert world.cli.ok("service", "list", "-o", "name").out == ""
        assert untouched(world) == runs
    finally:
        world.cli.ok("daemon", "stop")


def another_database(root: Path) -> Path:
    """A database of another daemon, with its log in it."""
    other = DaemonProcess(root / "other")
    other.start()
    assert other.stop() == 0
    return other.database


def test_another_database_is_refused_beside_the_processes(world: ServiceWorld, root: Path) -> None:
    runs = untouched(world)
    other = another_database(root)
    world.daemon.stop()
    mine = world.daemon.database.rename(root / "mine.db")
    shutil.copy(other, world.daemon.database)
    before = world.daemon.database.read_bytes()
    assert "belong to another database" in refusal(world)
    assert world.daemon.database.read_bytes() == before
    mine.replace(world.daemon.database)
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING
    assert untouched(world) == runs


def test_another_database_with_fresh_leaves_the_processes_alone(world: ServiceWorld, root: Path) -> None:
    runs = untouched(world)
    other = another_database(root)
    world.daemon.stop()
    shutil.copy(other, world.daemon.database)
    world.daemon.arguments = ["--fresh"]
    world.daemon.start()
    assert world.call(ListServices()).services == []
    assert untouched(world) == runs


def test_folder_of_an_earlier_version_without_the_id_is_accepted(world: ServiceWorld) -> None:
    world.daemon.stop()
    (processes(world) / "database-id").unlink()
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING
    assert (processes(world) / "database-id").read_text().strip()


def test_database_of_another_name_has_its_own_folder_and_the_same_refusal(root: Path) -> None:
    with ServiceWorld(root, "--db", str(root / "state" / "own.db")) as world:
        world.daemon.start()
        world.puppet("web")
        world.call(StartService(service="web"))
        runs = untouched(world)
        world.daemon.stop()
        deleted(root / "state" / "own.db")
        code, said = world.daemon.run_to_failure()
        assert code == EX_CONFIG
        assert f"nexusctl db restore BACKUP --db {root}/state/own.db" in said
        assert f"nexusd --fresh --db {root}/state/own.db" in said
        assert untouched(world) == runs


def test_missing_database_without_processes_is_made(make_daemon: Callable[..., DaemonProcess]) -> None:
    daemon = make_daemon().start()
    assert daemon.stop() == 0
    deleted(daemon.database)
    assert daemon.start().stop() == 0


@pytest.mark.parametrize("name", ["nexus.db", "other.db"])
def test_moved_database_with_a_link_in_its_place_keeps_its_processes(
    world: ServiceWorld, root: Path, name: str
) -> None:
    runs = untouched(world)
    world.daemon.stop()
    target = root / "moved" / name
    target.parent.mkdir(mode=0o700)
    world.daemon.database.rename(target)
    world.daemon.database.symlink_to(target)
    for _ in range(2):
        world.daemon.start()
        assert world.service("web").state is ServiceState.RUNNING
        assert untouched(world) == runs
        assert b"kept" in world.output("web")
        world.daemon.stop()


def of_a_backup(path: Path, copy: Path) -> None:
    deleted(path)
    shutil.copy(copy, path)


def without_its_log(path: Path, copy: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


@pytest.mark.parametrize("older", [of_a_backup, without_its_log], ids=lambda older: older.__name__)
def test_older_state_of_the_database_is_refused_and_ends_nothing(
    world: ServiceWorld, root: Path, older: Callable[[Path, Path], None]
) -> None:
    copy = root / "copy.db"
    world.call(BackupDatabase(path=str(copy)))
    world.puppet("newer")
    world.call(StartService(service="newer"))
    runs = {name: sorted(pids) for name, all_pids in world.runs().items() for pids in all_pids.values()}
    world.daemon.kill()
    older(world.daemon.database, copy)
    assert "lost its newest records" in refusal(world)
    assert {name: sorted(pids) for name, all_pids in world.runs().items() for pids in all_pids.values()} == runs
    world.cli.ok("db", "restore", str(copy), "--yes")
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING


# While the daemon runs


def by_deletion(path: Path, other: Path) -> None:
    path.unlink()


def by_rename(path: Path, other: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))


def by_another_file(path: Path, other: Path) -> None:
    shutil.copy(other, path.with_name("new.db")).replace(path)


def by_copy_over_it(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def by_rename_of_the_folder(path: Path, other: Path) -> None:
    path.parent.rename(path.parent.with_name("elsewhere"))


def of_the_log(path: Path, other: Path) -> None:
    path.with_name(path.name + "-wal").unlink()


def of_the_logs_end(path: Path, other: Path) -> None:
    os.truncate(path.with_name(path.name + "-wal"), 32 + 24 + 4096)


def of_the_logs_content(path: Path, other: Path) -> None:
    os.truncate(path.with_name(path.name + "-wal"), 0)


def of_all_files(path: Path, other: Path) -> None:
    deleted(path)


CHANGES = [
    by_deletion,
    by_rename,
    by_another_file,
    by_copy_over_it,
    by_rename_of_the_folder,
    of_the_log,
    of_the_logs_end,
]
CHANGES += [of_the_logs_content, of_all_files]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_write_after_a_change_of_the_files_is_refused_and_health_says_so(
    daemon: DaemonProcess, root: Path, change: Callable[[Path, Path], None]
) -> None:
    other = another_database(root)
    from nexus.client import BlockingClient

    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateVm(name="before"))
        assert client.call(Health()).status == "ok"
        change(daemon.database, other)
        refused = []
        for number in range(5):
            with pytest.raises(NexusError) as caught:
                client.call(CreateVm(name=f"after-{number}"))
            refused.append(caught.value)
        assert {(error.code, error.type) for error in refused} == {("unavailable", "store.unavailable")}
        assert all("while the daemon was running" in error.message and error.hint for error in refused)
        health = client.call(Health())
        assert health.status == "failing"
        (writes,) = [check for check in health.checks if check.name == "writes"]
        assert (writes.status, "while the daemon was running" in writes.message) == ("failing", True)
    assert daemon.stop() == 0
    assert "Traceback" not in daemon.log()


def test_file_that_comes_back_is_used_again(daemon: DaemonProcess) -> None:
    from nexus.client import BlockingClient

    aside = daemon.database.with_name("aside.db")
    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateVm(name="before"))
        daemon.database.rename(aside)
        with pytest.raises(NexusError):
            client.call(CreateVm(name="meanwhile"))
        aside.rename(daemon.database)
        client.call(CreateVm(name="after"))
        assert client.call(Health()).status == "ok"
        assert {vm.name for vm in client.call(ListVms()).vms} == {"before", "after"}


def test_what_was_acknowledged_survives_the_loss_of_the_log(daemon: DaemonProcess) -> None:
    from nexus.client import BlockingClient

    with BlockingClient(daemon.socket_path) as client:
        client.call(CreateVm(name="before"))
        of_the_log(daemon.database, daemon.database)
        with pytest.raises(NexusError):
            client.call(CreateVm(name="refused"))
    assert daemon.stop() == 0
    daemon.start()
    with BlockingClient(daemon.socket_path) as client:
        assert [vm.name for vm in client.call(ListVms()).vms] == ["before"]
        client.call(CreateVm(name="after"))


@pytest.mark.parametrize("change", [by_copy_over_it, by_another_file], ids=["copied over it", "moved there"])
def test_backup_put_in_place_while_the_daemon_runs_is_not_damaged_by_its_stop(
    world: ServiceWorld, root: Path, change: Callable[[Path, Path], None]
) -> None:
    runs = untouched(world)
    world.call(BackupDatabase(path=str(root / "copy.db")))
    for number in range(20):
        world.call(CreateVm(name=f"later-{number}"))
    change(world.daemon.database, root / "copy.db")
    with pytest.raises(NexusError):
        world.call(CreateVm(name="refused"))
    world.daemon.stop()
    assert contents(world.daemon.database)["vms"] == []
    assert list(world.state.glob("nexus.db.set-aside-*-wal")), "what the backup does not hold is kept"
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING
    assert world.call(ListVms()).vms == []
    assert untouched(world) == runs


def test_data_can_be_saved_after_the_deletion_and_restored(world: ServiceWorld, root: Path) -> None:
    runs = untouched(world)
    deleted(world.daemon.database)
    with pytest.raises(NexusError):
        world.call(CreateVm(name="refused"))
    world.cli.ok("db", "backup", str(root / "saved.db"))
    world.daemon.stop()
    refusal(world)
    world.cli.ok("db", "restore", str(root / "saved.db"), "--yes")
    world.daemon.start()
    assert world.service("web").state is ServiceState.RUNNING
    assert untouched(world) == runs
