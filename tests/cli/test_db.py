"""``nexusctl db``: through the daemon while it runs, on the file while it does not."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.faults import as_ordinary_user
from support.stores import files_of

from nexus.cli.db import examine
from nexus.store.base import InitError


def test_db_status_shows_tables_and_migrations(daemon: DaemonProcess, cli: Cli) -> None:
    lines = cli.ok("db", "status").lines
    assert lines[0] == f"Database: {daemon.database}"
    assert re.fullmatch(r"Size:     \d+ bytes", lines[1])
    assert lines[2:6] == [
        "Schema:   version 14",
        "Journal:  wal",
        "Tables:   47 (agents, blobs, checkpoints, chunk_symbol, code_chunks, continue_points, "
        "conversation_origins, conversation_sources, conversations, episodes, features, fence, job_after, "
        "job_group, jobs, journal, kept_embedding, lease, message_parts, message_revision, messages, metrics, "
        "nodes, operation, port_lease, projects, record_number, request_key, requirement_feature, "
        "requirements, schedules, schema_meta, secret_value, service, service_config, service_dependency, "
        "sessions, settings, sub_features, tag, task_comment, task_dependency, task_note, tasks, "
        "vector_change, vector_collection, vms)",
        "Migrations:",
    ]
    assert [line.split()[:2] for line in lines[6:]] == [
        ["0001", "settings"],
        ["0002", "vms"],
        ["0003", "journal"],
        ["0004", "services"],
        ["0005", "supervision"],
        ["0006", "faults"],
        ["0007", "records"],
        ["0008", "history"],
        ["0009", "projects"],
        ["0010", "jobs"],
        ["0011", "conversations"],
        ["0012", "nodes"],
        ["0013", "ledger"],
        ["0014", "memory"],
    ]


def test_db_backup_works_while_daemon_runs_and_restore_while_it_does_not(
    daemon: DaemonProcess, cli: Cli, root: Path
) -> None:
    cli.ok("vm", "create", "kept")
    backup = root / "backup.db"
    made = cli.ok("db", "backup", str(backup))
    assert made.out == f"Backed up to {backup} ({backup.stat().st_size} bytes)\n"
    again = cli("db", "backup", str(backup))
    assert again == (5, "", f"Error: cannot back up to {backup}: it already exists\n")
    cli.ok("vm", "delete", "kept", "--yes")

    for words in (("restore", str(backup), "--yes"), ("migrate", "--to", "2")):
        refused = cli("db", *words)
        assert (refused.code, refused.out) == (5, "")
        assert refused.err == (
            f"Error: cannot {words[0]} the database while the daemon runs (pid {daemon.pid})\n"
            "  Stop it first: nexusctl daemon stop\n"
        )
    daemon.stop()
    unconfirmed = cli("db", "restore", str(backup))
    assert unconfirmed == (
        1,
        "",
        "Error: refusing to replace the database without confirmation\n"
        f"  Run with --yes to skip confirmation: nexusctl db restore {backup} --yes\n",
    )
    restored = cli.ok("db", "restore", str(backup), "--yes")
    assert restored.lines[0] == f"Restored {daemon.database} (schema version 14)"
    aside = Path(restored.lines[1].removeprefix("The replaced database is "))
    assert aside.parent == daemon.database.parent
    assert aside.exists()
    assert restored.err == "\n  Start the daemon: nexusctl daemon start\n"
    daemon.start()
    assert cli.ok("vm", "list", "-o", "name").out == "kept\n"


def test_db_backup_without_path_goes_to_the_backups_directory(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    path = Path(cli.ok("db", "backup", "-o", "name").out.strip())
    assert path.parent == daemon.state / "backups"
    relative = cli.shell(f"cd {root} && nexusctl db backup here.db")
    assert relative.code == 0
    assert (root / "here.db").exists()


def test_db_migrate_goes_back_and_forward_and_keeps_a_backup(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "kept")
    daemon.stop()
    assert cli("db", "migrate", "--to", "2") == (
        1,
        "",
        f"Error: refusing to migrate without confirmation: {daemon.database} would go from schema version 14 back to 2,"
        " which drops journal (1 rows), service_dependency (0 rows), service (0 rows), service_config (0 rows),"
        " port_lease (0 rows), tag (0 rows), request_key (0 rows), secret_value (0 rows), operation (1 rows),"
        " projects (1 rows), schedules (0 rows), job_after (0 rows), jobs (0 rows), job_group (1 rows), nodes (1 rows),"
        " record_number (1 rows), conversation_origins (0 rows), conversation_sources (0 rows),"
        " message_revision (0 rows), message_parts (0 rows),"
        " blobs (0 rows), messages (0 rows), conversations (0 rows),"
        " fence (0 rows), lease (0 rows), sessions (0 rows), metrics (0 rows), requirement_feature (0 rows),"
        " requirements (0 rows), task_comment (0 rows), task_note (0 rows), task_dependency (0 rows), tasks (0 rows),"
        " agents (0 rows), sub_features (0 rows), features (0 rows), vector_change (0 rows),"
        " vector_collection (0 rows), chunk_symbol (0 rows), code_chunks (0 rows), kept_embedding (0 rows),"
        " episodes (0 rows), continue_points (0 rows), checkpoints (0 rows)\n"
        "  Run with --yes to skip confirmation: nexusctl db migrate --to 2 --yes\n",
    )
    assert cli.ok("db", "check").lines[0] == f"{daemon.database}: schema version 14, ok"
    with cli.terminal("db", "migrate", "--to", "2", columns=500) as terminal:
        terminal.wait_for(" checkpoints (0 rows)? [y/N]: ")
        terminal.type("n\n")
        assert terminal.finish()[0] == 1
    back = cli.ok("db", "migrate", "--to", "2", "--yes")
    (backup,) = (daemon.state / "backups").iterdir()
    assert back.lines == [
        f"Migrated {daemon.database} from schema version 14 to 2",
        f"Backup of the old database: {backup}",
    ]
    assert cli.ok("db", "check").lines[0] == f"{daemon.database}: schema version 2, ok"
    assert cli.ok("db", "migrate", "--to", "2").out == "The database is already at schema version 2\n"
    forward = cli.ok("db", "migrate", "--to", "9", "-o", "json").json
    (second,) = set((daemon.state / "backups").iterdir()) - {backup}
    assert forward == {"path": str(daemon.database), "from": 2, "to": 9, "backup": str(second)}
    unknown = cli("db", "migrate", "--to", "99")
    assert unknown == (1, "", "Error: cannot migrate to version 99: the versions are 1 to 14\n")
    assert cli("db", "migrate", "--to", "0").code == 2
    assert cli("db", "migrate").code == 2


def test_db_migrate_tells_what_prevents_going_back_before_asking(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("project", "create", "other")
    for words in (("vm", "create", "box"), ("vm", "create", "web"), ("service", "add", "db", "--", "sleep", "9")):
        cli.ok(*words)
        cli.ok("-p", "other", *words)
    cli.ok("vm", "delete", "web", "--yes")
    daemon.stop()
    backups = daemon.state / "backups"
    files = files_of(daemon.database.parent), sorted(backups.glob("**/*"))
    refused = (
        1,
        "",
        'Error: cannot revert migration 9 (projects): the VM "box" is in the projects default, other; '
        'the service "db" is in the projects default, other\n'
        "  The database is unchanged. Start the daemon, change or delete these records, and migrate again.\n",
    )
    for words in ((), ("--yes",), ("-o", "json")):
        assert cli("db", "migrate", "--to", "4", *words) == refused
        assert (files_of(daemon.database.parent), sorted(backups.glob("**/*"))) == files
    with cli.terminal("db", "migrate", "--to", "8", columns=500) as terminal:
        code, text = terminal.finish()
    assert code == 1
    assert "[y/N]" not in text
    daemon.start()
    cli.ok("-p", "other", "vm", "delete", "box", "--yes")
    cli.ok("-p", "other", "service", "update", "db", "--name", "db2")
    daemon.stop()
    assert cli.ok("db", "migrate", "--to", "4", "--yes").lines[0].endswith("from schema version 14 to 4")


def test_db_restore_reports_errors_before_asking(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    backup = cli.ok("db", "backup", "-o", "name").out.strip()
    assert cli("db", "restore", backup).err.startswith("Error: cannot restore the database while the daemon runs")
    daemon.stop()
    assert "there is no such file" in cli("db", "restore", str(root / "none.db")).err
    (root / "text.db").write_text("no database" * 1000)
    assert "file is not a database" in cli("db", "restore", str(root / "text.db")).err
    assert "without confirmation" in cli("db", "restore", backup).err
    other = cli("db", "restore", backup, "--db", str(root / "other.db"))
    assert f"nexusctl db restore {backup} --db {root}/other.db --yes" in other.err


def test_db_commands_default_to_the_running_daemons_database(root: Path, lonely: Cli) -> None:
    lonely.ok("daemon", "start", NEXUS_DATABASE=str(root / "other.db"))
    backup = lonely.ok("db", "backup", "-o", "name").out.strip()
    assert lonely.ok("db", "check").lines[0] == f"{root}/other.db: schema version 14, ok"
    assert f"{root}/other.db is intact" in lonely.ok("doctor").out
    for words in (["restore", backup, "--yes"], ["migrate", "--to", "2", "--yes"]):
        refused = lonely("db", *words)
        assert (refused.code, refused.out) == (5, "")
        assert f"The running daemon uses {root}/other.db, and not {root}/state/nexus/nexus.db" in refused.err
        assert refused.err.endswith("or name the database: --db PATH\n")


def test_db_check_calls_a_newer_database_newer_not_damaged(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.database)) as database, database:
        database.execute("UPDATE schema_meta SET value = '99' WHERE key = 'version'")
    result = cli("db", "check")
    assert result.code == 1
    assert result.lines[0] == f"{daemon.database}: schema version 99, newer than this program"
    assert result.err.endswith("\n  Run the newer version of nexusd that created it.\n")
    found = cli("doctor")
    assert "it is newer than this program" in found.out
    assert "Run the newer version of nexusd" in found.out
    assert "db restore" not in found.out + result.err


def test_db_check_unreadable_file_hints_at_permissions_not_restore(root: Path) -> None:
    folder = root / "folder"
    folder.mkdir()

    def scenario() -> None:
        path = folder / "closed.db"
        path.touch(mode=0o000)
        with pytest.raises(InitError, match="permission denied") as caught:
            examine(path)
        assert caught.value.hint == f"Check the permissions: ls -ld {folder} {path}"

    root.chmod(0o755)
    with pytest.raises(InitError, match="no such file"):
        examine(root / "none.db")  # also imports the modules, whose files an ordinary user may not be able to read
    as_ordinary_user(folder, scenario)


def test_db_check_of_a_directory_or_a_text_file_is_an_error(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    folder = cli("db", "check", "--db", str(root))
    assert folder == (1, "", f"Error: cannot check {root}: it is a directory\n  Name the file in it: --db PATH\n")
    (root / "text.db").write_text("no database" * 1000)
    text = cli("db", "check", "--db", str(root / "text.db"))
    assert text.err.endswith(f"nexusctl daemon stop; nexusctl db restore BACKUP --db {root}/text.db\n")


def test_db_check_works_while_the_daemon_runs(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "a")
    assert cli.ok("db", "check").lines == [
        f"{daemon.database}: schema version 14, ok",
        "  agents                0 rows",
        "  blobs                 0 rows",
        "  checkpoints           0 rows",
        "  chunk_symbol          0 rows",
        "  code_chunks           0 rows",
        "  continue_points       0 rows",
        "  conversation_origins  0 rows",
        "  conversation_sources  0 rows",
        "  conversations         0 rows",
        "  episodes              0 rows",
        "  features              0 rows",
        "  fence                 0 rows",
        "  job_after             0 rows",
        "  job_group             1 rows",
        "  jobs                  0 rows",
        "  journal               1 rows",
        "  kept_embedding        0 rows",
        "  lease                 0 rows",
        "  message_parts         0 rows",
        "  message_revision      0 rows",
        "  messages              0 rows",
        "  metrics               0 rows",
        "  nodes                 1 rows",
        "  operation             1 rows",
        "  port_lease            0 rows",
        "  projects              1 rows",
        "  record_number         1 rows",
        "  request_key           0 rows",
        "  requirement_feature   0 rows",
        "  requirements          0 rows",
        "  schedules             0 rows",
        "  schema_meta           15 rows",
        "  secret_value          0 rows",
        "  service               0 rows",
        "  service_config        0 rows",
        "  service_dependency    0 rows",
        "  sessions              0 rows",
        "  settings              0 rows",
        "  sub_features          0 rows",
        "  tag                   0 rows",
        "  task_comment          0 rows",
        "  task_dependency       0 rows",
        "  task_note             0 rows",
        "  tasks                 0 rows",
        "  vector_change         0 rows",
        "  vector_collection     0 rows",
        "  vms                   1 rows",
    ]


def test_db_check_finds_damage(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    for number in range(40):
        cli.ok("settings", "set", f"key-{number}", "x" * 1000) if number < 3 else None
    backup = root / "damaged.db"
    cli.ok("db", "backup", str(backup))
    with backup.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 8192)
    result = cli("db", "check", "--db", str(backup))
    assert result.code == 1
    assert str(backup) in result.out + result.err
    assert "damaged" in result.out + result.err
    assert "Traceback" not in result.err
    missing = cli("db", "check", "--db", str(root / "none.db"))
    assert missing == (1, "", f"Error: cannot check {root}/none.db: there is no such file\n")


def test_db_restore_of_missing_file_names_the_backups_directory(lonely: Cli, root: Path) -> None:
    result = lonely("db", "restore", str(root / "none.db"), "--yes")
    assert result.code == 1
    assert result.err == (
        f"Error: cannot restore {root}/none.db: there is no such file\n  Backups are in {root}/state/nexus/backups\n"
    )
