"""The process runtime: starts child processes that outlive the daemon, keeps their logs and reports how they exited.

It knows no service, machine or job, and nothing of the wire.
"""

from nexus.runtime.logs import Log, LogPiece
from nexus.runtime.orphans import Orphans
from nexus.runtime.process import Process
from nexus.runtime.runtime import Runtime
from nexus.runtime.spec import Exit, LimitUnavailable, ProcessSpec, RunHeld, RuntimeFailure, StartFailed
from nexus.runtime.tree import Usage

__all__ = [
    "Exit",
    "LimitUnavailable",
    "Log",
    "LogPiece",
    "Process",
    "ProcessSpec",
    "Orphans",
    "RunHeld",
    "Runtime",
    "RuntimeFailure",
    "StartFailed",
    "Usage",
]
