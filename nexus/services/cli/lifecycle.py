"""``service start``, ``service stop`` and ``service restart``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import click
from nexus_protocol.command import Command
from nexus_protocol.errors import DeadlineExceeded, NexusError

from nexus.cli.app import ANSWER_WITHIN_S
from nexus.cli.groups import Verb
from nexus.cli.output import Printer
from nexus.cli.records import name_of
from nexus.cli.result import Result, Results
from nexus.cli.selection import layers, needs_of_line, selected, selection_parameters
from nexus.cli.verbs import Run, Values, verb
from nexus.client.errors import ConnectionFailure
from nexus.hints import command_line
from nexus.services.cli.selection import SERVICES
from nexus.services.cli.status import summary
from nexus.services.commands import GetServiceStatus, RestartService, StartService, StopService
from nexus.services.records import Service, ServicesStopped, ServiceStarted

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_restart", "make_start", "make_stop", "start_and_print", "started_text"]

_MAX_REPORTED = 10
"""Services of an interrupted command whose state is looked up and printed."""


class _Reply(Protocol):
    @property
    def service(self) -> Service: ...


R = TypeVar("R", bound=_Reply)


def _for_all(
    app: App,
    names: Sequence[str],
    command: Callable[[str], Command[R]],
    out: Printer,
    sentence: Callable[[R], None],
    groups: Sequence[Sequence[int]] | None = None,
) -> int:
    """Send a command for each name concurrently and print its outcome; returns the exit code of the first error, or 0.

    ``groups`` are the places of those that go at the same time, one group after the other; by default all. For a person
    each outcome is printed as it arrives; for a program, in the order of the command line.
    """
    from nexus.cli.main import exit_code, print_error

    code = 0
    commands = [command(name) for name in names]
    replies: dict[int, Result[Service]] = {}
    waiting = dict(enumerate(names))
    try:
        for group in groups if groups is not None else [range(len(commands))]:
            # Each keeps the key of its place on the line, whatever its group is.
            keys = None if app.key is None else [app.key_at(index) for index in group]
            why = None if keys is None else app.why
            for place, reply in app.fetch_all([commands[index] for index in group], why=why, keys=keys):
                index = group[place]
                del waiting[index]
                if isinstance(reply, NexusError):
                    print_error(reply)
                    code = code or exit_code(reply)
                    continue
                replies[index] = reply.part(ServiceStarted.service)  # a field of each of these replies
                if out.for_person:
                    sentence(reply.record)
    except KeyboardInterrupt as error:
        for line in _states_after_interrupt(app, list(waiting.values())):
            error.add_note(line)
        raise
    except DeadlineExceeded as error:
        look = command_line("nexusctl", "service", "status", *waiting.values())
        hint = f"Operations in progress continue in the daemon; to see their state: {look}"
        raise DeadlineExceeded(error.message, hint=hint, details=error.details) from None
    found = [replies[index] for index in sorted(replies)]
    if out.output == "json" and len(commands) == 1 and found:
        out.one(found[0], name=name_of, sentence=lambda _service: None)
    elif not out.for_person:
        out.many(Results.of(found), (), name=name_of, nothing="No services found.") if found else None
    return code


def _states_after_interrupt(app: App, names: Sequence[str]) -> list[str]:
    """The states of the services whose commands were interrupted, in sentences."""
    app.limit(ANSWER_WITHIN_S)
    lines = []
    for name in names[:_MAX_REPORTED]:
        try:
            service = app.call(GetServiceStatus(name)).service
        except (NexusError, ConnectionFailure):
            continue  # this is only additional information
        if service.state in ("starting", "running"):
            stop = command_line("nexusctl", "service", "stop", name)
            lines.append(f'Service "{name}" keeps running ({summary(service)}); to stop it: {stop}')
        elif service.state == "stopping":
            look = command_line("nexusctl", "service", "status", name)
            lines.append(f'Service "{name}" is still stopping; to see its state: {look}')
        else:
            lines.append(f'Service "{name}" is {service.state}')
    if len(names) > _MAX_REPORTED:
        lines.append("To see the others: nexusctl service list")
    return lines


def started_text(reply: ServiceStarted) -> list[str]:
    """The result of a start in sentences; the last one is about the service that was named."""
    service, started = reply.service, reply.started
    lines = [f'Started service "{name}"' for name in started if name != service.name]
    verb = "Started" if service.name in started else "Already started:"
    if service.state == "stopped" and service.name in started:
        return [*lines, f'Ran service "{service.name}" ({service.reason or "it has exited"})']
    return [*lines, f'{verb} service "{service.name}" ({summary(service)})']


def _print_started(reply: ServiceStarted) -> None:
    click.echo("\n".join(started_text(reply)))


def start_and_print(app: App, name: str, out: Printer) -> int:
    """Start one service and print the result; returns the exit code."""
    return _for_all(app, [name], StartService, out, _print_started)


def _start(app: App, values: Values, out: Printer) -> int:
    names = selected(app, values, SERVICES)
    return _for_all(app, names, lambda name: values.build(StartService, service=name), out, _print_started)


def _restart(app: App, values: Values, out: Printer) -> int:
    names = selected(app, values, SERVICES)

    def command(name: str) -> RestartService:
        return values.build(RestartService, service=name)

    def print_restarted(reply: ServiceStarted) -> None:
        click.echo(f'Restarted service "{reply.service.name}" ({summary(reply.service)})')

    return _for_all(app, names, command, out, print_restarted, layers(needs_of_line(app, names, SERVICES)))


def _stop(app: App, values: Values, out: Printer) -> int:
    every = values.flag("all")
    names = selected(app, values, SERVICES)
    # With --all or --cascade the dependents are stopped too, so the order of the commands does not matter.
    cascade = every or values.flag("cascade")

    def command(name: str) -> StopService:
        return values.build(StopService, service=name, cascade=cascade)

    printed: set[tuple[str, str]] = set()
    """The project and the name of each service that was stopped."""

    def print_stopped(reply: ServicesStopped) -> None:
        service = reply.service
        project = service.project_id
        for name in reply.stopped:
            if (project, name) not in printed:
                click.echo(f'Stopped service "{name}"')
                printed.add((project, name))
        if (project, service.name) not in printed and not every:
            click.echo(f'Service "{service.name}" was not running')

    groups = None if cascade else layers(needs_of_line(app, names, SERVICES), dependents_first=True)
    return _for_all(app, names, command, out, print_stopped, groups)


_START_HELP = """Start services, and their dependencies first.

The command returns when the services are running: once their start window has passed, or with --wait once they are
healthy. A dependency waits for its own first, so a chain takes the sum of their start windows.

A service that fails is waited for while its restart policy tries again, and an unhealthy one while it is up. Once
nothing tries again, the reason and the last lines of its output are printed. To wait for a limited time, give a time
limit: the start then goes on in the daemon.

\b
    nexusctl service start api --wait
    nexusctl --timeout 60 service start api --wait
    nexusctl service start --tag backend
"""

_STOP_HELP = """Stop services, and return when all of their processes have exited.

Stopping a service with running dependents is refused. With --cascade the dependents are stopped first, in reverse
order.
"""

_RESTART_HELP = """Restart services with the environment of their last start.

With --env they get another environment. Their dependents are not stopped.
"""


def _build(command: type[Command[Any]], run: Run, help: str) -> Verb:
    exclude = ("service", "timeout_ms", "if_state_revision")
    built = verb(command, run, parameters=selection_parameters(SERVICES), exclude=exclude, help=help)
    built.takes_all_projects = True
    return built


def make_start() -> click.Command:
    """``service start``."""
    return _build(StartService, _start, _START_HELP)


def make_stop() -> click.Command:
    """``service stop``."""
    return _build(StopService, _stop, _STOP_HELP)


def make_restart() -> click.Command:
    """``service restart``."""
    return _build(RestartService, _restart, _RESTART_HELP)
