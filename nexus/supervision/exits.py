"""What follows from how a process ended, as pure rules and in words. It knows no record and no store."""

from __future__ import annotations

import signal
from typing import Any

from nexus.runtime import Exit
from nexus.runtime.status import now_ms

__all__ = [
    "accepts_exit",
    "describe_exit",
    "exit_columns",
    "exit_detail",
    "lost",
    "may_end_with_machine",
]

_SHUT_DOWN_SIGNALS = (signal.SIGTERM, signal.SIGKILL, signal.SIGHUP)
_SHUT_DOWN_CODES = tuple(128 + number for number in _SHUT_DOWN_SIGNALS)
"""Exit codes 128+n of programs that handle the signal."""


def lost(reason: str) -> Exit:
    """The end of a run that was not observed; it counts as of now."""
    return Exit("lost", 0, False, now_ms(), reason)


def describe_exit(exit_: Exit) -> str:
    """``exited with 3``, ``killed by SIGSEGV (core dumped)``, or why the end was not observed."""
    if exit_.kind == "exit":
        return f"exited with {exit_.code}"
    if exit_.kind == "signal":
        try:
            name = signal.Signals(exit_.code).name
        except ValueError:
            name = f"signal {exit_.code}"
        remarks = [word for word in ("core dumped" * exit_.core, exit_.reason) if word]
        return f"killed by {name}" + (f" ({', '.join(remarks)})" if remarks else "")
    return exit_.reason or "its end was not observed"


def exit_columns(exit_: Exit) -> dict[str, Any]:
    """The columns of a record that hold an exit."""
    return {
        "exit_code": exit_.code if exit_.kind == "exit" else None,
        "exit_signal": exit_.code if exit_.kind == "signal" else None,
        "stopped_at": exit_.at,
    }


def exit_detail(exit_: Exit) -> dict[str, Any]:
    """The fields of an event or an error that hold an exit."""
    if exit_.kind == "exit":
        return {"exit_code": exit_.code}
    return {"exit_signal": exit_.code} if exit_.kind == "signal" else {}


def accepts_exit(exit_: Exit) -> bool:
    """Whether the program ended as one that has done its work: with exit code 0."""
    return exit_.kind == "exit" and exit_.code == 0


def may_end_with_machine(exit_: Exit) -> bool:
    """Whether the shutdown of the machine may have ended the program like this."""
    if exit_.kind == "exit":
        return exit_.code in _SHUT_DOWN_CODES
    return exit_.kind == "lost" or exit_.code in _SHUT_DOWN_SIGNALS
