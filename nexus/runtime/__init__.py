"""The process runtime: starts child processes that outlive the daemon, keeps their logs and reports how they exited.

It knows no service, machine or job, and nothing of the wire. Beside it are what else needs the operating system:
``command`` for programs that do not outlive the daemon, ``procfs``, ``ports``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus.runtime.attachment import Attachment
    from nexus.runtime.logs import CursorGone, Log, LogCursor, LogPiece
    from nexus.runtime.orphans import Orphans
    from nexus.runtime.process import Process
    from nexus.runtime.runtime import Runtime
    from nexus.runtime.spec import (
        AttachFailed,
        AttachmentLost,
        Exit,
        InputClosed,
        LimitUnavailable,
        NotAttachable,
        ProcessSpec,
        RunEnded,
        RunHeld,
        RuntimeFailure,
        RunUnreadable,
        StartFailed,
        TooManyAttached,
    )
    from nexus.runtime.tree import Usage
    from nexus.runtime.watched import Trouble, Watched

__all__ = [
    "AttachFailed",
    "Attachment",
    "AttachmentLost",
    "CursorGone",
    "Exit",
    "InputClosed",
    "LimitUnavailable",
    "Log",
    "LogCursor",
    "LogPiece",
    "NotAttachable",
    "Orphans",
    "Process",
    "ProcessSpec",
    "RunEnded",
    "RunHeld",
    "RunUnreadable",
    "Runtime",
    "RuntimeFailure",
    "StartFailed",
    "TooManyAttached",
    "Trouble",
    "Usage",
    "Watched",
]

_MODULES = {
    "AttachFailed": "spec",
    "Attachment": "attachment",
    "AttachmentLost": "spec",
    "CursorGone": "logs",
    "Exit": "spec",
    "InputClosed": "spec",
    "LimitUnavailable": "spec",
    "Log": "logs",
    "LogCursor": "logs",
    "LogPiece": "logs",
    "NotAttachable": "spec",
    "Orphans": "orphans",
    "Process": "process",
    "ProcessSpec": "spec",
    "RunEnded": "spec",
    "RunHeld": "spec",
    "RunUnreadable": "spec",
    "Runtime": "runtime",
    "RuntimeFailure": "spec",
    "StartFailed": "spec",
    "TooManyAttached": "spec",
    "Trouble": "watched",
    "Usage": "tree",
    "Watched": "watched",
}


def __getattr__(name: str) -> Any:
    # nexusctl uses ``nexus.runtime.procfs``, and must not wait for the import of asyncio.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value
