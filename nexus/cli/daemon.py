"""``nexusctl daemon``: start, stop and install the daemon.

With a systemd user manager the daemon runs as the unit nexus.service, activated by nexus.socket. Elsewhere it is a
detached process with a bounded log in the state directory.
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
from typing import TYPE_CHECKING

import click
from nexus_protocol.errors import FailedPrecondition, NexusError, Unavailable

from nexus.cli.app import ANSWER_WITHIN_S
from nexus.cli.find_daemon import SocketGone, has_socket
from nexus.cli.groups import WordGroup
from nexus.cli.output import (
    Printer,
    confirm,
    format_duration,
    hint,
    hint_lines,
    output_options,
    print_fields,
    printable,
    printer,
)
from nexus.cli.result import Result, made
from nexus.cli.systemd import (
    manager_directory,
    manager_environment,
    start_hint,
    unit_directory,
    unit_installed,
    user_manager_runs,
)
from nexus.client.errors import ConnectError, ConnectionFailure
from nexus.hints import command_line, joined
from nexus.system.commands import GetSystemStatus, Health, Shutdown, SystemStatus
from nexus.trust import make_trusted

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["daemon"]

_UNITS = ("nexus.socket", "nexus.service")
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0


@click.group(cls=WordGroup)
def daemon() -> None:
    """Start, stop and install the daemon."""


class DaemonFailed(NexusError):
    """The daemon or systemd did not do what the verb asked for."""


@daemon.command
@click.option(
    "--log-level", type=click.Choice(["debug", "info", "warning", "error"]), help="Least severe messages to log."
)
@click.option(
    "--fresh",
    is_flag=True,
    help="If the processes beside the database are not those of its records, rename their folder.",
)
@click.pass_obj
def start(app: App, log_level: str | None, fresh: bool) -> None:
    """Start the daemon, unless it is running."""
    app.limit(ANSWER_WITHIN_S)
    managed = _managed(app)
    if managed and _unit_state("nexus.service") == "inactive" and _unit_state("nexus.socket") == "active":
        running = None  # a connection would start it
    else:
        running = _running(app)
    if running is not None:
        click.echo(f"The daemon is already running (pid {running.pid}, {app.socket_path()})")
        return
    if managed:
        if log_level is not None:
            raise click.UsageError("--log-level has no effect on nexus.service: set [daemon] log_level in config.toml")
        if fresh:
            _set_processes_aside(app)
        app.timeout_s = None  # a migration at the start may take long
        pid = _start_units(app)
        click.echo(f"Started the daemon (pid {pid}, nexus.service)")
        return
    log = _log_path()
    try:
        pid = _start_detached(app, log, log_level, fresh)
    except DaemonFailed:
        other = _started_by_another(app)
        if other is None:
            raise
        click.echo(f"The daemon is already running (pid {other}, {app.socket_path()})")
        return
    click.echo(f"Started the daemon (pid {pid}, {app.socket_path()})")
    hint(f"Its log: {log}")


def _started_by_another(app: App) -> int | None:
    """Wait until the daemon that another process started at the same time replies; returns its pid, None if it ended.

    Raises:
        SocketGone: the daemon runs, but no client can connect to it.
    """
    path = app.socket_path()
    app.timeout_s = _START_TIMEOUT_S  # the daemon listens before it migrates and replies
    deadline = time.monotonic() + _START_TIMEOUT_S
    while (pid := app.daemon_pid()) is not None:
        running = _running(app)
        if running is not None:
            return running.pid
        if time.monotonic() > deadline or (has_socket(pid, path) and not path.exists()):
            raise SocketGone(pid)
        time.sleep(0.05)
    return None


def _managed(app: App) -> bool:
    """Whether the options select the daemon that the user's systemd manager has a unit for."""
    if not (user_manager_runs() and unit_installed()) or app.socket_option or app.config_option:
        return False
    return str(app.socket_path()) == f"{manager_directory()}/nexus/nexus.sock"  # ListenStream= of nexus.socket


def start_socket_unit(app: App) -> bool:
    """Start nexus.socket, which starts the daemon at the first connection; False where the manager has no unit for it.

    Raises:
        DaemonFailed: systemd refuses.
    """
    managed = _managed(app)
    if managed:
        _systemctl("start", "nexus.socket")
    return managed


def _running(app: App) -> SystemStatus | None:
    """The status that the running daemon reports; None when no client can connect."""
    try:
        return app.call(GetSystemStatus())
    except ConnectionFailure:
        return None


def _log_path() -> Path:
    from nexus.paths import state_directory

    return Path(state_directory(), "nexusd.log")


def _set_processes_aside(app: App) -> None:
    """What ``nexusd --fresh`` does, before a unit whose command has no such option is started."""
    from nexus.paths import state_directory
    from nexus.store.maintenance import set_processes_aside

    aside = set_processes_aside(app.database_path(), Path(state_directory(), "backups"))
    if aside is not None:
        click.echo(f"Set aside the processes of another database: {aside}")


def _start_detached(app: App, log: Path, log_level: str | None, fresh: bool) -> int:
    """Start ``nexusd`` in its own session; returns its pid once it is ready.

    Raises:
        DaemonFailed: it exited, or was not ready in time.
    """
    import tempfile

    make_trusted(str(log.parent), "the state folder")
    command = [*nexusd_command(), "--log-file", str(log), "--socket", str(app.socket_path())]
    # The daemon's working directory is /, so every path must be absolute.
    command += ["--db", str(app.database_path())]
    if app.config_option:
        command += ["--config", str(Path(app.config_option).absolute())]
    if fresh:
        command.append("--fresh")
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
                process.returncode = 0  # it outlives nexusctl: keep Popen from warning about an unreaped child
                return process.pid
            if process.poll() is not None:
                output.seek(0)
                raise _start_error(output.read(), log, process.returncode)
    raise DaemonFailed(
        f"cannot tell whether the daemon started: it was not ready within {_START_TIMEOUT_S:g} seconds",
        hint=f"Its log: {log}",
    )


def _start_error(output: bytes, log: Path, code: int) -> DaemonFailed:
    """The error that a daemon printed when its start failed: on standard error, or in the log once that was open."""
    if not output.strip():
        with contextlib.suppress(OSError), log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            _before, found, last = file.read().rpartition(b"nexusd: ")
            output = found + last
    message, *rest = output.decode(errors="replace").strip().removeprefix("nexusd: ").split("\n")
    if not message:
        return DaemonFailed(f"the daemon exited with code {code}", hint=f"Its log: {log}")
    hint_lines = itertools.takewhile(lambda line: line.startswith("  "), rest)
    return DaemonFailed(message, hint=joined(*(line.strip() for line in hint_lines)))


def nexusd_command() -> list[str]:
    """The command that runs the ``nexusd`` of the same installation as this ``nexusctl``."""
    beside = Path(sys.argv[0]).absolute().parent / "nexusd"
    if beside.is_file():
        return [str(beside)]
    found = shutil.which("nexusd")
    return [found] if found else [sys.executable, "-m", "nexus.daemon.main"]


@daemon.command
@click.pass_obj
def stop(app: App) -> None:
    """Stop the daemon after its open requests. With systemd, stop listening on its socket as well."""
    app.limit(ANSWER_WITHIN_S)
    if _managed(app) and _unit_active():
        # While only the socket unit is active, a connection would start the daemon.
        left = _services_up(app) if _unit_state("nexus.service") == "active" else 0
        _systemctl("stop", *_UNITS)
        click.echo("Stopped the daemon (nexus.socket, nexus.service)")
    else:
        left = _services_up(app)
        pid = _stop(app)
        click.echo("The daemon is not running" if pid is None else f"Stopped the daemon (pid {pid})")
    if left:
        which = "1 service keeps" if left == 1 else f"{left} services keep"
        hint(
            f"{which} running without it. To stop services too, run this before stopping the daemon:\n"
            "nexusctl service stop --all -A"
        )


def _services_up(app: App) -> int:
    """How many services have processes; 0 if the daemon does not reply."""
    try:
        counts = app.call(GetSystemStatus()).counts.get("services", {})
        return sum(counts.get(state, 0) for state in ("starting", "running", "stopping"))
    except (NexusError, ConnectionFailure):
        return 0  # only for the hint: the stop itself reports what is wrong with the daemon


def _stop(app: App) -> int | None:
    """Ask the daemon to exit and wait until it has; returns its pid, None if none ran.

    Raises:
        DaemonFailed: it still runs after the timeout.
        NoAnswer: it runs, but does not reply.
    """
    status = _running(app)
    pid = status.pid if status else app.daemon_pid()
    if pid is None:
        return None
    try:
        waiting = os.pidfd_open(pid)
    except ProcessLookupError:
        return pid  # it exited in the meantime
    try:
        if status:
            app.call(Shutdown())
        else:  # no client can connect: send the signal that a service manager would
            signal.pidfd_send_signal(waiting, signal.SIGTERM)
        poller = select.poll()
        poller.register(waiting, select.POLLIN)
        if not poller.poll(_STOP_TIMEOUT_S * 1000):
            raise DaemonFailed(
                f"cannot stop the daemon: process {pid} still runs after {_STOP_TIMEOUT_S:g} seconds",
                hint=f"To kill it: {command_line('kill', '-9', pid)}",
            )
    finally:
        os.close(waiting)
        app.close()
    return pid


@daemon.command
@click.pass_context
def restart(ctx: click.Context) -> None:
    """Stop the daemon if it is running, then start it."""
    app: App = ctx.obj
    if _managed(app):
        _systemctl("restart", "nexus.service")
        pid = _start_units(app)
        click.echo(f"Restarted the daemon (pid {pid}, nexus.service)")
        return
    app.limit(ANSWER_WITHIN_S)
    running = _running(app)
    path = app.socket_path()
    stopped = _stop(app)
    if stopped is not None:
        click.echo(f"Stopped the daemon (pid {stopped})")
    if running is not None:
        app.socket_option = str(path)  # it listens again where its clients look for it
    ctx.invoke(start)


def _unit_state(unit: str) -> str:
    """The ActiveState of a unit, such as ``active``, ``activating`` or ``inactive``."""
    command = ["systemctl", "--user", "show", "--property", "ActiveState", "--value", unit]
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=manager_environment())
    return done.stdout.strip()


def _unit_active() -> bool:
    """Whether systemd listens for the daemon or runs it; a unit that waits for its next restart counts."""
    return any(_unit_state(unit) not in ("inactive", "failed") for unit in _UNITS)


def _start_units(app: App) -> int:
    """Start the socket unit, and start the daemon by connecting; returns its pid.

    A failed start is then reported over the connection, which ``systemctl start`` would not do.

    Raises:
        DaemonFailed: the daemon cannot start.
    """
    _systemctl("start", "nexus.socket")
    try:
        return app.call(GetSystemStatus()).pid
    except ConnectionFailure as error:
        _systemctl("stop", *_UNITS)
        raise DaemonFailed(error.message, hint=error.hint or "See: journalctl --user -u nexus.service -n 20") from None


@daemon.command(name="status")
@output_options
@click.pass_obj
def status_(app: App, output: str, no_header: bool) -> int:
    """Show the daemon's process. Exits 0 if it is running, 3 if not."""
    path = app.socket_path()
    app.limit(ANSWER_WITHIN_S)
    try:
        system = app.fetch(GetSystemStatus())
        health = app.fetch(Health())
    except ConnectError as error:
        pid = app.daemon_pid() if error.not_running else None
        if pid is not None:
            return _print_socket_gone(path, pid, printer(output, no_header))
        out = printer(output, no_header)
        stopped = made("stopped", {"state": "stopped", "socket": str(path)})
        out.one(stopped, name=str, sentence=lambda state: click.echo(f"Daemon: {state} ({path})"))
        if error.not_running:
            hint(f"Start it: {start_hint()}")
        else:
            for line in (printable(error.message), *hint_lines(error.hint or "")):
                click.echo(f"  {line}", err=True)
        return 3
    managed = "systemd (nexus.service)" if _managed(app) and _unit_active() else "none (a detached process)"
    head = {"state": "running", "socket": str(path), "health": health.plain["status"], "manager": managed}
    printer(output, no_header).one(
        Result(head | system.plain, lambda: system.record),
        name=lambda _system: "running",
        sentence=lambda system: print_fields(
            [
                ("Daemon", f"running (pid {system.pid})"),
                ("Health", health.record.status),
                ("Socket", path),
                ("Version", system.version),
                ("Manager", managed),
                ("Up", format_duration(system.uptime_ms)),
                ("Memory", f"{system.memory_rss_bytes // (1024 * 1024)} MiB"),
                ("Clients", system.connections),
            ]
        ),
    )
    return 0


def _print_socket_gone(path: Path, pid: int, out: Printer) -> int:
    problem = SocketGone(pid)
    unreachable = made("unreachable", {"state": "unreachable", "socket": str(path), "pid": pid})
    out.one(unreachable, name=str, sentence=lambda _state: click.echo(f"Daemon: {printable(problem.message)} ({path})"))
    hint(str(problem.hint))
    return 3


@daemon.command
@click.pass_obj
def install(app: App) -> None:
    """Install the systemd user units, so that the daemon starts at login and at the first connection."""
    _require_user_manager("install the units")
    running = _running(app) if not _unit_active() else None
    if running is not None:
        raise FailedPrecondition(
            f"cannot install the units: a daemon that systemd did not start is running (pid {running.pid})",
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
    if _unit_state("nexus.service") == "active":
        _systemctl("restart", *_UNITS)  # replace the running daemon, which may be another version
    pid = _start_units(app)
    click.echo(f"Enabled and started nexus.socket and nexus.service (pid {pid})")
    if not lingering():
        hint("Everything is stopped at logout unless lingering is enabled: loginctl enable-linger")


def _quote(word: str) -> str:
    """Quote a word for a unit's command line (systemd.service(5), systemd.unit(5))."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$") + '"'


@daemon.command
@click.option("-y", "--yes", is_flag=True, help="Skip confirmation.")
def uninstall(yes: bool) -> int:
    """Stop the daemon and remove its systemd user units. The database is kept."""
    _require_user_manager("uninstall the units")
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


def _require_user_manager(action: str) -> None:
    if not user_manager_runs():
        raise Unavailable(
            f"cannot {action}: no systemd user manager is running",
            hint="Start the daemon without one: nexusctl daemon start",
        )


def _systemctl(*arguments: str) -> None:
    """Run ``systemctl --user``.

    Raises:
        DaemonFailed: it failed; the message has its error output.
    """
    try:
        result = subprocess.run(
            ["systemctl", "--user", *arguments],
            env=manager_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise DaemonFailed(f"cannot run systemctl --user {' '.join(arguments)}: {error}") from None
    if result.returncode:
        said = result.stderr.strip() or f"exit code {result.returncode}"
        raise DaemonFailed(
            f"cannot {arguments[0]} the daemon: {said}", hint="See: journalctl --user -u nexus.service -n 20"
        )


def lingering() -> bool:
    """Whether this user's manager keeps running after the last logout (loginctl(1), enable-linger)."""
    import pwd

    try:
        name = pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return False
    return Path(f"/var/lib/systemd/linger/{name}").exists()
