"""The process runtime: starts child processes that outlive the daemon, keeps their logs and reports how they exited.

It knows no service, machine or job, and nothing of the wire. Beside it are what else needs the operating system:
``command`` for programs that do not outlive the daemon, ``procfs``, ``ports``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus.runtime.logs import CursorGone, Log, LogCursor, LogPiece
    from nexus.runtime.orphans import Orphans
    from nexus.runtime.process import Process
    from nexus.runtime.runtime import Runtime
    from nexus.runtime.spec import (
        Exit,
        LimitUnavailable,
        ProcessSpec,
        RunHeld,
        RuntimeFailure,
        RunUnreadable,
        StartFailed,
    )
    from nexus.runtime.tree import Usage

__all__ = [
    "CursorGone",
    "Exit",
    "LimitUnavailable",
    "Log",
    "LogCursor",
    "LogPiece",
    "Orphans",
    "Process",
    "ProcessSpec",
    "RunHeld",
    "RunUnreadable",
    "Runtime",
    "RuntimeFailure",
    "StartFailed",
    "Usage",
]

_MODULES = {
    "CursorGone": "logs",
    "Exit": "spec",
    "LimitUnavailable": "spec",
    "Log": "logs",
    "LogCursor": "logs",
    "LogPiece": "logs",
    "Orphans": "orphans",
    "Process": "process",
    "ProcessSpec": "spec",
    "RunHeld": "spec",
    "RunUnreadable": "spec",
    "Runtime": "runtime",
    "RuntimeFailure": "spec",
    "StartFailed": "spec",
    "Usage": "tree",
}


def __getattr__(name: str) -> Any:
    # nexusctl uses ``nexus.runtime.procfs``, and must not wait for the import of asyncio.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
