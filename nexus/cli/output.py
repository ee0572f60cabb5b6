"""How results are printed: a table for a person, JSON for a program, names for a pipe.

Results go to standard output and nothing else does; hints and "nothing found" go to standard error.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

if TYPE_CHECKING:
    import socket

    from nexus.client.blocking import BlockingClient

__all__ = [
    "Column",
    "Printer",
    "can_ask",
    "colour_wanted",
    "confirm",
    "end_with_reader",
    "format_duration",
    "format_time",
    "hint",
    "output_options",
    "print_fields",
    "printable",
    "printer",
]

F = TypeVar("F", bound=Callable[..., Any])

FORMATS = ("table", "wide", "json", "jsonl", "name")


class Column(NamedTuple):
    """One column of a table: its heading, what stands in it, its least width, and whether only ``-o wide`` has it."""

    heading: str
    value: Callable[[dict[str, Any]], Any]
    width: int = 0
    wide: bool = False
    colour: Callable[[dict[str, Any]], str | None] | None = None
    """The colour of a record's cell on a terminal, as click calls it."""


def output_options(fn: F) -> F:
    """Give a verb ``-o`` and ``--no-header``."""
    fn = click.option("--no-header", is_flag=True, help="Leave out the table's heading.")(fn)
    return click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", help="How to print (default: table)."
    )(fn)


class Printer:
    """Prints records in the format that was asked for."""

    def __init__(self, output: str, no_header: bool = False) -> None:
        self.output = output
        self.no_header = no_header

    @property
    def for_person(self) -> bool:
        """Whether a person reads it, rather than a program."""
        return self.output in ("table", "wide")

    def many(self, records: Sequence[dict[str, Any]], columns: Sequence[Column], *, key: str, nothing: str) -> None:
        """Print a list. ``key`` is the field for ``-o name``; ``nothing`` is said when the list is empty."""
        if self.output == "json":
            _write(_json(list(records)) + "\n")
        elif self.output == "jsonl":
            _write("".join(_json_line(record) + "\n" for record in records))
        elif self.output == "name":
            _write("".join(f"{record[key]}\n" for record in records))
        elif records:
            self._table(records, columns)
        if not records:
            click.echo(nothing, err=True)

    def one(self, record: dict[str, Any], *, key: str, sentence: Callable[[], None]) -> None:
        """Print one record; ``sentence`` prints it for a person."""
        if self.output == "json":
            _write(_json(record) + "\n")
        elif self.output == "jsonl":
            _write(_json_line(record) + "\n")
        elif self.output == "name":
            _write(f"{record[key]}\n")
        else:
            sentence()

    def line(self, record: dict[str, Any], text: str, *, key: str) -> None:
        """Print one record of an endless list at once."""
        if self.output in ("json", "jsonl"):
            _write(_json_line(record) + "\n")
        elif self.output == "name":
            _write(f"{record[key]}\n")
        else:
            _write(text + "\n")
        sys.stdout.flush()

    def _table(self, records: Sequence[dict[str, Any]], columns: Sequence[Column]) -> None:
        shown = [column for column in columns if self.output == "wide" or not column.wide]
        cells = [[_cell(column.value(record)) for column in shown] for record in records]
        widths = [
            max(column.width, len(column.heading), *(len(row[index]) for row in cells))
            for index, column in enumerate(shown)
        ]
        rows: Iterable[list[str]] = cells if self.no_header else [[column.heading for column in shown], *cells]
        padded = [[f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)] for row in rows]
        if colour_wanted():
            for record, row in zip(records, padded[-len(cells) :], strict=True):
                for index, column in enumerate(shown):
                    if column.colour is not None:
                        row[index] = click.style(row[index], fg=column.colour(record))
        _write("".join(" ".join(row).rstrip() + "\n" for row in padded))


def printer(output: str, no_header: bool = False) -> Printer:
    """The printer for the values of ``output_options``."""
    return Printer(output, no_header)


def _cell(value: Any) -> str:
    return printable("-" if value is None or value == "" else str(value))


def printable(text: str) -> str:
    """The text without anything that would drive a person's terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)


def _write(text: str) -> None:
    sys.stdout.write(text)


def _json(value: Any) -> str:
    import msgspec

    return _escaped(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _json_line(value: Any) -> str:
    import msgspec

    return _escaped(msgspec.json.encode(value).decode())


def _escaped(json: str) -> str:
    # JSON leaves these as they are, and terminals take some of them for the start of a command.
    return re.sub("[\x7f-\x9f]", lambda match: f"\\u{ord(match[0]):04x}", json)


def print_fields(fields: Sequence[tuple[str, Any]]) -> None:
    """Print ``Name: value`` lines, the values below each other; those without a value are left out."""
    shown = [(name, _cell(value)) for name, value in fields if value is not None]
    width = max(len(name) for name, _value in shown) + 2
    _write("".join(f"{name + ':':<{width}}{value}\n" for name, value in shown))


def format_time(at_ms: int | None) -> str | None:
    """A time as a person reads it, such as ``2026-01-31 09:30:00 UTC``."""
    return None if at_ms is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))


def format_duration(ms: int) -> str:
    """How long something takes or has lasted, in its two largest units."""
    seconds = ms // 1000
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])


def hint(text: str) -> None:
    """Say what to do next; on standard error, set off by an empty line."""
    sys.stdout.flush()
    click.echo(f"\n  {text}", err=True)


def can_ask() -> bool:
    """Whether a person is there who could answer a question."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, refusal: str, command: str) -> bool:
    """Ask on a terminal; refuse without one. ``command`` is what to run instead."""
    if can_ask():
        return click.confirm(printable(question), err=True)
    click.echo(f"Error: {refusal}\n  Run with --yes to skip confirmation: {printable(command)}", err=True)
    return False


def colour_wanted() -> bool:
    """Whether standard output is a terminal that may be coloured (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def end_with_reader(client: BlockingClient) -> None:
    """From now on a wait for the daemon ends with BrokenPipeError once nobody reads standard output any more.

    Who follows something would see that only when there is more to print, which may be never.
    """
    import select

    try:
        output = sys.stdout.fileno()
    except OSError:
        return  # it was closed, and there is nothing to be seen
    poller = select.poll()
    poller.register(output, 0)  # that its other end is gone is told unasked

    def wait(connection: socket.socket) -> None:
        poller.register(connection, select.POLLIN)
        if any(descriptor == output for descriptor, _events in poller.poll()):
            raise BrokenPipeError

    client.before_wait = wait
