"""``nexusctl events``: prints the events of the journal, and follows new ones."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.errors import Unavailable

from nexus.cli.output import Printer, end_with_reader, format_time, hint, printable
from nexus.cli.result import Result, Results, made
from nexus.cli.verbs import verb_of
from nexus.client.errors import ConnectionLost
from nexus.hints import command_line
from nexus.journal.commands import Event, WatchEvents

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["events"]


def _events(app: App, command: WatchEvents, out: Printer) -> None:
    following = command.follow
    if out.output == "json" and following:
        raise click.UsageError(
            "-o json prints one document, and followed events have no end: use -o jsonl, or --no-follow"
        )
    collected: list[Result[Event]] = []
    last = command.after
    heading, wide = not out.no_header, out.output == "wide"
    gc.enable()  # main() disables it, but this verb may run for days
    if following:
        end_with_reader(app.connect())
    try:
        with app.connect().stream(command) as stream:
            for event in stream:
                last = event.seq
                if event.kind is None:
                    continue
                result = made(event, _plain(event))
                if out.output == "json":
                    collected.append(result)
                    continue
                if heading and out.for_person:
                    click.echo(_layout(wide, "SEQ", "TIME", "KIND", "SUBJECT", "BY", "OP", "PID", "DETAIL"))
                    heading = False
                out.line(result, _line(event, wide), name=_number)
    except (KeyboardInterrupt, Unavailable, ConnectionLost) as error:
        if last is not None:
            hint(f"Continue from here: {_command_line(app, command, out, last)}")
        if isinstance(error, Unavailable):
            raise ConnectionLost(error.message) from None  # without the daemon's hint: the one above replaces it
        raise
    if out.output == "json":
        out.many(Results.of(collected), (), name=_number, nothing="No events found.")
    elif heading and last is None and out.for_person:
        click.echo("No events found.", err=True)
        app.hint_missing_project()


def _number(event: Event) -> int:
    return event.seq


def _command_line(app: App, command: WatchEvents, out: Printer, last: int) -> str:
    """The command line that selects the same events, after the last one that was shown."""
    words: list[str | int] = ["-A"] if app.all_projects else []
    for kind in command.kinds or ():
        words += ["--kind", kind]
    if command.subject:
        words += ["--subject", command.subject]
    if out.output != "table":
        words += ["-o", out.output]
    return command_line("nexusctl", "events", *words, "--after", last)


def _layout(wide: bool, *columns: object) -> str:
    """Lay out one row; the last three columns are for ``-o wide``."""
    if not wide:
        return "{:<8} {:<23} {:<26} {:<24} {}".format(*columns[:5]).rstrip()
    return "{:<8} {:<23} {:<26} {:<24} {:<16} {:<8} {:<8} {}".format(*columns).rstrip()


def _plain(event: Event) -> dict[str, Any]:
    return {name: value for name in event.__struct_fields__ if (value := getattr(event, name)) is not None}


def _line(event: Event, wide: bool) -> str:
    subject = event.subject_name or event.subject_id or ""
    if event.project not in (None, "default") and event.subject_kind != "project":
        subject = f"{event.project}/{subject}"
    by = event.actor or f"uid {event.uid}"
    detail = ""
    if wide and event.detail:
        import msgspec

        detail = msgspec.json.encode(event.detail).decode()
    at = format_time(event.at) or ""
    columns = (event.seq, at, event.kind or "", subject, by, event.operation or "", event.pid or "", detail)
    return printable(_layout(wide, *columns))


_HELP = """Show events, oldest first, and follow new ones until Ctrl-C.

Event numbers increase, with gaps. To continue later, pass the last number as --after.

\b
    nexusctl events --kind 'vm.*' --no-follow -o jsonl

With -o wide each event has the number of its operation. To see that one:

\b
    nexusctl op show 42
"""

events = verb_of(WatchEvents, _events, help=_HELP)
