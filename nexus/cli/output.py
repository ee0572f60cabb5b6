"""Prints results: a table for a person, JSON for a program, names for a pipe.

Only results go to standard output; hints and "No ... found." go to standard error.
"""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import click

from nexus.terminal import (
    OutputFilter,
    columns_of,
    exact_bytes,
    output_filter,
    overwrite_line,
    painted,
    printable,
    shortened,
    visible,
    without_controls,
    write_exact,
)

if TYPE_CHECKING:
    import socket

    from nexus.cli.result import Result, Results
    from nexus.client.blocking import BlockingClient

__all__ = [
    "Column",
    "Named",
    "OutputFilter",
    "Printer",
    "address_given",
    "can_ask",
    "colour_wanted",
    "columns_of",
    "confirm",
    "end_with_reader",
    "exact_bytes",
    "format_duration",
    "format_size",
    "format_time",
    "handle",
    "hint",
    "hint_lines",
    "output_filter",
    "output_options",
    "overwrite_line",
    "painted",
    "print_fields",
    "printable",
    "of_project",
    "printer",
    "reference",
    "set_address",
    "shortened",
    "visible",
    "without_controls",
    "write_exact",
]

F = TypeVar("F", bound=Callable[..., object])
R = TypeVar("R")

_DEFAULT = "default"
FORMATS = ("table", "wide", "json", "jsonl", "name")


class Named(Protocol):
    """A record that people know by its name."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def name(self) -> str:
        """Its name."""


class Column(NamedTuple, Generic[R]):
    """One column of a table. ``width`` is the minimum; a ``wide`` column is printed by ``-o wide`` only."""

    heading: str
    value: Callable[[R], object]
    width: int = 0
    wide: bool = False
    colour: Callable[[R], str | None] | None = None
    """The colour of a record's cell on a terminal, as click names it."""


def _project_name(record: object) -> str | None:
    """The name of a record's project; None for a record that is in none."""
    name: str | None = getattr(record, "project", None)
    return name


def output_options(fn: F) -> F:
    """Decorator: add ``-o`` and ``--no-header`` to a verb."""
    fn = click.option("--no-header", is_flag=True, help="Leave out the table's heading.")(fn)
    return click.option(
        "-o", "--output", type=click.Choice(FORMATS), default="table", help="How to print (default: table)."
    )(fn)


class HasNames(Protocol):
    """A record with the names of those whose ids it has."""

    @property
    def names(self) -> dict[str, str]:
        """The names by id."""


class Printer:
    """Prints records in the chosen format."""

    def __init__(self, output: str, no_header: bool = False) -> None:
        self.output = output
        self.no_header = no_header

    @property
    def for_person(self) -> bool:
        """Whether a person reads it, rather than a program."""
        return self.output in ("table", "wide")

    def many(
        self,
        results: Results[R],
        columns: Sequence[Column[R]],
        *,
        name: Callable[[R], object],
        nothing: str,
        projects: bool = False,
    ) -> None:
        """Print a list. ``name`` is what ``-o name`` prints of each; ``nothing`` is printed if the list is empty.

        ``projects`` is for a list of several: it has a column with the project, and names as ``P/NAME``.
        """
        if self.output == "json":
            _write(_json(results.plain) + "\n")
        elif self.output == "jsonl":
            _write("".join(_json_line(plain) + "\n" for plain in results.plain))
        elif self.output == "name":
            _write_names(map(_in_project(name) if projects else name, results.records))
        elif results:
            project_column: Column[R] = Column("PROJECT", _project_name, 12)
            self._table(results.records, [project_column] * projects + [*columns])
        if not results:
            click.echo(nothing, err=True)

    def one(self, result: Result[R], *, name: Callable[[R], object], sentence: Callable[[R], object]) -> None:
        """Print one record; ``name`` is what ``-o name`` prints, and ``sentence`` prints it for a person."""
        if self.output == "json":
            _write(_json(result.plain) + "\n")
        elif self.output == "jsonl":
            _write(_json_line(result.plain) + "\n")
        elif self.output == "name":
            _write_names([name(result.record)])
        else:
            sentence(result.record)

    def line(self, result: Result[R], text: str, *, name: Callable[[R], object]) -> None:
        """Print one record of an endless list and flush it."""
        if self.output in ("json", "jsonl"):
            _write(_json_line(result.plain) + "\n")
        elif self.output == "name":
            _write_names([name(result.record)])
        else:
            _write(text + "\n")
        sys.stdout.flush()

    def _table(self, records: Sequence[R], columns: Sequence[Column[R]]) -> None:
        shown = [column for column in columns if self.output == "wide" or not column.wide]
        colour = colour_wanted()
        padded: list[list[str]] = []
        """The lines of each column."""
        for column in shown:
            cells = [_cell(column.value(record)) for record in records]
            width = max(column.width, len(column.heading), max(map(columns_of, cells)))
            lines = [cell + " " * (width - columns_of(cell)) for cell in cells]
            if colour and column.colour is not None:
                lines = [painted(line, column.colour(record)) for line, record in zip(lines, records, strict=True)]
            padded.append(lines if self.no_header else [column.heading.ljust(width), *lines])
        _write("".join([" ".join(row).rstrip() + "\n" for row in zip(*padded, strict=True)]))


def printer(output: str, no_header: bool = False) -> Printer:
    """The printer for the values of ``output_options``."""
    return Printer(output, no_header)


def _cell(value: object) -> str:
    return printable("-" if value is None or value == "" else str(value))


def _write(text: str) -> None:
    sys.stdout.write(text)


def _write_names(values: Iterable[object]) -> None:
    """Write values for ``-o name``: each one line on a terminal, the exact text to a program."""
    shown: Callable[[str], str] = printable if sys.stdout.isatty() else str
    write_exact("".join([f"{shown(str(value))}\n" for value in values]))


def _in_project(name: Callable[[R], object]) -> Callable[[R], object]:
    """The name with the record's project, as ``P/NAME``."""

    def qualified(record: R) -> object:
        project = _project_name(record)
        return name(record) if project is None else f"{project}/{name(record)}"

    return qualified


def _json(value: object) -> str:
    import msgspec

    return _escaped(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _json_line(value: object) -> str:
    import msgspec

    return _escaped(msgspec.json.encode(value).decode())


def _escaped(json: str) -> str:
    # JSON does not have to escape C1 control characters, and characters that change the direction of text.
    if json.replace("\n", "").isprintable():
        return json
    return "".join(c if c == "\n" or c.isprintable() else _escape(c) for c in json)


def _escape(character: str) -> str:
    """A character as JSON writes it in ASCII: one unit of UTF-16, or two."""
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def print_fields(fields: Sequence[tuple[str, object]]) -> None:
    """Print aligned ``Name: value`` lines; a field whose value is None is left out."""
    shown = [(name, _cell(value)) for name, value in fields if value is not None]
    width = max(len(name) for name, _value in shown) + 2
    _write("".join(f"{name + ':':<{width}}{value}\n" for name, value in shown))


def format_time(at_ms: int | None) -> str | None:
    """Format a time in ms since 1970 as ``2026-01-31 09:30:00 UTC``."""
    return None if at_ms is None else time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at_ms / 1000))


def format_duration(ms: int) -> str:
    """Format a duration in its two largest units, such as ``1 h 2 min``."""
    seconds = ms // 1000
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "min"), (seconds % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        del parts[0]
    return " ".join(f"{number} {unit}" for number, unit in parts[:2])


def format_size(size_bytes: int) -> str:
    """Format a number of bytes, such as ``1.5 MiB``."""
    if size_bytes < 1024:
        return f"{size_bytes} bytes"
    size, unit = size_bytes / 1024, "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if size >= 1024:
            size, unit = size / 1024, larger
    return f"{size:.1f} {unit}"


_address: list[str] = []
"""The options of this run that say which daemon it means; hints repeat them, or they would lead to another one."""
_project: list[str] = []
"""The option that says which project it means; hints repeat it where the verb speaks in a project."""
_WITHOUT_PROJECT = "completion|daemon|db|doctor|op|project|settings|status|version"


_host: list[str] = []
"""The words that begin a command line which runs on the host that this run means, if it is another one."""
_THERE = "daemon|db|doctor|apply"
"""Nouns that work on one machine alone: their commands in hints are to be run on the host."""


_PROGRAMS = "ssh|ssh-keygen|git|chmod|apt|systemctl|loginctl"
"""Programs, beside nexusctl, that command lines in a daemon's hints run."""


def set_address(
    socket: str | None,
    config: str | None,
    project: str | None = None,
    host: str | None = None,
    *,
    repeats_host: bool = True,
) -> None:
    """Note ``--socket``, ``--host``, ``--config`` and ``-p`` as they were given, for ``hint_lines``.

    Without ``repeats_host`` the host is that of the environment, and counts for the next command line, too.
    """
    options = (("--socket", socket), ("--host", host if repeats_host else None), ("--config", config))
    _address[:] = [word for option in options if option[1] for word in option if word]
    _host[:] = []
    if host is not None:
        from nexus.client.ssh import parse_host, program_there

        _host[:] = ["ssh", *parse_host(host).ssh_words(), program_there()]
    _project[:] = [] if project is None else ["-p", project]


def address_given() -> bool:
    """Whether this run has an option that says which daemon it means."""
    return bool(_address or _host)


def hint_lines(text: str, *, of_daemon: bool = False) -> list[str]:
    """The lines of a hint as they are printed. Its commands of nexusctl go to the daemon and project of this run.

    What is ``of_daemon`` has other commands for the daemon's machine: where that is another host, they run there.
    """
    if of_daemon and _host:
        text = re.sub(rf"(?m)(^|: )((?:{_PROGRAMS}) .*(?<![a-z]\.))$", lambda match: match[1] + _there(match[2]), text)
    if _project:
        text = _with_options(text, ["nexusctl", *_project], f"(?!(?:{_WITHOUT_PROJECT})\\b)")
    if _host:
        text = _with_options(text, _host, f"(?=(?:{_THERE})\\b)")
    if _address:
        text = _with_options(text, ["nexusctl", *_address], "(?!--(?:socket|host) )")
    return [printable(line) for line in text.splitlines()]


def _there(line: str) -> str:
    """The command line that runs another one on the host that this run means; it may ask on the terminal."""
    from nexus.hints import command_line

    words = line.split(" ") if re.fullmatch(r"[\w@%+=:,./ -]+", line, re.ASCII) else [line]
    return command_line("ssh", "-t", *_host[1:-1], *words)


def _with_options(text: str, words: Sequence[str], where: str) -> str:
    """Begin the command lines of nexusctl that go on as ``where`` says with other words."""
    from nexus.hints import command_line

    again = command_line(*words)
    return re.sub(rf"(?m)(^|: |; )nexusctl {where}", lambda match: f"{match[1]}{again} ", text)


def handle(record: Named) -> str:
    """How people and programs call a record in its project: by its number, else by its name."""
    number: int | None = getattr(record, "number", None)
    return record.name if number is None else str(number)


def called(record: HasNames, id_: str | None) -> str | None:
    """What people call a record whose id another one has: the name that the daemon gives with it, else the id."""
    return None if id_ is None else record.names.get(id_, id_)


def reference(record: Named) -> str:
    """How a hint names a record: so that it works from any folder, ``P/NAME`` outside the project default.

    One of default is ``default/NAME`` where the run speaks in another project.
    """
    project = _project_name(record) or _DEFAULT
    if _project and _project[1] == project:
        return handle(record)  # the hint's line has the option again
    return handle(record) if project == _DEFAULT and _speaks_in_default() else f"{project}/{handle(record)}"


def _speaks_in_default() -> bool:
    context = click.get_current_context(silent=True)
    app = None if context is None else context.find_root().obj
    return app is None or app.project() in (None, _DEFAULT)


def of_project(record: object) -> str:
    """The words that a sentence adds where a record is not in the project default."""
    project = _project_name(record) or _DEFAULT
    return "" if project == _DEFAULT else f' of project "{project}"'


def hint(text: str) -> None:
    """Print what to do next on standard error, after an empty line."""
    sys.stdout.flush()
    click.echo("".join(f"\n  {line}" for line in hint_lines(text)), err=True)


def can_ask() -> bool:
    """Whether standard input and standard error are terminals, so that a question can be asked."""
    return sys.stdin is not None and sys.stdin.isatty() and sys.stderr.isatty()


def confirm(question: str, refusal: str, command: str) -> bool:
    """Ask on a terminal; without one, print the refusal. ``command`` is the command line that skips the question."""
    if can_ask():
        return click.confirm(printable(question), err=True)
    click.echo(f"Error: {refusal}", err=True)
    for line in hint_lines(f"Run with --yes to skip confirmation: {command}"):
        click.echo(f"  {line}", err=True)
    return False


def colour_wanted() -> bool:
    """Whether to colour: standard output is a terminal, and NO_COLOR is not set (no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def end_with_reader(client: BlockingClient) -> None:
    """Make waits for the daemon raise BrokenPipeError once the reader of standard output has closed it.

    Otherwise a verb that follows events would notice only at its next write, which may never come.
    """
    import select

    try:
        output = sys.stdout.fileno()
    except OSError:
        return  # standard output is closed already
    poller = select.poll()
    poller.register(output, 0)  # POLLERR and POLLHUP are reported without being asked for

    def wait(connection: socket.socket) -> None:
        poller.register(connection, select.POLLIN)
        if any(descriptor == output for descriptor, _events in poller.poll()):
            raise BrokenPipeError

    client.before_wait = wait
