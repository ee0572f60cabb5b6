"""The daemon's log: one line for each event on standard error, with the level in the form that journald reads.

A daemon that was started without a service manager writes the same lines to a file of bounded size.
"""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import sys
import time
import traceback
from pathlib import Path

from nexus.daemon.systemd import under_journald
from nexus.terminal import printable

__all__ = ["set_level", "setup"]

MAX_LOG_BYTES = 5 * 1024 * 1024
"""Of one log file. The previous one is kept beside it as ``.1``."""

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _LineFormatter(logging.Formatter):
    """One line for each record, including its traceback."""

    def __init__(self, journald: bool) -> None:
        super().__init__()
        self._journald = journald

    def format(self, record: logging.LogRecord) -> str:
        text = record.getMessage()
        if record.exc_info and record.exc_info[0] is not None:
            text += " | " + _one_line(record.exc_info[1])
        text = printable(text.replace("\n", "\\n").replace("\r", "\\r"))
        name = record.name.removeprefix("nexus.")
        if self._journald:
            return f"<{_PRIORITIES.get(record.levelno, 6)}>{name}: {text}"
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        return f"{moment}.{int(record.msecs):03d}Z {record.levelname.lower():<7} {name}: {text}"


def _one_line(error: BaseException | None) -> str:
    """An exception and its causes with their frames, innermost frame last, on one line."""
    parts = []
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames)
        parts.append(f"{type(error).__name__}: {error} [{where}]")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return " <- ".join(parts)


class _BoundedFile(logging.Handler):
    """Writes to a file that also receives the process's standard error, and starts a new one when it is full."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._open()

    def _open(self) -> None:
        fd = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        # The interpreter's own messages at a crash belong there as well.
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        os.close(fd)

    def emit(self, record: logging.LogRecord) -> None:
        self._follow_path()
        with contextlib.suppress(OSError):  # a full disk loses lines and does not stop the daemon
            os.write(2, (self.format(record) + "\n").encode("utf-8", "backslashreplace"))
            size = os.fstat(2).st_size
            if size > MAX_LOG_BYTES:
                with contextlib.suppress(FileNotFoundError):  # it was removed
                    self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()

    def _follow_path(self) -> None:
        """Start a new file if the present one was removed or renamed, as log rotation does."""
        with contextlib.suppress(OSError):  # its folder may be gone as well: then the old file still gets the lines
            try:
                there = self._path.stat()
            except FileNotFoundError:
                pass
            else:
                # Only a regular file is opened: opening a pipe would block until it has a reader.
                if os.path.samestat(there, os.fstat(2)) or not stat.S_ISREG(there.st_mode):
                    return
            self._open()


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """Standard error. If writing to it fails the line is lost and the daemon continues."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


def setup(level: str, log_file: Path | None) -> None:
    """Send all logs of the process to standard error, or to ``log_file``.

    Raises:
        OSError: the file cannot be opened.
    """
    handler: logging.Handler = _BoundedFile(log_file) if log_file else _StandardError(sys.stderr)
    handler.setFormatter(_LineFormatter(journald=log_file is None and under_journald()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    set_level(level)
    logging.raiseExceptions = False
    logging.captureWarnings(True)


def set_level(level: str) -> None:
    """Log records of this level and above: debug, info, warning or error."""
    logging.getLogger().setLevel(level.upper())
    # asyncio's own debug lines say nothing about the daemon.
    logging.getLogger("asyncio").setLevel(max(logging.WARNING, logging.getLogger().level))
