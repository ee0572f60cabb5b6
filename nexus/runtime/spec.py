"""The runtime's value types: the spec of a process, its exit, and the errors. It knows no file and no process."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from nexus_protocol.errors import ReportedError

__all__ = [
    "AttachFailed",
    "AttachmentLost",
    "Exit",
    "InputClosed",
    "LimitUnavailable",
    "NotAttachable",
    "ProcessSpec",
    "RunEnded",
    "RunHeld",
    "RunUnreadable",
    "RuntimeFailure",
    "StartFailed",
    "TooManyAttached",
]

MIN_LOG_BYTES = 64 * 1024

NEVER_PASSED = frozenset(
    {
        "FDSTORE",
        "INVOCATION_ID",
        "JOURNAL_STREAM",
        "LISTEN_FDNAMES",
        "LISTEN_FDS",
        "LISTEN_PID",
        "MAINPID",
        "MANAGERPID",
        "NOTIFY_SOCKET",
        "SYSTEMD_EXEC_PID",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    }
)
"""Variables that the service manager sets for the daemon; a child that inherited them could notify in its name."""


@dataclass(frozen=True)
class ProcessSpec:
    """A program, its arguments, environment and limits; a child inherits nothing else from the daemon.

    ``environment`` is the whole environment, from which the variables in ``NEVER_PASSED`` are removed. Neither it nor
    the arguments are in ``repr``: both may hold secrets. ``argv[0]`` without a slash is looked up in the environment's
    own ``PATH``. ``log_bytes`` bounds the owner's log over all its runs. ``cpu_percent`` 100 is one core.
    ``umask`` None is that of the session which started the daemon. With ``stdin`` "open", ``Runtime.attach`` writes to
    the program's standard input; "null" is /dev/null, or the descriptor that ``Runtime.start`` is given. With
    ``terminal`` a pseudo-terminal is its standard input, output and error, and ``stdin`` says nothing; the variable
    ``TERM`` is the caller's matter.

    Raises:
        ValueError: a value is out of range or malformed.
    """

    argv: tuple[str, ...] = field(repr=False)
    directory: str
    environment: Mapping[str, str] = field(repr=False)
    stop_signal: int = signal.SIGTERM
    stop_grace_ms: int = 10_000
    log_bytes: int = 16 * 1024 * 1024
    memory_bytes: int | None = None
    cpu_percent: int | None = None
    umask: int | None = None
    terminal: bool = False
    stdin: Literal["null", "open"] = "null"

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise ValueError("argv must start with the name of a program")
        if not self.directory.startswith("/"):
            raise ValueError("the directory must be an absolute path")
        if any("\0" in text for text in (self.directory, *self.argv, *self.environment, *self.environment.values())):
            raise ValueError("the directory, arguments and variables must not contain NUL characters")
        if any(not name or "=" in name for name in self.environment):
            raise ValueError("the name of a variable must not be empty or contain =")
        if not 1 <= self.stop_signal <= 64:
            raise ValueError("the stop signal must be a number from 1 to 64")
        if self.stop_grace_ms < 0 or self.log_bytes < MIN_LOG_BYTES:
            raise ValueError(f"the grace time must not be negative, and the log at least {MIN_LOG_BYTES} bytes")
        if any(limit is not None and limit <= 0 for limit in (self.memory_bytes, self.cpu_percent)):
            raise ValueError("a limit must be positive")
        if self.umask is not None and not 0 <= self.umask <= 0o777:
            raise ValueError("the umask must be from 0 to 0o777")
        if self.stdin not in ("null", "open"):
            raise ValueError('stdin must be "null" or "open"')

    @property
    def program(self) -> str:
        """The program's name, the only argument that messages and logs may show."""
        return self.argv[0]

    @property
    def attachable(self) -> bool:
        """Whether the program has a terminal or an open standard input, to which clients can be attached."""
        return self.terminal or self.stdin == "open"

    @property
    def limited(self) -> bool:
        """Whether the spec has a memory or CPU limit, so that it may only run where limits can be enforced."""
        return self.memory_bytes is not None or self.cpu_percent is not None


class Exit(NamedTuple):
    """How a main process ended.

    ``code`` is the exit code or the number of the signal, ``core`` whether it left a core dump, ``at`` when, in ms.
    ``lost`` means that the exit status is unknown; ``reason`` says why: the shim was killed, or the machine was
    restarted. For a signal, ``reason`` says that the process was over its memory limit, if the daemon watched it then.
    """

    kind: Literal["exit", "signal", "lost"]
    code: int
    core: bool
    at: int
    reason: str = ""
    rebooted: bool = False
    """Whether its host was restarted since it began; told of other hosts than the daemon's alone."""


class RuntimeFailure(ReportedError):
    """An error that a user can correct: ``message`` is one sentence, ``hint`` says what to do.

    ::

        RuntimeFailure
        ├── StartFailed         the program could not be started; errno says why
        ├── LimitUnavailable    a limit cannot be enforced here
        ├── RunHeld             the run whose files are to be deleted is still running
        ├── RunUnreadable       a shim runs, and what it wrote cannot be understood
        └── AttachFailed        a client cannot be attached to a run, or is no longer
            ├── NotAttachable   the run has no terminal and no open standard input
            ├── RunEnded        the run has ended
            ├── TooManyAttached as many clients as there may be are attached to it
            ├── InputClosed     its standard input is closed
            └── AttachmentLost  the client did not read its output, or the shim was killed
    """


class StartFailed(RuntimeFailure):
    """The program could not be started.


    ``errno`` is the system call's error, 0 where no call failed. ``step`` is the step that failed: ``chdir``, ``exec``,
    ``shim`` or ``files``. ``reason`` is the message without the program's name.
    """

    def __init__(self, program: str, reason: str, errno: int = 0, hint: str | None = None, *, step: str = "") -> None:
        super().__init__(f"cannot start {program}: {reason}", hint)
        self.program = program
        self.reason = reason
        self.errno = errno
        self.step = step


class LimitUnavailable(RuntimeFailure):
    """A memory or CPU limit cannot be enforced here."""


class AttachFailed(RuntimeFailure):
    """A client cannot be attached to a run, or is no longer."""


class NotAttachable(AttachFailed):
    """The run has no terminal and no open standard input."""


class RunEnded(AttachFailed):
    """The run has ended, or never started."""


class TooManyAttached(AttachFailed):
    """As many clients as there may be are attached to the run."""


class InputClosed(AttachFailed):
    """The program has closed its standard input, or a client has."""


class AttachmentLost(AttachFailed):
    """The client did not read its output in time, or the shim was killed."""


class RunHeld(RuntimeFailure):
    """The files to be deleted belong to a run whose shim is still running."""


class RunUnreadable(RuntimeFailure):
    """The lock of the run is held, so its shim runs, but its status file does not say which process it is."""
