"""What records of processes share: the types of commands, environments and signals, and the pieces of output."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import SECRET, UNRECORDED, Record, WireEnum
from nexus_protocol.errors import FailedPrecondition, Unavailable

__all__ = [
    "Argv",
    "AttachmentLost",
    "Columns",
    "Environment",
    "InputData",
    "InputUnavailable",
    "LogEnd",
    "LogPiece",
    "LogStream",
    "Path",
    "Rows",
    "RunCommand",
    "Shell",
    "StopSignal",
    "TerminalEnd",
    "TerminalOutput",
    "Text",
    "VariableName",
]

_NO_NUL = r"^[^\x00]*$"
_ABSOLUTE = r"^/[^\x00]*$"

Text = Annotated[str, Meta(max_length=4096, pattern=_NO_NUL)]
Path = Annotated[str, Meta(min_length=1, max_length=4096, pattern=_ABSOLUTE)]
Shell = Annotated[str, Meta(min_length=1, max_length=16_384, pattern=_NO_NUL)]
Argv = Annotated[list[Annotated[str, Meta(max_length=16_384, pattern=_NO_NUL)]], Meta(min_length=1, max_length=256)]
RunCommand = Annotated[Shell | Argv, UNRECORDED]
"""A string for ``/bin/sh -c``, or the words of a command that is run without a shell."""
VariableName = Annotated[str, Meta(min_length=1, max_length=256, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$(?!\n)")]
Environment = Annotated[
    dict[VariableName, Annotated[str, Meta(max_length=32_768, pattern=_NO_NUL)]],
    Meta(max_length=500),
    SECRET,
]


class LogStream(WireEnum):
    """The stream that a piece of output was written to."""

    STDOUT = "stdout"
    STDERR = "stderr"


class StopSignal(WireEnum):
    """The signals that can stop a process."""

    SIGTERM = "SIGTERM"
    SIGINT = "SIGINT"
    SIGQUIT = "SIGQUIT"
    SIGHUP = "SIGHUP"
    SIGUSR1 = "SIGUSR1"
    SIGUSR2 = "SIGUSR2"
    SIGWINCH = "SIGWINCH"
    SIGKILL = "SIGKILL"


class LogPiece(Record):
    """A piece of one stream's output: whole lines, or a part of a line, or a gap.

    A line is given in parts if it is longer than 64 KiB, if it was unfinished for 100 ms while it was followed, or at
    the end of the output that was asked for. A part is the last of its line if the next piece of the stream has no
    ``continues``: the run ended, or a gap follows. After a gap the end of a line over 256 KiB may follow.
    """

    at: int
    """When its first byte was received."""
    stream: LogStream
    data: bytes
    cursor: str
    """The place after this piece."""
    continues: bool = False
    """Whether it continues the line that the stream's piece before left unfinished."""
    dropped_bytes: int = 0
    """In a gap, which has no data: how many bytes of the stream are missing here. They were deleted before they were
    read, the disk had no space for them, or they are the rest of lines that this cut, at most 256 KiB of each."""


class LogEnd(Record):
    """The end of the requested output."""


# Terminals and standard input


Rows = Annotated[int, Meta(ge=1, le=10_000, description="the height of the client's terminal", extra={"option": None})]
Columns = Annotated[
    int, Meta(ge=1, le=10_000, description="the width of the client's terminal", extra={"option": None})
]
InputData = Annotated[bytes, Meta(max_length=256 * 1024), SECRET]


class TerminalOutput(Record):
    """Output of what a client is attached to. The first item has no data, and tells whether there is a terminal."""

    data: bytes = b""
    stream: LogStream = LogStream.STDOUT
    """Standard error only where there is no terminal."""
    terminal: bool | None = None


class TerminalEnd(Record):
    """The program that a client was attached to has ended."""


class InputUnavailable(FailedPrecondition):
    """The program has neither a terminal nor an open standard input, has closed it, or does not run."""

    type = "input.unavailable"


class AttachmentLost(Unavailable):
    """The client was dropped because it did not read, too many are attached, or the program's supervisor was killed."""

    type = "input.attachment_lost"
