"""``run``, ``attach`` and ``send``: a command beside a service, and what runs on this terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from nexus_protocol.errors import NotFound

from nexus.cli.output import Named, Printer, hint, reference
from nexus.cli.verbs import Values, shell_complete, verb
from nexus.hints import command_line
from nexus.jobs.cli.jobs import (
    OWN_FIELDS,
    exiting_as_the_job,
    follow,
    given_variables,
    input_of,
    send_parameters,
    submit,
    submit_parameters,
    submitted,
    words_of,
)
from nexus.jobs.commands import AttachJob, CreateJob, GetJob, SendJobInput
from nexus.jobs.records import Job
from nexus.services.commands import AttachService, GetServiceStatus, SendServiceInput

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["attach", "run", "send"]

_RUN_HELP = """Run a command as a one-off of a service: with its directory, environment, tunnels and limits.

Its output is shown, and nexusctl exits with its code. Ctrl-C cancels it. It is a job, and stays in the list of jobs.
With -it this terminal is attached to it, which Ctrl-] detaches again.

\b
    nexusctl run api -- ./manage.py migrate
    nexusctl run -it db -- psql
    nexusctl run -d api 'make report > report.txt'
"""


def _run(app: App, values: Values, out: Printer) -> int:
    detach = values.flag("detach")
    if not detach and not out.for_person:
        raise click.UsageError("-o goes with -d: the output of what is followed is that of the command")
    fields = submitted(app, values, words_of(values), directory=None)
    # The environment of the service counts, and not that of this shell.
    fields |= {"environment": given_variables(values) or None, "service": values.word("service_name")}
    attach = values.flag("tty") and values.flag("interactive")
    run = submit if detach else exiting_as_the_job(submit)
    return run(app, values, out, fields, wait=not detach, attach=attach and not detach, cancel=True)


def _make_run() -> click.Command:
    service = click.Argument(["service_name"], metavar="SERVICE", shell_complete=shell_complete("service"))
    line = click.Argument(["line"], required=False, metavar="[COMMAND]")
    detach = click.Option(["-d", "--detach"], is_flag=True, help="Do not wait for it.")
    own = [option for option in submit_parameters() if option.name != "clean_env"]
    return verb(
        CreateJob,
        _run,
        parameters=[service, line, *own, detach],
        exclude=(*OWN_FIELDS, "id", "metadata", "conversation_id", "message_id", "after", "delay_ms", "stashed"),
        help=_RUN_HELP,
        words="words",
    )


def _found(app: App, name: str) -> Job | Named:
    """What a name stands for: a job by its number, a service, or a job by its id.

    Raises:
        NotFound: neither a job nor a service.
    """
    if name.rpartition("/")[2].lstrip("#").isdecimal():
        return app.call(GetJob(name))
    try:
        return app.call(GetServiceStatus(name)).service
    except NotFound:
        try:
            return app.call(GetJob(name))
        except NotFound as error:
            raise NotFound(f'job or service "{name}" not found', hint=error.hint) from None


_NAME = "JOB|SERVICE"


def _make_attach() -> click.Command:
    def attach_to(app: App, values: Values, _out: Printer) -> int:
        found = _found(app, values.word("name"))
        return follow(app, found, attach=True, cancel=False) if isinstance(found, Job) else attach_service(app, found)

    argument = click.Argument(["name"], metavar=_NAME, shell_complete=shell_complete("job or service"))
    return verb(
        AttachJob,
        attach_to,
        parameters=[argument],
        exclude=("job", "rows", "columns", "replay"),
        help="""Attach this terminal to a job, by its number, or to a service that has a terminal or an open input.

Every key goes to the program, Ctrl-C too. Ctrl-] detaches, and the program goes on.
""",
    )


def attach_service(app: App, service: Named) -> int:
    """Attach to a service until its process ends, or the user detaches."""
    from nexus.cli.attach import DETACHED, attach_terminal

    def make(rows: int | None, columns: int | None, replay: bool) -> AttachService:
        return AttachService(service.id, rows=rows, columns=columns, replay=replay)

    try:
        done = attach_terminal(app, make, f'service "{service.name}"')
    except KeyboardInterrupt as error:
        error.add_note(f'Service "{service.name}" goes on.')
        raise
    if done == DETACHED:
        hint(f"Attach again: {command_line('nexusctl', 'attach', reference(service))}")
    return 0


def _make_send() -> click.Command:
    def send_to(app: App, values: Values, _out: Printer) -> None:
        data, eof = input_of(values), values.flag("eof")
        found = _found(app, values.word("name"))
        if isinstance(found, Job):
            app.call(SendJobInput(found.id, data=data, eof=eof))
        else:
            app.call(SendServiceInput(found.id, data=data, eof=eof))

    argument = click.Argument(["name"], metavar=_NAME, shell_complete=shell_complete("job or service"))
    return verb(
        SendJobInput,
        send_to,
        parameters=[argument, *send_parameters()],
        exclude=("job", "data", "eof"),
        help="""Type a text into the terminal or open input of a job, by its number, or a service, and a line feed.

With - the text is what nexusctl reads from its standard input.

\b
    nexusctl send 12 yes
    nexusctl send console stop --no-newline
    nexusctl send 12 - --eof
""",
    )


run = _make_run()
attach = _make_attach()
send = _make_send()
