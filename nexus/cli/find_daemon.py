"""Who is there when nobody answers: the daemon's process, found by what it holds open, without a word to it.

The lock files are only read here. A lock taken for a look would make a daemon that starts at that moment give up.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from nexus_protocol.errors import DeadlineExceeded, FailedPrecondition, NexusError

from nexus.cli.app import ANSWER_WITHIN_S, start_hint
from nexus.locks import holder
from nexus.runtime.procfs import has_socket

__all__ = ["NoAnswer", "SocketGone", "daemon_database", "daemon_pid", "has_socket"]


class NoAnswer(DeadlineExceeded):
    """The daemon is there, and says nothing."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(
            f"cannot get an answer: the daemon (pid {pid or 'unknown'}) accepts connections but does not answer",
            hint=f"To end it the hard way: kill -9 {pid or 'PID'}; then: {start_hint()}",
        )


class SocketGone(FailedPrecondition):
    """The daemon is there, and nobody can connect to it any more."""

    def __init__(self, pid: int) -> None:
        super().__init__(
            f"a daemon runs (pid {pid}), but its socket is gone",
            hint="Start it anew: nexusctl daemon stop; nexusctl daemon start",
        )


def daemon_pid(app: Any) -> int | None:
    """The process of the daemon whose socket is meant, whether or not the socket file is still there."""
    path: Path = app.socket_path()
    pid = holder(path.with_name(path.name + ".lock"))
    if pid is not None:
        return pid
    # With its folder the socket's lock is gone as well. The database's is not, but may be that of another daemon.
    database = Path(os.path.realpath(app.database_path()))
    pid = holder(database.with_name(database.name + ".lock"))
    return pid if pid is not None and has_socket(pid, path) else None


def daemon_database(app: Any) -> Path | None:
    """The database that the running daemon uses, by its own word; None where nobody can be asked."""
    from nexus.client.errors import ConnectionFailure
    from nexus.system.commands import Health

    if daemon_pid(app) is None:
        return None  # not by a connection: that could start one
    app.limit(ANSWER_WITHIN_S)
    try:
        database = app.call_raw(Health()).get("database")
    except (ConnectionFailure, NexusError):
        return None
    return Path(database["path"]) if database else None
