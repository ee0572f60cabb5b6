"""``nexusctl doctor``: checks everything the daemon needs, and says how to fix each problem it finds."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from nexus_protocol.errors import ReportedError

from nexus.cli.app import ANSWER_WITHIN_S
from nexus.cli.find_daemon import SocketGone
from nexus.cli.output import colour_wanted, hint_lines, output_options, painted, printer
from nexus.cli.result import Results, made
from nexus.cli.systemd import start_hint, unit_installed, user_manager_runs
from nexus.client.errors import ConnectError
from nexus.hints import command_line
from nexus.paths import check_socket_path, runtime_directory
from nexus.system.commands import Health

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["doctor"]


class Finding(NamedTuple):
    """The result of one check: ok, warning or failing, and what to do about it."""

    check: str
    status: str
    message: str
    remedy: str | None = None


@click.command
@output_options
@click.pass_obj
def doctor(app: App, output: str, no_header: bool) -> int:
    """Find problems, and say how to fix them. Exits 1 if a check fails."""
    app.limit(ANSWER_WITHIN_S)
    findings: list[Finding] = []
    for check in (_configuration, _runtime, _socket, _database, _programs, _systemd, _lingering):
        known = {finding.message for finding in findings}  # a broken configuration fails several checks
        findings += [finding for finding in _run_check(check, app) if finding.message not in known]
    out = printer(output, no_header)
    if out.for_person:
        for finding in findings:
            _print(finding)
    else:
        out.many(
            Results.of([made(f, f._asdict()) for f in findings]),
            (),
            name=lambda finding: finding.check,
            nothing="Nothing was checked.",
        )
    return 1 if any(finding.status == "failing" for finding in findings) else 0


def _run_check(check: Callable[[App], Iterator[Finding]], app: App) -> list[Finding]:
    name = check.__name__.strip("_")
    try:
        return list(check(app))
    except ReportedError as error:
        return [Finding(name, "failing", error.message, error.hint)]
    except OSError as error:
        return [Finding(name, "failing", f"cannot check: {error}")]


def _print(finding: Finding) -> None:
    colours = {"ok": "green", "warning": "yellow", "failing": "red"}
    mark = f"{finding.status:<8}"
    if colour_wanted():
        mark = painted(mark, colours[finding.status])
    click.echo(f"{mark} {finding.check + ':':<15} {finding.message}")
    for line in hint_lines(finding.remedy or ""):
        click.echo(f"{'':<25}{line}")


def _configuration(app: App) -> Iterator[Finding]:
    path = Path(app.config.path)
    yield Finding("configuration", "ok", str(path) if path.exists() else f"{path} does not exist: using the defaults")


def _runtime(_app: App) -> Iterator[Finding]:
    directory, warning = runtime_directory()
    if warning:
        yield Finding(
            "runtime", "warning", warning, "Log in through a login manager or ssh, which creates /run/user/UID."
        )
    else:
        yield Finding("runtime", "ok", str(directory))


def _socket(app: App) -> Iterator[Finding]:
    path: Path = app.socket_path()
    check_socket_path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        pid = app.daemon_pid()
        if pid is not None:
            problem = SocketGone(pid)
            yield Finding("socket", "failing", problem.message, problem.hint)
            return
        yield Finding(
            "socket", "failing", f"{path} does not exist: the daemon is not running", f"Start it: {start_hint()}"
        )
        return
    if not stat.S_ISSOCK(mode):
        yield Finding("socket", "failing", f"{path} is not a socket", "Move it away, then start the daemon.")
        return
    parent = path.parent.stat()
    if parent.st_uid != os.geteuid():
        yield Finding(
            "permissions", "failing", f"{path.parent} belongs to user {parent.st_uid}", "Use a directory that you own."
        )
    elif stat.S_IMODE(parent.st_mode) & 0o077 or stat.S_IMODE(mode) & 0o077:
        yield Finding(
            "permissions",
            "warning",
            f"other users can access {path}",
            f"{command_line('chmod', '700', path.parent)}; {command_line('chmod', '600', path)}",
        )
    else:
        yield Finding("permissions", "ok", f"only you can access {path}")
    yield from _reply(app, path)


def _reply(app: App, path: Path) -> Iterator[Finding]:
    try:
        health = app.call(Health())
    except ConnectError as error:
        if error.not_running:
            yield Finding("socket", "failing", f"no daemon listens at {path}", f"Start it: {start_hint()}")
        else:
            yield Finding("socket", "failing", error.message, error.hint)
        return
    except ReportedError as error:
        yield Finding("socket", "failing", error.message, error.hint)
        return
    yield Finding("socket", "ok", f"the daemon replies (nexusd {health.version})")
    for check in health.checks:
        status = "warning" if check.status == "degraded" else check.status
        yield Finding(check.name, status, check.message)


def _database(app: App) -> Iterator[Finding]:
    from nexus.cli.db import examine

    path = app.daemon_database() or app.database_path()
    try:
        status = path.stat()
    except FileNotFoundError:
        yield Finding(
            "database",
            "warning",
            f"{path} does not exist",
            "The daemon creates it when it first starts. If it was deleted: nexusctl db restore BACKUP",
        )
        return
    if status.st_uid != os.geteuid():
        yield Finding(
            "database",
            "failing",
            f"{path} belongs to user {status.st_uid}",
            f"Change its owner with chown; see it: {command_line('ls', '-l', path)}",
        )
        return
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding("database", "warning", f"other users can read {path}", command_line("chmod", "600", path))
    try:
        report, state, remedy = examine(path)
    except ReportedError as error:
        yield Finding("database", "failing", error.message, error.hint)
        return
    if report.problems:
        problem = report.problems[0] if state == "damaged" else f"it is {state}: {report.problems[0]}"
        yield Finding("database", "failing", f"{path}: {problem}", remedy)
    elif report.behind is not None:
        yield Finding("database", "warning", f"{path}: {state}", remedy)
    elif report.file_problems:
        yield Finding("database", "warning", f"{path}: {report.file_problems[0]}", "See all: nexusctl db check")
    else:
        yield Finding("database", "ok", f"{path} is intact (schema version {report.schema_version})")


def _programs(_app: App) -> Iterator[Finding]:
    found = shutil.which("nexusd")
    if found:
        yield Finding("nexusd", "ok", found)
    else:
        yield Finding("nexusd", "warning", "nexusd is not in PATH", "Add the directory of nexusctl to PATH.")


def _systemd(_app: App) -> Iterator[Finding]:
    if not user_manager_runs():
        yield Finding("systemd", "ok", "no user manager is running: the daemon runs as a detached process")
    elif not unit_installed():
        yield Finding("systemd", "warning", "the units are not installed", "Install them: nexusctl daemon install")
    else:
        yield Finding("systemd", "ok", "nexus.socket and nexus.service are installed")


def _lingering(_app: App) -> Iterator[Finding]:
    from nexus.cli.daemon import lingering

    if not user_manager_runs():
        return
    if lingering():
        yield Finding("lingering", "ok", "services and the daemon keep running after logout")
    else:
        yield Finding("lingering", "warning", "services and the daemon are stopped at logout", "loginctl enable-linger")
