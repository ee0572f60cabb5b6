"""What can be started, how it can end, and what can be wrong with it. It knows no file and no process."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from nexus_protocol.errors import ReportedError

__all__ = ["Exit", "LimitUnavailable", "ProcessSpec", "RunHeld", "RuntimeFailure", "StartFailed"]

LEAST_LOG_BYTES = 64 * 1024

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
"""Variables by which a service manager speaks to the daemon; a child that had them would answer in its name."""


@dataclass(frozen=True)
class ProcessSpec:
    """A program and what it runs with; nothing else comes from the daemon.

    ``environment`` is exact, without what a service manager means for the daemon (``NOTIFY_SOCKET`` and its kin).
    Neither it nor the arguments are in ``repr``: both may hold secrets. ``argv[0]`` without a slash is looked for in
    the environment's own ``PATH``. ``log_bytes`` bounds the log of the owner over all its runs. ``cpu_percent`` 100 is
    one core.

    Raises:
        ValueError: a value that cannot be meant.
    """

    argv: tuple[str, ...] = field(repr=False)
    directory: str
    environment: Mapping[str, str] = field(repr=False)
    stop_signal: int = signal.SIGTERM
    stop_grace_ms: int = 10_000
    log_bytes: int = 16 * 1024 * 1024
    memory_bytes: int | None = None
    cpu_percent: int | None = None

    def __post_init__(self) -> None:
        if not self.argv or not self.argv[0]:
            raise ValueError("a program has a name")
        if not self.directory.startswith("/"):
            raise ValueError("the directory is an absolute path")
        if any("\0" in text for text in (self.directory, *self.argv, *self.environment, *self.environment.values())):
            raise ValueError("no text of a program holds a zero character")
        if any(not name or "=" in name for name in self.environment):
            raise ValueError("the name of a variable is not empty and holds no =")
        if not 1 <= self.stop_signal <= 64:
            raise ValueError("there is no such signal")
        if self.stop_grace_ms < 0 or self.log_bytes < LEAST_LOG_BYTES:
            raise ValueError(f"a grace time is not negative, and a log takes at least {LEAST_LOG_BYTES} bytes")
        if any(limit is not None and limit <= 0 for limit in (self.memory_bytes, self.cpu_percent)):
            raise ValueError("a limit is positive")

    @property
    def program(self) -> str:
        """The program's name, which alone of the arguments may be shown."""
        return self.argv[0]

    @property
    def limited(self) -> bool:
        """Whether it may only run where limits can be enforced."""
        return self.memory_bytes is not None or self.cpu_percent is not None


class Exit(NamedTuple):
    """How a main process ended.

    ``code`` is the exit code or the number of the signal, ``core`` whether it left a core dump, ``at`` when, in ms.
    ``lost`` means that nobody knows, and ``reason`` why: the shim was killed, or the machine was restarted. Of a signal
    ``reason`` says what is known beside it: that the process was over its memory limit, where somebody watched.
    """

    kind: Literal["exit", "signal", "lost"]
    code: int
    core: bool
    at: int
    reason: str = ""


class RuntimeFailure(ReportedError):
    """Something that a person can mend: ``message`` is one sentence, ``hint`` says what to do.

    ::

        RuntimeFailure
        ├── StartFailed         the program could not be started; errno says why
        ├── LimitUnavailable    a limit that cannot be enforced here
        └── RunHeld             it still runs
    """

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class StartFailed(RuntimeFailure):
    """The program could not be started; ``errno`` is the kernel's reason, 0 where it had none."""

    def __init__(self, message: str, errno: int = 0, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.errno = errno


class LimitUnavailable(RuntimeFailure):
    """A limit of memory or CPU time cannot be enforced here."""


class RunHeld(RuntimeFailure):
    """What is to be removed still belongs to a running shim."""
