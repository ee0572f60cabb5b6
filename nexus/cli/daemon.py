"""``nexusctl daemon``: start, stop and install the daemon.

With a systemd user manager the daemon is its unit, started by its socket; elsewhere it is a detached process with a
bounded log in the state directory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
from nexus_protocol.errors import FailedPrecondition, NexusError, Unavailable

from nexus.cli.app import ANSWER_WITHIN_S, start_hint, unit_directory, unit_installed, user_manager_runs
from nexus.cli.find_daemon import SocketGone, daemon_pid, has_socket
from nexus.cli.groups import WordGroup
from nexus.cli.output import Printer, confirm, format_duration, hint, output_options, print_fields, printable, printer
from nexus.client.errors import NOT_RUNNING, ConnectError, ConnectionFailure
from nexus.system.commands import GetSystemStatus, Health, Shutdown

__all__ = ["daemon"]

_UNITS = ("nexus.socket", "nexus.service")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


@click.group(cls=WordGroup)
def daemon() -> None:
    """Start, stop and install the daemon."""


class DaemonFailed(NexusError):
    """The daemon did not do what was asked of it."""


@daemon.command
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="What it logs.")
@click.pass_obj
def start(app: Any, log_level: str | None) -> None:
    """Start the daemon, unless it runs already."""
    app.limit(ANSWER_WITHIN_S)
    managed = _managed(app)
    if managed and _state("nexus.service") == "inactive" and _state("nexus.socket") == "active":
        running = None  # to ask would start it
    else:
        running = _running(app)
    if running is not None:
        click.echo(f"The daemon runs already (pid {running['pid']}, {app.socket_path()})")
        return
    if managed:
        if log_level is not None:
            raise click.UsageError("--log-level does not reach nexus.service: set [daemon] log_level in config.toml")
        app.timeout_s = None  # it may have to migrate first
        pid = _start_units(app)
        click.echo(f"Started the daemon (pid {pid}, nexus.service)")
        return
    log = _log_path()
    try:
        pid = _start_detached(app, log, log_level)
    except DaemonFailed:
        other = _started_by_another(app)
        if other is None:
            raise
        click.echo(f"The daemon runs already (pid {other}, {app.socket_path()})")
        return
    click.echo(f"Started the daemon (pid {pid}, {app.socket_path()})")
    hint(f"Its log: {log}")


def _started_by_another(app: Any) -> int | None:
    """The pid of the daemon that somebody else started at the same time, once it answers.

    Raises:
        SocketGone: it runs, but nobody can reach it.
    """
    path = app.socket_path()
    app.timeout_s = _START_TIMEOUT_S  # it listens before it answers, and may have to migrate first
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (pid := daemon_pid(app)) is not None:
        running = _running(app)
        if running is not None:
            return int(running["pid"])
        if time.monotonic() > deadline or (has_socket(pid, path) and not path.exists()):
            raise SocketGone(pid)
        time.sleep(0.05)
    return None


def _managed(app: Any) -> bool:
    """Whether the daemon that is meant is the one that the user's systemd manager has a unit for."""
    if not (user_manager_runs() and unit_installed()) or app.socket_option or app.config_option:
        return False
    from nexus.config import client_socket
    from nexus.paths import default_socket_path

    return client_socket(app.config)[0] == default_socket_path()[0]


def _running(app: Any) -> dict[str, Any] | None:
    """The status of the running daemon, or None."""
    try:
        status: dict[str, Any] = app.call_raw(GetSystemStatus())
    except ConnectionFailure:
        return None
    return status


def _log_path() -> Path:
    from nexus.paths import state_directory

    return Path(state_directory(), "nexusd.log")


def _start_detached(app: Any, log: Path, log_level: str | None) -> int:
    """Start ``nexusd`` in a session of its own; returns its pid once it is ready.

    Raises:
        DaemonFailed: it ended instead, or was not ready in time.
    """
    import tempfile

    log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [*nexusd_command(), "--log-file", str(log), "--socket", str(app.socket_path())]
    # The daemon's working directory is another one: what is relative here must not be relative there.
    command += ["--db", str(app.database_path())]
    if app.config_option:
        command += ["--config", str(Path(app.config_option).absolute())]
    if log_level:
        command += ["--log-level", log_level]
    with (
        tempfile.TemporaryDirectory(prefix="nexus-") as directory,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready,
        tempfile.TemporaryFile() as output,
    ):
        address = f"{directory}/notify"
        ready.bind(address)
        process = subprocess.Popen(
            command,
            cwd="/",
            env={**os.environ, "NOTIFY_SOCKET": address},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_TIMEOUT_S
        ready.settimeout(0.1)
        while time.monotonic() < deadline:
            try:
                message = ready.recv(4096).decode()
            except TimeoutError:
                message = ""
            if "READY=1" in message:
                process.returncode = 0  # it is meant to outlive us: nobody waits for it
                return process.pid
            if process.poll() is not None:
                output.seek(0)
                raise _why_it_ended(output.read(), log, process.returncode)
    raise DaemonFailed(
        f"cannot tell whether the daemon started: it was not ready within {_START_TIMEOUT_S:g} seconds",
        hint=f"Its log: {log}",
    )


def _why_it_ended(output: bytes, log: Path, code: int) -> DaemonFailed:
    """What a daemon that could not start said: on its standard error, or in the log once it had opened that."""
    if not output.strip():
        with contextlib.suppress(OSError), log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            _before, found, last = file.read().rpartition(b"nexusd: ")
            output = found + last
    message, *rest = output.decode(errors="replace").strip().removeprefix("nexusd: ").split("\n")
    if not message:
        return DaemonFailed(f"the daemon ended with exit code {code}", hint=f"Its log: {log}")
    hint_lines = itertools.takewhile(lambda line: line.startswith("  "), rest)
    return DaemonFailed(message, hint="\n".join(line.strip() for line in hint_lines) or None)


def nexusd_command() -> list[str]:
    """How to run the ``nexusd`` that belongs to this ``nexusctl``."""
    beside = Path(sys.argv[0]).absolute().parent / "nexusd"
    if beside.is_file():
        return [str(beside)]
    found = shutil.which("nexusd")
    return [found] if found else [sys.executable, "-m", "nexus.daemon.main"]


@daemon.command
@click.pass_obj
def stop(app: Any) -> None:
    """Stop the daemon: requests finish, then it ends. With systemd, its socket stops listening as well."""
    app.limit(ANSWER_WITHIN_S)
    if _managed(app) and _unit_active():
        # To ask a unit that only its socket stands for would start it.
        left = _services_up(app) if _state("nexus.service") == "active" else 0
        _systemctl("stop", *_UNITS)
        click.echo("Stopped the daemon (nexus.socket, nexus.service)")
    else:
        left = _services_up(app)
        pid = _stop(app)
        click.echo("The daemon does not run" if pid is None else f"Stopped the daemon (pid {pid})")
    if left:
        which = "1 service goes" if left == 1 else f"{left} services go"
        hint(f"{which} on running without it. To stop services too, before the daemon is stopped:")
        click.echo("  nexusctl service stop --all", err=True)


def _services_up(app: Any) -> int:
    """How many services have processes; none as well where there is no daemon to say so."""
    from nexus.services.cli.status import all_services

    try:
        return sum(service["state"] in ("starting", "running", "stopping") for service in all_services(app))
    except (NexusError, ConnectionFailure):
        return 0  # whether it can be stopped is found out by trying


def _stop(app: Any) -> int | None:
    """Ask the daemon to end, and wait until it has; gives its pid, None where there was none.

    Raises:
        DaemonFailed: it is still there after its time.
        NoAnswer: it is there, and says nothing.
    """
    status = _running(app)
    pid = int(status["pid"]) if status else daemon_pid(app)
    if pid is None:
        return None
    try:
        waiting = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid  # it ended in between
    try:
        if status:
            app.call_raw(Shutdown())
        else:  # nobody can connect to it: what is left is what a service manager does
            signal.pidfd_send_signal(waiting, signal.SIGTERM)
        poller = select.poll()
        poller.register(waiting, select.POLLIN)
        if not poller.poll(_STOP_TIMEOUT_S * 1000):
            raise DaemonFailed(
                f"cannot tell whether the daemon stopped: process {pid} is still there",
                hint=f"To end it the hard way: kill -9 {pid}",
            )
    finally:
        os.close(waiting)
        app.close()
    return pid


@daemon.command
@click.pass_context
def restart(ctx: click.Context) -> None:
    """Stop the daemon if it runs, then start it."""
    app = ctx.obj
    if _managed(app):
        _systemctl("restart", "nexus.service")
        pid = _start_units(app)
        click.echo(f"Restarted the daemon (pid {pid}, nexus.service)")
        return
    app.limit(ANSWER_WITHIN_S)
    stopped = _stop(app)
    if stopped is not None:
        click.echo(f"Stopped the daemon (pid {stopped})")
    ctx.invoke(start)


def _state(unit: str) -> str:
    """The ActiveState of a unit, such as ``active``, ``activating`` or ``inactive``."""
    asked = ["systemctl", "--user", "show", "--property", "ActiveState", "--value", unit]
    return subprocess.run(asked, check=False, capture_output=True, text=True).stdout.strip()


def _unit_active() -> bool:
    """Whether systemd listens for the daemon or runs it, be it for the moment between two tries."""
    return any(_state(unit) not in ("inactive", "failed") for unit in _UNITS)


def _start_units(app: Any) -> int:
    """Have systemd listen, and start the daemon by the first connection, since that tells why it cannot start.

    Raises:
        DaemonFailed: it cannot.
    """
    _systemctl("start", "nexus.socket")
    try:
        return int(app.call_raw(GetSystemStatus())["pid"])
    except ConnectionFailure as error:
        _systemctl("stop", *_UNITS)
        raise DaemonFailed(error.message, hint=error.hint or "See: journalctl --user -u nexus.service -n 20") from None


@daemon.command(name="status")
@output_options
@click.pass_obj
def status_(app: Any, output: str, no_header: bool) -> int:
    """Show the daemon's process. Exits 0 when it runs, 3 when not."""
    path = app.socket_path()
    app.limit(ANSWER_WITHIN_S)
    try:
        system = app.call_raw(GetSystemStatus())
        health = app.call_raw(Health())
    except ConnectError as error:
        pid = daemon_pid(app) if error.hint == NOT_RUNNING else None
        if pid is not None:
            return _print_unreachable(SocketGone(pid), path, pid, printer(output, no_header))
        record = {"state": "stopped", "socket": str(path)}
        out = printer(output, no_header)
        out.one(record, key="state", sentence=lambda: click.echo(f"Daemon: stopped ({path})"))
        if error.hint == NOT_RUNNING:
            hint(f"Start it: {start_hint()}")
        else:
            click.echo(f"  {printable(error.message)}", err=True)
            if error.hint:
                click.echo(f"  {printable(error.hint)}", err=True)
        return 3
    managed = "systemd (nexus.service)" if _managed(app) and _unit_active() else "none (a detached process)"
    record = {"state": "running", "socket": str(path), "health": health["status"], "manager": managed, **system}
    printer(output, no_header).one(
        record,
        key="state",
        sentence=lambda: print_fields(
            [
                ("Daemon", f"running (pid {system['pid']})"),
                ("Health", health["status"]),
                ("Socket", path),
                ("Version", system["version"]),
                ("Manager", managed),
                ("Up", format_duration(system["uptime_ms"])),
                ("Memory", f"{system['memory_rss_bytes'] // (1024 * 1024)} MiB"),
                ("Clients", system["connections"]),
            ]
        ),
    )
    return 0


def _print_unreachable(problem: SocketGone, path: Path, pid: int, out: Printer) -> int:
    record = {"state": "unreachable", "socket": str(path), "pid": pid}
    out.one(record, key="state", sentence=lambda: click.echo(f"Daemon: {printable(problem.message)} ({path})"))
    hint(str(problem.hint))
    return 3


@daemon.command
@click.pass_obj
def install(app: Any) -> None:
    """Install the systemd user units, so that the daemon starts at login and at the first connection."""
    _need_manager("install the units")
    running = _running(app) if not _unit_active() else None
    if running is not None:
        raise FailedPrecondition(
            f"cannot install the units: a daemon that systemd did not start listens already (pid {running['pid']})",
            hint="Stop it first: nexusctl daemon stop",
        )
    from importlib.resources import files

    directory = Path(unit_directory())
    directory.mkdir(parents=True, exist_ok=True)
    program = " ".join(_quote(part) for part in nexusd_command())
    for unit in _UNITS:
        text = files("nexus").joinpath("systemd", unit).read_text(encoding="utf-8")
        text = text.replace("ExecStart=%h/.local/bin/nexusd", f"ExecStart={program}")
        (directory / unit).write_text(text, encoding="utf-8")
        click.echo(f"Installed {directory / unit}")
    _systemctl("daemon-reload")
    _systemctl("enable", *_UNITS)
    if _state("nexus.service") == "active":
        _systemctl("restart", *_UNITS)  # an older one, maybe of another nexusd
    pid = _start_units(app)
    click.echo(f"Enabled and started nexus.socket and nexus.service (pid {pid})")
    if not lingering():
        hint("Without lingering a logout ends everything: loginctl enable-linger")


def _quote(word: str) -> str:
    """A word of a unit's command line (systemd.service(5), systemd.unit(5))."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'


@daemon.command
@click.option("-y", "--yes", is_flag=True, help="Skip confirmation.")
def uninstall(yes: bool) -> int:
    """Stop the daemon and remove its systemd user units. The database stays."""
    _need_manager("uninstall the units")
    directory = Path(unit_directory())
    if not any((directory / unit).exists() for unit in _UNITS):
        click.echo("The units are not installed")
        return 0
    if not yes and not confirm(
        "Stop the daemon and remove its units?",
        "refusing to remove the units without confirmation",
        "nexusctl daemon uninstall --yes",
    ):
        return 1
    _systemctl("disable", "--now", *_UNITS)
    for unit in _UNITS:
        (directory / unit).unlink(missing_ok=True)
        click.echo(f"Removed {directory / unit}")
    _systemctl("daemon-reload")
    return 0


def _need_manager(doing: str) -> None:
    if not user_manager_runs():
        raise Unavailable(
            f"cannot {doing}: there is no systemd user manager here",
            hint="Start the daemon without one: nexusctl daemon start",
        )


def _systemctl(*arguments: str) -> None:
    """Run ``systemctl --user``.

    Raises:
        DaemonFailed: it failed; the message is what it said.
    """
    try:
        result = subprocess.run(
            ["systemctl", "--user", *arguments], capture_output=True, text=True, check=False, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DaemonFailed(f"cannot run systemctl --user {' '.join(arguments)}: {error}") from None
    if result.returncode:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        raise DaemonFailed(
            f"cannot {arguments[0]} the daemon: {said}", hint="See: journalctl --user -u nexus.service -n 20"
        )


def lingering() -> bool:
    """Whether this user's manager goes on after the last logout (loginctl(1), enable-linger)."""
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return Path(f"/var/lib/systemd/linger/{name}").exists()
