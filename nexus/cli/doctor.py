"""``nexusctl doctor``: looks at everything the daemon needs, and says how to mend what it finds."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import click
from nexus_protocol.errors import NexusError

from nexus.cli.app import ANSWER_WITHIN_S, start_hint, unit_installed, user_manager_runs
from nexus.cli.find_daemon import SocketGone, daemon_database, daemon_pid
from nexus.cli.output import colour_wanted, output_options, printer
from nexus.client.errors import NOT_RUNNING, ConnectError, ConnectionFailure
from nexus.config import ConfigError
from nexus.paths import PathError, check_socket_path, runtime_directory
from nexus.system.commands import Health

__all__ = ["doctor"]


class Finding(NamedTuple):
    """One thing that was looked at: ok, warning or failing, and what to do."""

    check: str
    status: str
    message: str
    remedy: str | None = None


@click.command
@output_options
@click.pass_obj
def doctor(app: Any, output: str, no_header: bool) -> int:
    """Look for what is wrong, and say how to mend it. Exits 1 when something fails."""
    app.limit(ANSWER_WITHIN_S)
    findings: list[Finding] = []
    for check in (_configuration, _runtime, _socket, _database, _programs, _systemd, _lingering):
        said = {finding.message for finding in findings}
        findings += [finding for finding in _safely(check, app) if finding.message not in said]
    out = printer(output, no_header)
    if out.for_person:
        for finding in findings:
            _print(finding)
    else:
        out.many([f._asdict() for f in findings], (), key="check", nothing="Nothing was checked.")
    return 1 if any(finding.status == "failing" for finding in findings) else 0


def _safely(check: Callable[[Any], Iterator[Finding]], app: Any) -> list[Finding]:
    name = check.__name__.strip("_")
    try:
        return list(check(app))
    except (PathError, ConfigError) as error:
        return [Finding(name, "failing", error.message, error.hint)]
    except OSError as error:
        return [Finding(name, "failing", f"cannot look: {error}")]


def _print(finding: Finding) -> None:
    colours = {"ok": "green", "warning": "yellow", "failing": "red"}
    mark = f"{finding.status:<8}"
    if colour_wanted():
        mark = click.style(mark, fg=colours[finding.status])
    click.echo(f"{mark} {finding.check + ':':<15} {finding.message}")
    if finding.remedy:
        click.echo(f"{'':<25}{finding.remedy}")


def _configuration(app: Any) -> Iterator[Finding]:
    path = Path(app.config.path)
    yield Finding("configuration", "ok", str(path) if path.exists() else f"{path} is not there: the defaults are used")


def _runtime(_app: Any) -> Iterator[Finding]:
    directory, warning = runtime_directory()
    if warning:
        yield Finding(
            "runtime", "warning", warning, "Log in through a login manager or ssh, which makes /run/user/UID."
        )
    else:
        yield Finding("runtime", "ok", str(directory))


def _socket(app: Any) -> Iterator[Finding]:
    path: Path = app.socket_path()
    check_socket_path(path)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        pid = daemon_pid(app)
        if pid is not None:
            problem = SocketGone(pid)
            yield Finding("socket", "failing", problem.message, problem.hint)
            return
        yield Finding("socket", "failing", f"{path} is not there: the daemon does not run", f"Start it: {start_hint()}")
        return
    if not stat.S_ISSOCK(mode):
        yield Finding("socket", "failing", f"{path} is not a socket", "Move it away, then start the daemon.")
        return
    parent = path.parent.stat()
    if parent.st_uid != os.geteuid():
        yield Finding(
            "permissions", "failing", f"{path.parent} belongs to user {parent.st_uid}", "Use a directory of your own."
        )
    elif stat.S_IMODE(parent.st_mode) & 0o077 or stat.S_IMODE(mode) & 0o077:
        yield Finding(
            "permissions",
            "warning",
            f"others can reach {path}",
            f"chmod 700 {path.parent}; chmod 600 {path}",
        )
    else:
        yield Finding("permissions", "ok", f"only you can reach {path}")
    yield from _answer(app, path)


def _answer(app: Any, path: Path) -> Iterator[Finding]:
    try:
        health = app.call_raw(Health())
    except ConnectError as error:
        if error.hint != NOT_RUNNING:
            yield Finding("socket", "failing", error.message, error.hint)
        else:
            yield Finding("socket", "failing", f"nobody answers at {path}", f"Start it: {start_hint()}")
        return
    except (ConnectionFailure, NexusError) as error:
        yield Finding("socket", "failing", error.message, error.hint)
        return
    yield Finding("socket", "ok", f"the daemon answers (nexusd {health['version']})")
    for check in health["checks"]:
        status = "warning" if check["status"] == "degraded" else check["status"]
        yield Finding(check["name"], status, check["message"])


def _database(app: Any) -> Iterator[Finding]:
    from nexus.cli.db import examine
    from nexus.store import StoreError

    path = daemon_database(app) or app.database_path()
    try:
        status = path.stat()
    except FileNotFoundError:
        yield Finding("database", "warning", f"{path} is not there yet", "The daemon makes it when it first starts.")
        return
    if status.st_uid != os.geteuid():
        yield Finding("database", "failing", f"{path} belongs to user {status.st_uid}", f"chown it: ls -l {path}")
        return
    if stat.S_IMODE(status.st_mode) & 0o077:
        yield Finding("database", "warning", f"others can read {path}", f"chmod 600 {path}")
    try:
        report, state, remedy = examine(path)
    except StoreError as error:
        yield Finding("database", "failing", error.message, error.hint)
        return
    if report.problems:
        problem = report.problems[0] if state == "damaged" else f"it is {state}: {report.problems[0]}"
        yield Finding("database", "failing", f"{path}: {problem}", remedy)
    else:
        yield Finding("database", "ok", f"{path} is sound (schema version {report.schema_version})")


def _programs(_app: Any) -> Iterator[Finding]:
    found = shutil.which("nexusd")
    if found:
        yield Finding("nexusd", "ok", found)
    else:
        yield Finding("nexusd", "warning", "nexusd is not in PATH", "Add the folder that nexusctl is in to PATH.")


def _systemd(_app: Any) -> Iterator[Finding]:
    if not user_manager_runs():
        yield Finding("systemd", "ok", "there is no user manager: the daemon runs as a detached process")
    elif not unit_installed():
        yield Finding("systemd", "warning", "the units are not installed", "Install them: nexusctl daemon install")
    else:
        yield Finding("systemd", "ok", "nexus.socket and nexus.service are installed")


def _lingering(_app: Any) -> Iterator[Finding]:
    from nexus.cli.daemon import lingering

    if not user_manager_runs():
        return
    if lingering():
        yield Finding("lingering", "ok", "what runs goes on after a logout")
    else:
        yield Finding("lingering", "warning", "a logout ends everything that runs", "loginctl enable-linger")
