"""Only SQLite opens the database and its index: closing another descriptor would drop its POSIX locks."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.system.commands import BackupDatabase, GetSystemStatus, Health, SetSetting
from nexus.vms.commands import CreateVm, DeleteVm, ListVms

_RECORDING = """
import os, sys

record = os.open({record!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

def watch(event, arguments):
    if event in ("open", "sqlite3.connect"):
        os.write(record, f"{{event}} {{os.path.basename(os.fsdecode(str(arguments[0])))}}\\n".encode())

sys.addaudithook(watch)
from nexus.daemon.main import run
sys.exit(run({arguments!r}))
"""


class RecordedDaemon(DaemonProcess):
    """A daemon that records every file that its Python code opens."""

    @property
    def record(self) -> Path:
        return self.root / "opened"

    def command(self) -> list[str]:
        program = _RECORDING.format(record=os.fspath(self.record), arguments=self.arguments)
        return [sys.executable, "-c", program]


@pytest.fixture
def recorded(root: Path) -> Iterator[RecordedDaemon]:
    """A running RecordedDaemon."""
    daemon = RecordedDaemon(root).start()
    assert isinstance(daemon, RecordedDaemon)
    yield daemon
    daemon.close()


def test_only_sqlite_opens_the_database_files(recorded: RecordedDaemon) -> None:
    for kill in (False, True):
        with BlockingClient(recorded.socket_path) as nexus:
            for i in range(20):
                nexus.call(CreateVm(name=f"vm{kill:d}-{i}"))
            nexus.call(DeleteVm(vm=f"vm{kill:d}-1"))
            nexus.call(SetSetting(key="a", value=1))
            nexus.call(ListVms())
            nexus.call(BackupDatabase())
            nexus.call(BackupDatabase(path=str(recorded.root / f"copy{kill:d}.db")))
            assert nexus.call(Health()).status == "ok"
            nexus.call(GetSystemStatus())
            with nexus.stream(WatchEvents(follow=False)) as stream:
                assert len(list(stream)) >= 20
        if kill:
            recorded.kill()
        else:
            assert recorded.stop() == 0
        recorded.start()
    opened = recorded.record.read_text().splitlines()
    assert any(line.startswith("sqlite3.connect") for line in opened), "the record works"
    assert "open nexus.db.lock" in opened
    files = {line.removeprefix("open ") for line in opened if line.startswith("open nexus.db")}
    # A close of the database or of its index would give up SQLite's locks on it. On the log it holds none.
    assert files == {"nexus.db.lock", "nexus.db-wal"}
