"""Finds the process of a daemon that does not answer, by the files it holds open, and says what is wrong with it.

It sends nothing to the daemon and only reads the lock files: taking a lock, even briefly, would make a daemon that
starts at that moment give up.
"""

from __future__ import annotations

import os
from pathlib import Path

from nexus_protocol.errors import DeadlineExceeded, FailedPrecondition

from nexus.cli.systemd import start_hint
from nexus.hints import command_line
from nexus.locks import holder
from nexus.runtime.procfs import has_socket

__all__ = ["NoAnswer", "SocketGone", "find_daemon_pid", "has_socket"]


class NoAnswer(DeadlineExceeded):
    """The daemon runs and its socket accepts connections, but it does not reply."""

    def __init__(self, pid: int | None) -> None:
        super().__init__(
            f"cannot get an answer: the daemon (pid {pid or 'unknown'}) accepts connections but does not answer",
            hint=f"To kill it: {command_line('kill', '-9', pid or 'PID')}\nThen: {start_hint()}",
        )


class SocketGone(FailedPrecondition):
    """The daemon runs, but its socket file was removed, so that no client can connect."""

    def __init__(self, pid: int) -> None:
        super().__init__(
            f"a daemon runs (pid {pid}), but its socket is gone",
            hint="Restart it: nexusctl daemon stop; nexusctl daemon start",
        )


def find_daemon_pid(socket_path: Path, database_path: Path) -> int | None:
    """The process of the daemon that listens at ``socket_path``, whether or not the socket file still exists."""
    pid = holder(socket_path.with_name(socket_path.name + ".lock"))
    if pid is not None:
        return pid
    # The socket's lock file is gone too if its directory was removed. The database's lock file is still there, but the
    # daemon that holds it may listen at another socket.
    database = Path(os.path.realpath(database_path))
    pid = holder(database.with_name(database.name + ".lock"))
    return pid if pid is not None and has_socket(pid, socket_path) else None
