"""``nexusctl db backups``, ``gc``, ``sql``, ``check --deep``, and backup and restore with files."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from support.cli import Cli
from support.daemon import DaemonProcess
from support.raw import connect

from nexus.conversations.commands import CreateConversation, CreateMessage, PutBlob, SweepBlobs
from nexus.conversations.records import Blob, MessagePart
from nexus.conversations.states import PartKind, Role
from nexus.store.backup import timestamp


def talk(daemon: DaemonProcess, data: bytes = b"x" * 2048, *, named: bool = True) -> Blob:
    """Store a blob, and a message that names it."""
    with connect(daemon) as client:
        blob = client.call(PutBlob(data))
        if named:
            conversation = client.call(CreateConversation())
            parts = [MessagePart(PartKind.IMAGE, blob=blob.hash)]
            client.call(CreateMessage(conversation.id, role=Role.USER, content="see", parts=parts))
    return blob


def test_backup_says_what_it_leaves_out_and_with_files_what_it_has(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    blob = talk(daemon)
    plain = cli.ok("db", "backup", str(root / "a.db"))
    assert plain.lines[1:] == ["It leaves out 1 blob (2.0 KiB)"]
    assert plain.err == "\n  To back them up as well: nexusctl db backup --with-files\n"
    whole = cli.ok("db", "backup", "--with-files", str(root / "a.tar.gz"))
    size = (root / "a.tar.gz").stat().st_size
    assert whole == (0, f"Backed up to {root / 'a.tar.gz'} ({size} bytes)\nIt has 1 blob (2.0 KiB)\n", "")
    (daemon.state / "nexus.db-blobs" / blob.hash[:2] / blob.hash).unlink()
    again = cli.ok("db", "backup", "--with-files", str(root / "b.tar.gz"), "-o", "json").json
    assert again["with_files"]
    assert [each for each in again["files"] if each["name"] == "blobs"] == [
        {"name": "blobs", "count": 0, "size_bytes": 0, "missing": 1, "damaged": 0}
    ]
    assert cli.ok("db", "backup", str(root / "b.db")).err == "Missing: 1 blob\n"


def test_backups_lists_newest_first(daemon: DaemonProcess, cli: Cli) -> None:
    none = cli("db", "backups")
    assert none == (0, "", f"No backups found in {daemon.state / 'backups'}.\n")
    first = cli.ok("db", "backup", "-o", "name").out
    second = cli.ok("db", "backup", "--with-files", "-o", "name").out
    old = daemon.state / "backups" / f"nexus-before-v14-{timestamp(0)}.db"
    old.touch()
    assert cli.ok("db", "backups", "-o", "name").out == second + first + f"{old}\n"
    heading, *lines = cli.ok("db", "backups").lines
    assert heading.split() == ["TIME", "KIND", "SIZE", "SCHEMA", "PATH"]
    assert [line[24:41].strip() for line in lines] == ["with files", "database", "before version 14"]
    assert lines[2].startswith("1970-01-01 00:00:00 UTC")
    daemon.stop()
    newest = cli.ok("db", "backups", "-o", "json").json[0]
    assert (newest["with_files"], newest["schema_version"], newest["before_version"]) == (True, 14, None)
    assert cli.ok("db", "backups", "--db", "/elsewhere/other.db").out == ""


def test_restore_of_an_archive_and_of_a_plain_backup(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    blob = talk(daemon)
    cli.ok("db", "backup", str(root / "a.db"))
    cli.ok("db", "backup", "--with-files", str(root / "a.tar.gz"))
    daemon.stop()
    blobs = daemon.state / "nexus.db-blobs"
    shutil.rmtree(blobs)
    plain = cli.ok("db", "restore", str(root / "a.db"), "--yes")
    assert plain.err == (
        "Missing or damaged: 1 blob that records refer to\n\n  See which: nexusctl db check\n"
        "\n  Start the daemon: nexusctl daemon start\n"
    )
    checked = cli("db", "check")
    assert checked.code == 1
    assert checked.lines[0].endswith("schema version 14, intact, but files are missing or damaged")
    assert checked.lines[-1] == "1 blob, 2.0 KiB"
    assert checked.err == (
        f"  blob {blob.hash} is missing: 1 part of messages refers to it\n"
        "\n  Restore a backup that has them, if there is one.\n"
    )
    doctor = cli("doctor")
    assert f"blob {blob.hash} is missing" in doctor.out
    unconfirmed = cli("db", "restore", str(root / "a.tar.gz"))
    assert unconfirmed.code == 1
    assert not blobs.exists()
    assert cli.ok("db", "restore", str(root / "a.tar.gz"), "--yes").code == 0
    assert (blobs / blob.hash[:2] / blob.hash).read_bytes() == b"x" * 2048
    assert cli.ok("db", "check", "--deep", "-o", "json").json["files"]["blobs"]["files"] == 1


def test_restore_refuses_what_is_no_backup(daemon: DaemonProcess, cli: Cli, root: Path) -> None:
    daemon.stop()
    (root / "bad.tar.gz").write_bytes(b"\x1f\x8b and nothing more")
    for words in (("--yes",), ()):
        refused = cli("db", "restore", str(root / "bad.tar.gz"), *words)
        assert (refused.code, refused.out) == (1, "")
        assert refused.err.startswith(f"Error: cannot use {root / 'bad.tar.gz'}: ")
        assert "Traceback" not in refused.err


def test_check_deep_finds_another_content(daemon: DaemonProcess, cli: Cli) -> None:
    blob = talk(daemon)
    (daemon.state / "nexus.db-blobs" / blob.hash[:2] / blob.hash).write_bytes(b"y" * 2048)
    assert cli.ok("db", "check").code == 0
    deep = cli("db", "check", "--deep")
    assert deep.code == 1
    assert f"blob {blob.hash} is damaged" in deep.err


def test_gc_deletes_what_no_message_names_with_and_without_a_daemon(daemon: DaemonProcess, cli: Cli) -> None:
    talk(daemon, named=True)
    talk(daemon, b"y" * 1024, named=False)
    assert cli.ok("db", "gc").out == "Deleted 0 blobs (0 bytes)\n"
    assert cli.ok("db", "gc", "--dry-run", "--grace", "0s").out == "Would delete 1 blob (1.0 KiB)\n"
    assert cli.ok("db", "gc", "--grace", "0s").out == "Deleted 1 blob (1.0 KiB)\n"
    talk(daemon, b"y" * 1024, named=False)
    unfinished = next(iter((daemon.state / "nexus.db-blobs").glob("*/*")))
    unfinished = unfinished.with_name(f".{unfinished.name}.01234567")
    unfinished.write_bytes(b"half")
    refused = cli("db", "gc", "--db", str(daemon.database))
    assert refused.code == 5
    assert "cannot sweep files while the daemon runs" in refused.err
    daemon.stop()
    os.utime(unfinished, (1, 1))
    time.sleep(0.005)
    out = cli.ok("db", "gc", "--grace", "0s", "-o", "json").json
    assert out == {"count": 2, "size_bytes": 1028, "temporary": 1}
    assert cli.ok("db", "check", "--deep").lines[-1] == "1 blob, 2.0 KiB"
    missing = cli("db", "gc", "--db", "/nowhere/nexus.db")
    assert missing.code == 1
    assert "there is no such file" in missing.err
    daemon.start()
    with connect(daemon) as client:
        assert client.call(SweepBlobs(grace_ms=0)).count == 0


def test_sql_prints_tables_json_and_csv(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "web")
    cli.ok("vm", "create", "db", "--mem", "1G")
    statement = "SELECT name, mem_size_mib AS mem, x'00ff' AS b, NULL AS n, 'a,\"b' AS c FROM vms ORDER BY name"
    table = cli.ok("db", "sql", statement)
    assert table.lines == ["name mem  b       n    c", "db   1024 x'00ff' NULL a,\"b", "web  128  x'00ff' NULL a,\"b"]
    assert cli.ok("db", "sql", statement, "--no-header").lines == table.lines[1:]
    assert cli.ok("db", "sql", statement, "-o", "json").json[0] == {
        "name": "db",
        "mem": 1024,
        "b": "x'00ff'",
        "n": None,
        "c": 'a,"b',
    }
    assert len(cli.ok("db", "sql", statement, "-o", "jsonl").lines) == 2
    assert cli.ok("db", "sql", "-", "-o", "csv", input=statement).lines == [
        "name,mem,b,n,c",
        'db,1024,x\'00ff\',,"a,""b"',
        'web,128,x\'00ff\',,"a,""b"',
    ]
    limited = cli.ok("db", "sql", statement, "--limit", "1", "--no-header", "-o", "csv")
    assert len(limited.lines) == 1
    assert limited.err == "\n  There are more than 1 rows. Print more: --limit N\n"
    assert cli.ok("db", "sql", "SELECT 1 WHERE 0") == (0, "", "No rows.\n")
    daemon.stop()
    assert cli.ok("db", "sql", "SELECT count(*) FROM vms", "--no-header").out == "2\n"


def test_sql_refuses_to_write_and_to_show_secrets(daemon: DaemonProcess, cli: Cli) -> None:
    cli.ok("vm", "create", "web")
    refused = cli("db", "sql", "DELETE FROM vms")
    assert refused == (
        2,
        "",
        "Error: cannot run the statement: db sql only reads, and the statement deletes\n"
        "  Change records with the other verbs: nexusctl --help\n",
    )
    assert cli.ok("db", "sql", "SELECT name FROM vms", "--no-header").out == "web\n"
    cli.ok("service", "add", "site", "--env", "TOKEN=hunter2", "--run", "true")
    secret = cli.ok("db", "sql", "SELECT name, environment FROM service", "--no-header")
    assert secret.out == "site NULL\n"
    assert secret.err == "\n  Read as NULL, because they may hold secrets: service.environment\n"
    everything = cli.ok("db", "sql", "SELECT * FROM service, secret_value", "-o", "csv")
    assert "hunter2" not in everything.out + everything.err
    assert cli("db", "sql", "SELEC").err == 'Error: cannot run the statement: near "SELEC": syntax error\n'
    slow = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c"
    assert cli("--timeout", "0.2", "db", "sql", slow).code == 124


@pytest.mark.parametrize("value", ["12h", "off", "1d"])
def test_setting_of_backups_is_set_and_told(daemon: DaemonProcess, cli: Cli, value: str) -> None:
    assert cli.ok("settings", "set", "backup.every", value).out == f"Set backup.every to {value} (string)\n"
    assert cli.ok("settings", "get", "backup.every").out == f"{value}\n"
    refused = cli("settings", "set", "backup.every", "often")
    assert refused.code == 2
    assert "it takes a time such as 12h or 1d, from 1m to 3650d, or off" in refused.err


def test_restore_of_what_is_no_plain_file_says_so(lonely: Cli, root: Path) -> None:
    pipe = root / "pipe"
    os.mkfifo(pipe)
    for path in (root, pipe):
        assert f"cannot restore {path}: it is no plain file" in lonely("db", "restore", str(path), "--yes").err
