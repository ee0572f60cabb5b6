"""The output of nexusctl byte for byte, by stream, with its exit codes."""

from __future__ import annotations

import contextlib
import re
import signal
import sqlite3
from pathlib import Path

import pytest
from nexus_protocol.errors import Cancelled, DeadlineExceeded, FailedPrecondition, Internal, InvalidArgument, NotFound
from support.cli import Cli
from support.daemon import DaemonProcess, isolated_environment

from nexus.cli.main import exit_code
from nexus.client import ConnectError, ConnectionLost
from nexus.store.connection import connect

HEADING = "NAME                 ROLE       STATE      VCPU   MEM      CID\n"


@pytest.fixture
def cli(daemon: DaemonProcess) -> Cli:
    return Cli(daemon.environment)


def change_database(daemon: DaemonProcess, statement: str) -> None:
    """Run an SQL statement on the database while the daemon is stopped."""
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database)) as database, database:
        assert database.execute(statement).rowcount == 1
    daemon.start()


def test_vm_commands_print_exactly_the_documented_output(daemon: DaemonProcess, cli: Cli) -> None:
    size = daemon.database.stat().st_size
    assert cli("status") == (
        0,
        f"Daemon: ok ({daemon.socket_path})\nDatabase: {daemon.database}\n  Tables: 47\n  Size:   {size} bytes\n",
        "",
    )
    assert cli("vm", "list") == (0, "", "No VMs found.\n")
    assert cli("vm", "create", "my-vm") == (
        0,
        'Created VM "my-vm" (state: created, CID: 3)\n',
        "\n  Inspect it: nexusctl vm inspect my-vm\n",
    )
    assert cli("vm", "list") == (
        0,
        HEADING + "my-vm                work       created    1      128M     3\n",
        "",
    )
    assert cli("vm", "list", "--role", "portal") == (0, "", "No VMs found.\n")
    assert cli("vm", "create", "my-vm") == (
        5,
        "",
        'Error: cannot create VM "my-vm": VM name "my-vm" already exists\n'
        "  Choose another name, or look at it: nexusctl vm inspect my-vm\n",
    )
    assert cli("vm", "create", "gate", "--role", "portal", "--vcpu", "4", "--mem", "1024").out == (
        'Created VM "gate" (state: created, CID: 4)\n'
    )
    assert cli("vm", "list", "--role", "portal").out == (
        HEADING + "gate                 portal     created    4      1024M    4\n"
    )
    assert cli("vm", "delete", "my-vm") == (
        1,
        "",
        "Error: refusing to delete VM without confirmation\n"
        "  Run with --yes to skip confirmation: nexusctl vm delete my-vm --yes\n",
    )
    assert cli("vm", "delete", "my-vm", "--yes") == (0, 'Deleted VM "my-vm"\n', "")
    assert cli("vm", "delete", "my-vm", "-y") == (4, "", 'Error: VM "my-vm" not found\n')
    assert cli("vm", "inspect", "gone") == (4, "", 'Error: VM "gone" not found\n')
    assert cli("version") == (0, "nexusctl 0.1.0\n", "")


def test_vm_inspect_shows_every_set_field(daemon: DaemonProcess, cli: Cli) -> None:
    vm = cli("vm", "create", "my-vm", "-o", "json").json
    lines = cli("vm", "inspect", "my-vm").lines
    assert re.fullmatch(r"Created: \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", lines.pop())
    expected = ["Name:    my-vm", f"ID:      {vm['id']}", "Role:    work", "State:   created", "CID:     3"]
    assert lines == [*expected, "vCPUs:   1", "Memory:  128 MiB"]
    change_database(
        daemon,
        "UPDATE vms SET state = 'stopped', created_at = 1769851800000, started_at = 1769851801000,"
        " stopped_at = 1769851862000",
    )
    assert cli("vm", "inspect", vm["id"][:8]).lines[-3:] == [
        "Created: 2026-01-31 09:30:00 UTC",
        "Started: 2026-01-31 09:30:01 UTC",
        "Stopped: 2026-01-31 09:31:02 UTC",
    ]


def test_delete_of_a_running_vm_is_refused(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "busy")
    change_database(daemon, "UPDATE vms SET state = 'running'")
    refused = cli("vm", "delete", "busy", "--yes")
    assert refused == (5, "", 'Error: cannot delete VM "busy": VM is running, stop it first\n')


def test_commands_without_a_daemon_fail_with_a_hint_to_start_it(root: Path) -> None:
    environment = isolated_environment(root)
    cli = Cli(environment)
    path = root / "run" / "nexus" / "nexus.sock"
    sentence = (
        f"Error: cannot connect to Nexus daemon at {path}\n"
        "  The daemon does not appear to be running.\n\n"
        "  Start it: {}\n"
    )
    for words in (("status",), ("vm", "list"), ("events",), ("settings", "list"), ("db", "status")):
        assert cli(*words) == (3, "", sentence.format("nexusctl daemon start"))
    assert cli("version") == (0, "nexusctl 0.1.0\n", "")
    # With a systemd user manager that has the unit, the hint names the unit.
    (root / "run" / "systemd").mkdir()
    (root / "run" / "systemd" / "private").touch()
    assert cli("status").err == sentence.format("nexusctl daemon start")
    units = root / "config" / "systemd" / "user"
    units.mkdir(parents=True)
    (units / "nexus.service").touch()
    assert cli("status") == (3, "", sentence.format("systemctl --user start nexus.service"))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Internal("x"), 1),
        (InvalidArgument("x"), 2),
        (ConnectError("x"), 3),
        (ConnectionLost("x"), 3),
        (NotFound("x"), 4),
        (FailedPrecondition("x"), 5),
        (DeadlineExceeded("x"), 124),
        (Cancelled("x"), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_code_of_each_error_class(error: Exception, code: int) -> None:
    assert exit_code(error) == code


def test_exit_codes_of_the_process_match_the_table(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    assert cli("vm", "create", "a").code == 0
    assert cli("vm", "delete", "a").code == 1
    assert cli("db", "check", "--db", str(root / "none.db")).code == 1
    assert cli("vm", "create", "not a name").code == 2
    assert cli("vm", "create").code == 2
    assert cli("vm").code == 2
    assert cli("vm", "list", "--socket", str(root / "none.sock")).code == 3
    assert cli("vm", "inspect", "none").code == 4
    assert cli("vm", "create", "a").code == 5
    backup = cli("db", "backup", "-o", "name").out.strip()
    assert cli("db", "restore", backup, "--yes").code == 5
    assert cli("vm", "delete", "none", "a", "--yes").code == 4  # the first failure decides; the second VM is deleted
    assert cli("vm", "list", "-o", "json").out == "[]\n"


def test_events_of_a_killed_daemon_end_with_exit_code_3(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    following = cli.start("events")
    assert following.stdout is not None
    following.stdout.readline()
    following.stdout.readline()
    daemon.kill()
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out) == (3, b"")
    assert err.decode() == (
        "\n  Continue from here: nexusctl events --after 1\n"
        "Error: the connection to the daemon was lost\n"
        "  Whether an unanswered request was carried out is not known; check before you repeat it.\n"
        "  The daemon may have been stopped or restarted: nexusctl daemon status\n"
    )


def test_vm_list_of_ten_thousand_is_complete(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.stop()
    rows = ((f"{n:08x}-0000-4000-8000-000000000000", f"vm-{n:05d}", n + 3, n) for n in range(10_000))
    with contextlib.closing(connect(daemon.database)) as database, database:
        database.executemany(
            "INSERT INTO vms (id, name, role, state, cid, created_at) VALUES (?, ?, 'work', 'created', ?, ?)", rows
        )
    daemon.start()
    names = cli.ok("vm", "list", "-o", "name").lines
    assert names == [f"vm-{n:05d}" for n in reversed(range(10_000))]
    assert len(cli.ok("vm", "list", "-o", "json").json) == 10_000
    assert len(cli.ok("vm", "list", "--no-header").lines) == 10_000
    assert cli.ok("vm", "list", "--limit", "3", "-o", "name").lines == names[:3]
    quick = cli.shell("set -o pipefail; nexusctl vm list | head -n 2")
    assert (len(quick.lines), quick.err, quick.code) == (2, "", 141)


def test_interrupted_events_print_how_to_continue(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    cli.ok("vm", "create", "b")
    following = cli.start("events", "-o", "jsonl")
    assert following.stdout is not None
    following.stdout.readline()
    following.stdout.readline()
    following.send_signal(signal.SIGINT)
    out, err = following.communicate(timeout=30)
    assert (following.returncode, out, err) == (
        130,
        b"",
        b"\n  Continue from here: nexusctl events -o jsonl --after 2\nInterrupted.\n",
    )


def test_nexusd_help_shows_the_db_option_with_its_default(root: Path) -> None:
    shown = Cli(isolated_environment(root)).shell("nexusd --help")
    assert shown.code == 0
    assert re.search(r"--db PATH +the database \(default: \$XDG_STATE_HOME/nexus/nexus\.db\)", shown.out)


def test_nxc_and_plural_nouns_are_aliases(daemon: DaemonProcess, cli: Cli) -> None:
    assert cli.shell("nxc vm list -o json").out == "[]\n"
    assert cli.shell("nexusctl vms list -o json").out == "[]\n"
