"""Shows the output of what runs: byte for byte for a pipe, safe for a terminal, as records for a program.

It knows what a piece of output is, and no record type whose output it shows.
"""

from __future__ import annotations

import gc
import heapq
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeVar

import click
from nexus_protocol.command import StreamCommand
from nexus_protocol.errors import DeadlineExceeded, NexusError, ResourceExhausted, Unavailable

from nexus.cli.output import Printer, end_with_reader, exact_bytes, output_filter, printable
from nexus.cli.result import Result, Results, made
from nexus.cli.verbs import Values, since
from nexus.client.errors import ConnectionFailure, ConnectionLost
from nexus.records.processes import LogStream

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["LogCommand", "LogSource", "Piece", "follow_pieces", "log_parameters", "log_query", "show_logs"]

_LINES_ON_TERMINAL = 100
"""The default of ``--lines`` on a terminal."""
_FIRST_PAUSE_MS, _LAST_PAUSE_MS = 50, 1000
"""Between two attempts to reach a daemon that is not there; doubled each time."""


def _line_count(text: str) -> int:
    """Parse a number of lines; ``all`` is -1."""
    if text == "all":
        return -1
    if not (text.isascii() and text.isdecimal()) or int(text) > 10_000_000:
        raise click.BadParameter(f"{text!r} is neither a number of lines, 0 to 10000000, nor 'all'")
    return int(text)


class Piece(Protocol):
    """A piece of the output of one stream: whole lines, or a part of a line, or a gap."""

    @property
    def at(self) -> int:
        """When its first byte was received (ms)."""

    @property
    def stream(self) -> Enum:
        """stdout or stderr."""

    @property
    def data(self) -> bytes:
        """The bytes; none in a gap."""

    @property
    def cursor(self) -> str:
        """The place after it."""

    @property
    def continues(self) -> bool:
        """Whether it continues the line that the stream's piece before left unfinished."""

    @property
    def dropped_bytes(self) -> int:
        """In a gap: how many bytes are missing."""


LogCommand = TypeVar("LogCommand", bound=StreamCommand[Any, Any])
"""A command whose items are pieces."""


class LogSource(NamedTuple, Generic[LogCommand]):
    """A record type that has output."""

    word: str
    """One record in a sentence, and its field in an error's details: ``service``."""
    name: Callable[[LogCommand], str]
    """The reference in a command."""
    after: Callable[[LogCommand, str], LogCommand]
    """The command that continues after a cursor."""
    from_now: Callable[[LogCommand], LogCommand]
    """The command that follows the same output from where it begins now."""
    gone: type[NexusError]
    """The error of a record that was removed."""
    cursor_invalid: type[NexusError]
    """The error of a cursor whose output was deleted."""


class _Writer:
    """Writes pieces of output to standard output, each line with its name and time where they are wanted.

    Without either the bytes are written unchanged, except that a line that will not be continued is ended before
    another one begins. A terminal without ``raw`` gets no command but colours.
    """

    def __init__(self, names: tuple[str, ...], timestamps: bool, flush: bool, raw: bool) -> None:
        self._filters = {name: output_filter(raw=raw) for name in names}
        self._width = max(map(len, names)) if len(names) > 1 else 0
        self._timestamps = timestamps
        self._flush = flush
        self._open: tuple[str, Enum] | None = None
        """The record and the stream whose last line has no line feed yet."""

    def write(self, name: str, piece: Piece) -> None:
        if piece.dropped_bytes:
            number, be = (piece.dropped_bytes, "were") if piece.dropped_bytes > 1 else ("1", "was")
            label = f"{name:<{self._width}} | " if self._width else ""
            self.note(f"{label}… {number} byte{'s' * (be == 'were')} {be} dropped here …")
            return
        buffer = exact_bytes()
        safe = self._filters[name]
        data = piece.data if safe is None else safe.feed(piece.data)
        if not data:
            return
        source = (name, piece.stream)
        if self._open is not None and not (piece.continues and self._open == source):
            self._end_line()
        if not self._width and not self._timestamps:
            buffer.write(data)
            self._open = None if data.endswith(b"\n") else source
        else:
            for line in _lines(data):
                if self._open is None:
                    buffer.write(self._prefix(name, piece.at))
                buffer.write(line)
                self._open = None if line.endswith(b"\n") else source
        if self._flush:
            buffer.flush()

    def note(self, text: str) -> None:
        """Write a line that is not output to standard error, at its place in the output."""
        if self._open is not None and sys.stderr.isatty() and sys.stdout.isatty():
            self._end_line()
        exact_bytes().flush()
        click.echo(printable(text), err=True)

    def _end_line(self) -> None:
        exact_bytes().write(b"\n")
        self._open = None

    def _prefix(self, name: str, at_ms: int) -> bytes:
        text = f"{name:<{self._width}} | " if self._width else ""
        if self._timestamps:
            text += time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(at_ms / 1000)) + f".{at_ms % 1000:03}Z "
        return text.encode()

    def end(self) -> None:
        """End an unfinished line on a terminal, and its colour, so that the shell's prompt starts on a new line."""
        for safe in self._filters.values():
            exact_bytes().write(safe.end() if safe is not None else b"")
        if self._open is not None and sys.stdout.isatty():
            self._end_line()


def _lines(data: bytes) -> Iterator[bytes]:
    """Split bytes after each line feed, and only there (``splitlines`` also splits elsewhere)."""
    start = 0
    while start < len(data):
        end = data.find(b"\n", start) + 1 or len(data)
        yield data[start:end]
        start = end


class _Line(NamedTuple):
    """What ``-o name`` prints of a piece."""

    name: str
    stream: str


def show_logs(
    app: App,
    names: Sequence[str],
    commands: Sequence[LogCommand],
    source: LogSource[LogCommand],
    out: Printer,
    *,
    follow: bool,
    timestamps: bool,
    raw: bool,
) -> int:
    """Show the output that the commands give, each that of one name; returns the exit code."""
    if out.output == "json" and follow:
        raise click.UsageError("-o json prints one document, and followed output has no end: use -o jsonl")
    if follow:
        gc.enable()  # main() disables it, but this verb may run for days
    if raw and not out.for_person:
        raise click.UsageError("--raw goes with the output as it is, not with -o")
    writer = _Writer(tuple(names), timestamps, follow or sys.stdout.isatty(), raw)
    results: list[Result[_Line]] = []
    sys.stdout.flush()
    try:
        pieces = follow_pieces(app, commands, source, writer.note) if follow else _kept(app, commands)
        for index, piece in pieces:
            if out.for_person:
                writer.write(names[index], piece)
                continue
            plain = {
                source.word: names[index],
                "at": piece.at,
                "stream": piece.stream.value,
                "text": piece.data.decode(errors="replace"),
                "continues": piece.continues,
                "dropped_bytes": piece.dropped_bytes,
                "cursor": piece.cursor,
            }
            result = made(_Line(names[index], piece.stream.value), plain)
            if out.output == "json":
                results.append(result)
            else:
                out.line(result, "", name=lambda line: line.stream)
    except KeyboardInterrupt:
        writer.end()
        return 130  # the usual end of following: no message
    except Unavailable as error:
        raise ConnectionLost(error.message) from None  # without the daemon's hint, which is for programs
    if out.output == "json":
        out.many(Results.of(results), (), name=lambda line: line.name, nothing="No output found.")
    writer.end()
    return 0


class LogQuery(NamedTuple):
    """Which output a line of nexusctl asks for, as the fields of the commands that read output.

    Without ``lines`` it is all that is kept, and without ``stream`` that of both streams.
    """

    lines: int | None
    since_at: int | None
    stream: LogStream | None
    follow: bool


def log_query(values: Values) -> LogQuery:
    """What the options of ``log_parameters`` ask for: on a terminal the last 100 lines, by default.

    Raises:
        UsageError: both streams are said to be the only one.
    """
    only_stdout, only_stderr = values.flag("only_stdout"), values.flag("only_stderr")
    if only_stdout and only_stderr:
        raise click.UsageError("--stdout and --stderr exclude each other: without them, both streams are shown")
    lines, since_at = values.number("lines"), values.number("since_at")
    if lines is None and since_at is None and sys.stdout.isatty():
        lines = _LINES_ON_TERMINAL
    stream = LogStream.STDOUT if only_stdout else LogStream.STDERR if only_stderr else None
    return LogQuery(None if lines == -1 else lines, since_at, stream, values.flag("follow"))


def log_parameters() -> list[click.Parameter]:
    """The options of a verb that shows output: those of ``log_query``, ``timestamps`` and ``raw``."""
    return [
        click.Option(["-f", "--follow"], is_flag=True, help="Follow new output."),
        click.Option(["-n", "--lines"], type=_line_count, metavar="N", help="Only the last N lines, or 'all'."),
        click.Option(
            ["--since", "since_at"],
            type=since,
            metavar="TIME",
            help="Only output since then: a time ago such as 5m, or a time in UTC.",
        ),
        click.Option(["--stdout", "only_stdout"], is_flag=True, help="Only standard output."),
        click.Option(["--stderr", "only_stderr"], is_flag=True, help="Only standard error."),
        click.Option(["-t", "--timestamps"], is_flag=True, help="Print each line's time before it."),
        click.Option(["--raw"], is_flag=True, help="Give a terminal the bytes as they are, control sequences too."),
    ]


def _kept(app: App, commands: Sequence[LogCommand]) -> Iterator[tuple[int, Piece]]:
    """Yield the kept pieces of all commands by time, each with the index of its command; parts of a line together."""
    client = app.connect()
    with ExitStack() as stack:
        streams = [stack.enter_context(client.stream(command)) for command in commands]

        def indexed(index: int, stream: Iterable[Piece]) -> Iterator[tuple[int, Piece]]:
            return ((index, piece) for piece in stream)

        indexed_streams = [indexed(index, stream) for index, stream in enumerate(streams)]
        yield from heapq.merge(*indexed_streams, key=lambda entry: -1 if entry[1].continues else entry[1].at)


def follow_pieces(
    app: App, commands: Sequence[LogCommand], source: LogSource[LogCommand], note: Callable[[str], None]
) -> Iterator[tuple[int, Piece]]:
    """Yield the pieces of all commands as they arrive, each with the index of its command, until all records are gone.

    When the daemon ends it waits for the next one, and continues after the last piece of each.
    """
    open_commands = dict(enumerate(commands))
    has_begun = is_told = False
    while open_commands:
        try:
            client = app.connect()
            end_with_reader(client)
            with ExitStack() as stack:
                indexes = list(open_commands)
                streams = [stack.enter_context(client.stream(open_commands[index])) for index in indexes]
                for place, piece in client.merge(streams):
                    index = indexes[place]
                    has_begun, is_told = True, False
                    if piece.data or piece.dropped_bytes:
                        yield index, piece
                    open_commands[index] = source.after(open_commands[index], piece.cursor)
            return
        except (source.gone, source.cursor_invalid) as error:
            about = error.details.get(source.word)
            concerned = [index for index, each in open_commands.items() if source.name(each) == about]
            if not (has_begun and concerned):
                raise
            for index in concerned:
                if isinstance(error, source.gone):
                    del open_commands[index]  # as when it is removed while the daemon runs
                    continue
                what = f'{source.word} "{source.name(open_commands[index])}"'
                note(f"… the output of {what} was deleted, and an unknown number of bytes with it …")
                open_commands[index] = source.from_now(commands[index])
        except (Unavailable, ConnectionFailure, DeadlineExceeded) as error:
            if not has_begun:
                raise
            app.close()
            if not is_told:
                note(f"{error.message[:1].upper()}{error.message[1:]}. Waiting for it to run again; Ctrl-C ends this.")
                is_told = True
            _wait_for_daemon(app)


def _wait_for_daemon(app: App) -> None:
    """Return once the daemon accepts a connection; raises BrokenPipeError once nothing reads standard output."""
    output = select.poll()
    with suppress(OSError):  # standard output is closed already
        output.register(sys.stdout.fileno(), 0)  # POLLERR and POLLHUP are reported without being asked for
    pause_ms = _FIRST_PAUSE_MS
    while True:
        if output.poll(pause_ms):
            raise BrokenPipeError
        pause_ms = min(2 * pause_ms, _LAST_PAUSE_MS)
        try:
            app.connect()
        except (Unavailable, ConnectionFailure, DeadlineExceeded, ResourceExhausted):
            app.close()
        else:
            return
