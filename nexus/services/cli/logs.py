"""``service logs``: the output of services, byte for byte for a pipe, safe for a terminal, as records for a program."""

from __future__ import annotations

import gc
import heapq
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click
from nexus_protocol.errors import Unavailable

from nexus.cli.output import Printer, end_with_reader, exact_bytes, hint, output_filter
from nexus.cli.verbs import build_command, parse_duration, verb
from nexus.client.errors import ConnectionLost
from nexus.hints import command_line
from nexus.services.commands import GetServiceStdout
from nexus.services.records import LogPiece

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["make_logs", "parse_since"]

_LINES_ON_TERMINAL = 100
"""The default of ``--lines`` on a terminal."""


def _since(text: str) -> int:
    try:
        return parse_since(text, int(time.time() * 1000))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def parse_since(text: str, now_ms: int) -> int:
    """Parse a time to ms since 1970: ``5m`` ago, or a time as nexusctl prints it (UTC unless it names a zone).

    Raises:
        ValueError: the text is neither; the message is for a person.
    """
    try:
        return max(0, now_ms - parse_duration(text))
    except ValueError:
        pass
    from datetime import UTC, datetime

    try:
        at = datetime.fromisoformat(text.removesuffix(" UTC"))
    except ValueError:
        raise ValueError(f"{text!r} is neither a time ago such as 5m nor a time such as 2026-01-31T09:30:00") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    return max(0, int(at.timestamp() * 1000))


def _line_count(text: str) -> int:
    """Parse a number of lines; ``all`` is -1."""
    if text == "all":
        return -1
    if not (text.isascii() and text.isdecimal()) or int(text) > 10_000_000:
        raise click.BadParameter(f"{text!r} is neither a number of lines, 0 to 10000000, nor 'all'")
    return int(text)


class _Writer:
    """Writes pieces of output to standard output, each line with its service and time where they are wanted.

    Without either the bytes are written unchanged, but to a terminal without ``raw``: it gets no command but colours.
    """

    def __init__(self, names: tuple[str, ...], timestamps: bool, flush: bool, raw: bool) -> None:
        self._filters = {name: output_filter(raw=raw) for name in names}
        self._width = max(map(len, names)) if len(names) > 1 else 0
        self._timestamps = timestamps
        self._flush = flush
        self._open: str | None = None
        """The service whose last line has no line feed yet."""

    def write(self, name: str, piece: LogPiece) -> None:
        buffer = exact_bytes()
        safe = self._filters[name]
        data = piece.data if safe is None else safe.feed(piece.data)
        if not data:
            return
        if not self._width and not self._timestamps:
            buffer.write(data)
            self._open = None if data.endswith(b"\n") else name
        else:
            for line in _lines(data):
                if self._open not in (None, name):
                    buffer.write(b"\n")
                    self._open = None
                if self._open is None:
                    buffer.write(self._prefix(name, piece.at))
                buffer.write(line)
                self._open = None if line.endswith(b"\n") else name
        if self._flush:
            buffer.flush()

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
            exact_bytes().write(b"\n")


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
        end_with_reader(app.connect())
    if raw and not out.for_person:
        raise click.UsageError("--raw goes with the output as it is, not with -o")
    writer = _Writer(names, timestamps, follow or sys.stdout.isatty(), raw)
    records: list[dict[str, Any]] = []
    sys.stdout.flush()
    try:
        for index, piece in _pieces(app, commands, follow):
            if out.for_person:
                writer.write(names[index], piece)
                continue
            record = {
                "service": names[index],
                "at": piece.at,
                "stream": piece.stream.value,
                "text": piece.data.decode(errors="replace"),
            }
            if out.output == "json":
                records.append(record)
            else:
                out.line(record, "", key="stream")
    except KeyboardInterrupt:
        writer.end()
        return 130  # the usual end of following: no message
    except (Unavailable, ConnectionLost) as error:
        if follow:
            hint(f"Continue from here: {command_line('nexusctl', 'service', 'logs', *names, '-f', '--lines', '0')}")
        if isinstance(error, Unavailable):
            raise ConnectionLost(error.message) from None  # without the daemon's hint: the one above replaces it
        raise
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
    }


def _pieces(app: App, commands: Sequence[GetServiceStdout], follow: bool) -> Iterator[tuple[int, LogPiece]]:
    """Yield the pieces of all services, each with the index of its service: by time, or if followed, as they arrive."""
    from contextlib import ExitStack

    client = app.connect()
    with ExitStack() as stack:
        streams = [stack.enter_context(client.stream(command)) for command in commands]
        if follow:
            yield from client.merge(streams)
        else:

            def indexed(index: int, stream: Iterable[LogPiece]) -> Iterator[tuple[int, LogPiece]]:
                return ((index, piece) for piece in stream)

            indexed_streams = [indexed(index, stream) for index, stream in enumerate(streams)]
            yield from heapq.merge(*indexed_streams, key=lambda entry: entry[1].at)


_LOGS_HELP = """Show the output of services, standard output and standard error together.

A pipe or a file gets it byte for byte. On a terminal, control characters and sequences other than colours are shown as
U+FFFD, unless --raw is given.

By default it shows the last 100 lines on a terminal, and everything that is kept elsewhere. The lines of several
services begin with the service's name. With -f it follows new output, also across restarts, until Ctrl-C.

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
            type=_since,
            metavar="TIME",
            help="Only output since then: a time ago such as 5m, or a time in UTC.",
        ),
        click.Option(["--stdout", "only_stdout"], is_flag=True, help="Only standard output."),
        click.Option(["--stderr", "only_stderr"], is_flag=True, help="Only standard error."),
        click.Option(["-t", "--timestamps"], is_flag=True, help="Print each line's time before it."),
        click.Option(["--raw"], is_flag=True, help="Give a terminal the bytes as they are, control sequences too."),
    ]
    exclude = ("service", "lines", "since_at", "stream", "follow")
    return verb(GetServiceStdout, _logs, parameters=parameters, exclude=exclude, help=_LOGS_HELP)
