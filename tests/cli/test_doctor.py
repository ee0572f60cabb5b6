"""``nexusctl doctor``: each problem that it finds, and that its remedy works."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from support.cli import Cli
from support.daemon import DaemonProcess


def findings(cli: Cli, **environment: str) -> dict[str, dict[str, Any]]:
    """The findings of doctor, the worst one of each check."""
    rank = ["ok", "warning", "failing"]
    worst: dict[str, dict[str, Any]] = {}
    for finding in cli("doctor", "-o", "json", **environment).json:
        known = worst.get(finding["check"])
        if known is None or rank.index(finding["status"]) > rank.index(known["status"]):
            worst[finding["check"]] = finding
    return worst


def test_doctor_finds_nothing_with_a_running_daemon(daemon: DaemonProcess, cli: Cli) -> None:
    result = cli("doctor")
    assert (result.code, result.err) == (0, "")
    assert all(line.startswith("ok ") for line in result.lines), result.out
    assert "ok       socket:         the daemon replies (nexusd 0.1.0)" in result.lines


def test_doctor_reports_daemon_not_running(lonely: Cli, root: Path) -> None:
    result = lonely("doctor")
    assert result.code == 1
    path = root / "run" / "nexus" / "nexus.sock"
    assert f"failing  socket:         {path} does not exist: the daemon is not running" in result.lines
    assert f"{'':<25}Start it: nexusctl daemon start" in result.lines
    lonely.ok("daemon", "start")
    assert lonely("doctor").code == 0


def test_doctor_reports_stale_socket(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.kill()
    finding = findings(cli)["socket"]
    assert finding["status"] == "failing"
    assert finding["message"] == f"no daemon listens at {daemon.socket_path}"
    assert finding["remedy"] == "Start it: nexusctl daemon start"
    daemon.start()
    assert findings(cli)["socket"]["status"] == "ok"


def test_doctor_reports_file_in_place_of_socket(lonely: Cli, root: Path) -> None:
    path = root / "run" / "nexus" / "nexus.sock"
    path.parent.mkdir()
    path.write_text("mine")
    finding = findings(lonely)["socket"]
    assert (finding["status"], finding["message"]) == ("failing", f"{path} is not a socket")
    assert "Move it away" in finding["remedy"]


def test_doctor_reports_socket_open_to_other_users_and_its_remedy_works(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.socket_path.parent.chmod(0o755)
    daemon.socket_path.chmod(0o666)
    finding = findings(cli)["permissions"]
    assert (finding["status"], finding["message"]) == ("warning", f"other users can access {daemon.socket_path}")
    cli.shell(finding["remedy"])
    assert findings(cli)["permissions"]["status"] == "ok"


def test_doctor_reports_missing_runtime_directory(lonely: Cli, root: Path) -> None:
    finding = findings(lonely, XDG_RUNTIME_DIR=str(root / "none"))["runtime"]
    assert finding["status"] == "failing"
    assert finding["message"] == f"cannot use XDG_RUNTIME_DIR {root}/none: there is no such directory"
    assert finding["remedy"]
    assert lonely("doctor", XDG_RUNTIME_DIR=str(root / "none")).code == 1


def test_doctor_reports_runtime_directory_writable_by_others(lonely: Cli, root: Path) -> None:
    (root / "run").chmod(0o777)
    finding = findings(lonely)["runtime"]
    assert finding["status"] == "failing"
    assert "others can write to it (mode 0777)" in finding["message"]


def test_doctor_reports_damaged_database(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.stop()
    daemon.database.write_bytes(b"no database at all" * 1000)
    finding = findings(cli)["database"]
    assert finding["status"] == "failing"
    assert str(daemon.database) in finding["message"]
    assert "nexusctl db restore" in finding["remedy"]


def test_doctor_reports_database_readable_by_others_and_its_remedy_works(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.database.chmod(0o644)
    finding = findings(cli)["database"]
    assert (finding["status"], finding["message"]) == ("warning", f"other users can read {daemon.database}")
    cli.shell(finding["remedy"])
    assert findings(cli)["database"]["status"] == "ok"


def test_doctor_reports_invalid_configuration_once(lonely: Cli, root: Path) -> None:
    path = root / "config" / "nexus" / "config.toml"
    path.parent.mkdir()
    path.write_text("[limits]\nconnections = 0\n")
    result = lonely("doctor")
    assert result.code == 1
    message = f"cannot use {path}, line 2: limits.connections must be 1 to 65536"
    assert [line for line in result.lines if message in line] == [f"failing  configuration:  {message}"]


def test_doctor_reports_too_long_socket_path(lonely: Cli) -> None:
    finding = findings(lonely, NEXUS_SOCKET="/tmp/" + "x" * 200)["socket"]
    assert finding["status"] == "failing"
    assert "bytes" in finding["message"]
    assert "NEXUS_SOCKET" in finding["remedy"]


def test_doctor_reports_exhausted_connection_limit(daemon: DaemonProcess, cli: Cli) -> None:
    daemon.stop()
    daemon.write_config("[limits]\nconnections = 1\n")
    daemon.start()
    with daemon.connect() as only:
        assert isinstance(only, socket.socket)
        finding = findings(cli)["socket"]
        assert finding["status"] == "failing"
        assert "cannot serve more than 1 connections" in finding["message"]
