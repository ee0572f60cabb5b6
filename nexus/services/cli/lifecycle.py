"""Services up and down: ``service start``, ``service stop`` and ``service restart``."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.command import Command
from nexus_protocol.errors import DeadlineExceeded, NexusError

from nexus.cli.app import ANSWER_WITHIN_S
from nexus.cli.output import Printer
from nexus.cli.verbs import Run, build_command, shell_complete, verb
from nexus.client.errors import ConnectionFailure
from nexus.services.cli.status import all_services, summary
from nexus.services.commands import GetServiceStatus, RestartService, StartService, StopService

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_restart", "make_start", "make_stop", "start_and_tell", "started_text"]

_MOST_TOLD = 10


def _chosen(app: App, values: dict[str, Any]) -> list[str]:
    """The services that the line means: by name, all of them, or those with a tag.

    Raises:
        UsageError: it means none, or in two ways.
    """
    names, every, tag = list(values.pop("service")), values.pop("all"), values.pop("tag")
    if (bool(names) + bool(every) + (tag is not None)) != 1:
        raise click.UsageError("say which services: their names, or --all, or --tag TAG")
    if names:
        return names
    found = all_services(app, tag=tag)
    if not found:
        click.echo("No services found.", err=True)
    return [service["name"] for service in found]


def _for_all(
    app: App,
    commands: Sequence[StartService | StopService | RestartService],
    out: Printer,
    sentence: Callable[[dict[str, Any]], None],
) -> int:
    """Send them all at once, and print what becomes of each; gives the exit code of the first failure.

    What has come is printed at once for a person; a program gets it in the order of the line.
    """
    from nexus.cli.main import exit_code, print_error

    code = 0
    replies: dict[int, dict[str, Any]] = {}
    waiting = {place: command.service for place, command in enumerate(commands)}
    try:
        for place, reply in app.connect().calls(commands, timeout_s=app.timeout_s):
            del waiting[place]
            if isinstance(reply, NexusError):
                print_error(reply)
                code = code or exit_code(reply)
                continue
            replies[place] = reply["service"]
            if out.for_person:
                sentence(reply)
    except KeyboardInterrupt as error:
        for line in _going_on(app, list(waiting.values())):
            error.add_note(line)
        raise
    except DeadlineExceeded as error:
        names = shlex.join(waiting.values())
        hint = f"What was begun goes on all the same; see how far it is: nexusctl service status {names}"
        raise DeadlineExceeded(error.message, hint=hint, details=error.details) from None
    found = [replies[place] for place in sorted(replies)]
    if out.output == "json" and len(commands) == 1 and found:
        out.one(found[0], key="name", sentence=lambda: None)
    elif not out.for_person:
        out.many(found, (), key="name", nothing="No services found.") if found else None
    return code


def _going_on(app: App, names: Sequence[str]) -> list[str]:
    """What became of services that nobody waits for any longer, in sentences."""
    app.limit(ANSWER_WITHIN_S)
    lines = []
    for name in names[:_MOST_TOLD]:
        try:
            service = app.call_raw(GetServiceStatus(name))["service"]
        except (NexusError, ConnectionFailure):
            continue  # what was interrupted is what there is to talk about
        if service["state"] in ("starting", "running"):
            lines.append(f'Service "{name}" goes on ({summary(service)}); to stop it: nexusctl service stop {name}')
        elif service["state"] == "stopping":
            lines.append(f'Service "{name}" goes on stopping; look at it: nexusctl service status {name}')
        else:
            lines.append(f'Service "{name}" is {service["state"]}')
    if len(names) > _MOST_TOLD:
        lines.append("And others: nexusctl service list")
    return lines


def started_text(reply: dict[str, Any]) -> list[str]:
    """What a start did, in sentences."""
    service, started = reply["service"], reply.get("started", [])
    lines = [f'Started service "{name}"' for name in started if name != service["name"]]
    verb = "Started" if service["name"] in started else "Already up:"
    if service["state"] == "stopped" and service["name"] in started:
        return [*lines, f'Ran service "{service["name"]}" ({service.get("reason") or "it has ended"})']
    return [*lines, f'{verb} service "{service["name"]}" ({summary(service)})']


def _tell_started(reply: dict[str, Any]) -> None:
    click.echo("\n".join(started_text(reply)))


def start_and_tell(app: App, name: str, out: Printer) -> int:
    """Start one service and say so; gives the exit code."""
    return _for_all(app, [StartService(name)], out, _tell_started)


def _start(app: App, values: dict[str, Any], out: Printer) -> int:
    names = _chosen(app, values)
    commands = [build_command(StartService, {**values, "service": name}) for name in names]
    return _for_all(app, commands, out, _tell_started)


def _restart(app: App, values: dict[str, Any], out: Printer) -> int:
    names = _chosen(app, values)
    commands = [build_command(RestartService, {**values, "service": name}) for name in names]

    def tell(reply: dict[str, Any]) -> None:
        click.echo(f'Restarted service "{reply["service"]["name"]}" ({summary(reply["service"])})')

    return _for_all(app, commands, out, tell)


def _stop(app: App, values: dict[str, Any], out: Printer) -> int:
    every = values["all"]
    names = _chosen(app, values)
    # Of all services none is left that another one could need.
    cascade = True if every else values["cascade"]
    commands = [build_command(StopService, {**values, "service": name, "cascade": cascade}) for name in names]
    told: set[str] = set()

    def tell(reply: dict[str, Any]) -> None:
        service = reply["service"]
        for name in reply.get("stopped", []):
            if name not in told:
                click.echo(f'Stopped service "{name}"')
                told.add(name)
        if service["name"] not in told and not every:
            click.echo(f'Service "{service["name"]}" was not up')

    return _for_all(app, commands, out, tell)


_START_HELP = """Start services, and before them what they depend on.

It is done when they are up: they have outlived their start window, or with --wait are healthy. What does not come up
is told with the last lines that it wrote.

\b
    nexusctl service start api --wait
    nexusctl service start --tag backend
"""

_STOP_HELP = """Stop services; it is done when all of their processes are gone.

What others that are up need is refused: --cascade stops those first, in reverse order.
"""

_RESTART_HELP = """Stop services and start them again, with the environment that they were last started with.

With --env they get another one. What depends on them is not stopped.
"""


def _choice() -> list[click.Parameter]:
    return [
        click.Argument(["service"], metavar="[NAME]...", nargs=-1, shell_complete=shell_complete("service")),
        click.Option(["--all"], is_flag=True, help="All services."),
        click.Option(["--tag"], help="All services with this tag.", shell_complete=shell_complete("service tag")),
    ]


def _made(command: type[Command[Any]], run: Run, help: str) -> click.Command:
    return verb(command, run, parameters=_choice(), exclude=("service", "timeout_ms"), help=help)


def make_start() -> click.Command:
    """``service start``."""
    return _made(StartService, _start, _START_HELP)


def make_stop() -> click.Command:
    """``service stop``."""
    return _made(StopService, _stop, _STOP_HELP)


def make_restart() -> click.Command:
    """``service restart``."""
    return _made(RestartService, _restart, _RESTART_HELP)
