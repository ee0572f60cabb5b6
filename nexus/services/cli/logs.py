"""``service logs``: the output of services."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from msgspec.structs import replace

from nexus.cli.logs import LogSource, log_parameters, log_query, show_logs
from nexus.cli.output import Printer
from nexus.cli.selection import selected, selection_parameters
from nexus.cli.verbs import Values, verb
from nexus.services.cli.selection import SERVICES
from nexus.services.commands import GetServiceStdout
from nexus.services.errors import ServiceCursorInvalid, ServiceNotFound

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_logs"]

_SOURCE: LogSource[GetServiceStdout] = LogSource(
    "service",
    name=lambda command: command.service,
    after=lambda command, cursor: replace(command, cursor=cursor, lines=None, since_at=None, mark_start=False),
    from_now=lambda command: replace(command, cursor=None, lines=None, since_at=None, mark_start=True),
    gone=ServiceNotFound,
    cursor_invalid=ServiceCursorInvalid,
)


def _logs(app: App, values: Values, out: Printer) -> int:
    names = selected(app, values, SERVICES)
    if not names:
        return 0
    lines, since_at, stream, follow = log_query(values)
    commands = [
        GetServiceStdout(name, lines=lines, since_at=since_at, stream=stream, follow=follow, mark_start=follow)
        for name in names
    ]
    timestamps, raw = values.flag("timestamps"), values.flag("raw")
    return show_logs(app, names, commands, _SOURCE, out, follow=follow, timestamps=timestamps, raw=raw)


_LOGS_HELP = """Show the output of services, standard output and standard error together.

A pipe or a file gets it byte for byte. On a terminal, control characters and sequences other than colours are shown as
U+FFFD, unless --raw is given.

By default it shows the last 100 lines on a terminal, and everything that is kept elsewhere. The lines of several
services begin with the service's name. With -f it follows new output until Ctrl-C, also across restarts of the
service and of the daemon. Output that was deleted before it could be shown is marked on standard error.

\b
    nexusctl service logs web -f
    nexusctl service logs api db --since 10m --timestamps
    nexusctl service logs api -o jsonl
"""


def make_logs() -> click.Command:
    """``service logs``."""
    parameters = [*selection_parameters(SERVICES), *log_parameters()]
    exclude = ("service", "lines", "since_at", "stream", "follow", "cursor", "mark_start")
    built = verb(GetServiceStdout, _logs, parameters=parameters, exclude=exclude, help=_LOGS_HELP)
    built.takes_all_projects = True
    return built
