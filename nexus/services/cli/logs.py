"""``service logs``: the output of services, byte for byte for a pipe, safe for a terminal, as records for a program."""

from __future__ import annotations

import gc
import heapq
import select
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any

import click
from msgspec.structs import replace
from nexus_protocol.errors import DeadlineExceeded, ResourceExhausted, Unavailable

from nexus.cli.output import Printer, end_with_reader, exact_bytes, output_filter, printable
from nexus.cli.verbs import build_command, since, verb
from nexus.client.errors import ConnectionFailure, ConnectionLost
from nexus.services.commands import GetServiceStdout
from nexus.services.errors import ServiceCursorInvalid, ServiceNotFound
from nexus.services.records import LogPiece
from nexus.services.states import LogStream

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_logs"]

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


class _Writer:
    """Writes pieces of output to standard output, each line with its service and time where they are wanted.

    Without either the bytes are written unchanged, except that a line that will not be continued is ended before
    another one begins. A terminal without ``raw`` gets no command but colours.
    """

    def __init__(self, names: tuple[str, ...], timestamps: bool, flush: bool, raw: bool) -> None:
        self._filters = {name: output_filter(raw=raw) for name in names}
        self._width = max(map(len, names)) if len(names) > 1 else 0
        self._timestamps = timestamps
        self._flush = flush
        self._open: tuple[str, LogStream] | None = None
        """The service and the stream whose last line has no line feed yet."""

    def write(self, name: str, piece: LogPiece) -> None:
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
        """Write a line that is not output of a service to standard error, at its place in the output."""
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


def _logs(app: App, values: dict[str, Any], out: Printer) -> int:
    names: tuple[str, ...] = values.pop("names")
    follow = bool(values["follow"])
    timestamps, raw = values.pop("timestamps"), values.pop("raw")
    if out.output == "json" and follow:
        raise click.UsageError("-o json prints one document, and followed output has no end: use -o jsonl")
    commands = [build_command(GetServiceStdout, {**_request(values), "service": name}) for name in names]
    if follow:
        gc.enable()  # main() disables it, but this verb may run for days
    if raw and not out.for_person:
        raise click.UsageError("--raw goes with the output as it is, not with -o")
    writer = _Writer(names, timestamps, follow or sys.stdout.isatty(), raw)
    records: list[dict[str, Any]] = []
    sys.stdout.flush()
    try:
        pieces = _followed(app, commands, writer.note) if follow else _kept(app, commands)
        for index, piece in pieces:
            if out.for_person:
                writer.write(names[index], piece)
                continue
            record = {
                "service": names[index],
                "at": piece.at,
                "stream": piece.stream.value,
                "text": piece.data.decode(errors="replace"),
                "continues": piece.continues,
                "dropped_bytes": piece.dropped_bytes,
                "cursor": piece.cursor,
            }
            if out.output == "json":
                records.append(record)
            else:
                out.line(record, "", key="stream")
    except KeyboardInterrupt:
        writer.end()
        return 130  # the usual end of following: no message
    except Unavailable as error:
        raise ConnectionLost(error.message) from None  # without the daemon's hint, which is for programs
    if out.output == "json":
        out.many(records, (), key="service", nothing="No output found.")
    writer.end()
    return 0


def _request(values: dict[str, Any]) -> dict[str, Any]:
    """The fields of ``GetServiceStdout`` from the values of the command line."""
    lines, since = values["lines"], values["since_at"]
    if lines is None and since is None and sys.stdout.isatty():
        lines = _LINES_ON_TERMINAL
    if values["only_stdout"] and values["only_stderr"]:
        raise click.UsageError("--stdout and --stderr exclude each other: without them, both streams are shown")
    stream = "stdout" if values["only_stdout"] else "stderr" if values["only_stderr"] else None
    return {
        "lines": None if lines in (None, -1) else lines,
        "since_at": since,
        "stream": stream,
        "follow": True if values["follow"] else None,
        "mark_start": True if values["follow"] else None,
    }


def _kept(app: App, commands: Sequence[GetServiceStdout]) -> Iterator[tuple[int, LogPiece]]:
    """Yield the kept pieces of all services by time, each with the index of its service; parts of a line together."""
    client = app.connect()
    with ExitStack() as stack:
        streams = [stack.enter_context(client.stream(command)) for command in commands]

        def indexed(index: int, stream: Iterable[LogPiece]) -> Iterator[tuple[int, LogPiece]]:
            return ((index, piece) for piece in stream)

        indexed_streams = [indexed(index, stream) for index, stream in enumerate(streams)]
        yield from heapq.merge(*indexed_streams, key=lambda entry: -1 if entry[1].continues else entry[1].at)


def _followed(
    app: App, commands: Sequence[GetServiceStdout], note: Callable[[str], None]
) -> Iterator[tuple[int, LogPiece]]:
    """Yield the pieces of all services as they arrive, each with the index of its service, until all are removed.

    When the daemon ends it waits for the next one, and continues after the last piece of each service.
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
                    open_commands[index] = _continued(open_commands[index], piece.cursor)
            return
        except (ServiceNotFound, ServiceCursorInvalid) as error:
            concerned = [index for index, each in open_commands.items() if each.service == error.details.get("service")]
            if not (has_begun and concerned):
                raise
            for index in concerned:
                if isinstance(error, ServiceNotFound):
                    del open_commands[index]  # as when a service is removed while the daemon runs
                    continue
                service = open_commands[index].service
                note(f'… the output of service "{service}" was deleted, and an unknown number of bytes with it …')
                open_commands[index] = GetServiceStdout(
                    service=service, stream=commands[index].stream, follow=True, mark_start=True
                )
        except (Unavailable, ConnectionFailure, DeadlineExceeded) as error:
            if not has_begun:
                raise
            app.close()
            if not is_told:
                note(f"{error.message[:1].upper()}{error.message[1:]}. Waiting for it to run again; Ctrl-C ends this.")
                is_told = True
            _wait_for_daemon(app)


def _continued(command: GetServiceStdout, cursor: str) -> GetServiceStdout:
    """The command that continues after a cursor."""
    return replace(command, cursor=cursor, lines=None, since_at=None, mark_start=False)


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
    from nexus.cli.verbs import shell_complete

    parameters: list[click.Parameter] = [
        click.Argument(["names"], metavar="NAME...", nargs=-1, required=True, shell_complete=shell_complete("service")),
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
    exclude = ("service", "lines", "since_at", "stream", "follow", "cursor", "mark_start")
    return verb(GetServiceStdout, _logs, parameters=parameters, exclude=exclude, help=_LOGS_HELP)
