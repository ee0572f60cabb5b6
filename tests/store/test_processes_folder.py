"""The folder of processes and the database that it belongs to, without a daemon."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.stores import make_store

from nexus.locks import FileLock
from nexus.store.maintenance import DaemonRuns, database_lock, set_processes_aside
from nexus.store.processes_folder import ForeignProcesses, ProcessesFolder


def opened(root: Path, *, fresh: bool = False) -> ProcessesFolder:
    """Open and close the store of ``root`` with its folder of processes."""
    store = make_store(root)
    folder = ProcessesFolder(store.path, fresh=fresh)
    folder.open_store(store)
    store.close_now()
    return folder


def lost(root: Path) -> Path:
    """A folder with the output of a service, whose database was deleted; returns the output."""
    folder = opened(root)
    output = folder.path / "service-1" / "log" / "1.log"
    output.parent.mkdir(parents=True)
    output.write_text("kept")
    make_store(root).path.unlink()
    return output


def test_folder_without_processes_goes_with_any_database(root: Path) -> None:
    first = opened(root)
    make_store(root).path.unlink()
    (first.path / "database-id").write_text("1")
    assert opened(root).aside is None


def test_copy_of_the_database_goes_with_the_folder(root: Path) -> None:
    store = make_store(root)
    lost_output = lost(root)
    with pytest.raises(ForeignProcesses):
        opened(root)
    store = make_store(root / "other")
    store.init()
    (lost_output.parents[2] / "database-id").write_text(f"{store.id()}\n")
    store.backup_now(make_store(root).path)
    store.close_now()
    assert opened(root).aside is None
    assert lost_output.exists()


def test_setting_aside_keeps_the_output_and_makes_the_database(root: Path) -> None:
    output = lost(root)
    store = make_store(root)
    aside = set_processes_aside(store.path, store.backup_directory)
    assert aside is not None
    assert (aside / output.relative_to(output.parents[2])).read_text() == "kept"
    assert set_processes_aside(store.path, store.backup_directory) is None
    assert opened(root).aside is None


def test_nothing_is_set_aside_while_a_daemon_has_the_database(root: Path) -> None:
    output = lost(root)
    store = make_store(root)
    lock: FileLock = database_lock(store.path)
    with lock, pytest.raises(DaemonRuns):
        set_processes_aside(store.path, store.backup_directory)
    assert output.exists()
