"""What can go wrong with the connection itself, apart from what the daemon answers.

ConnectionFailure (ConnectionError)
├── ConnectError       there is no daemon at the socket, or it does not let us in
└── ConnectionLost     it was there, and the connection ended before the answer
Interrupted (KeyboardInterrupt)
"""

from __future__ import annotations

from nexus_protocol import InvalidArgument, NexusError

__all__ = [
    "NOT_RUNNING",
    "ConnectError",
    "ConnectionFailure",
    "ConnectionLost",
    "Interrupted",
    "check_actor",
    "connect_error",
    "lost_error",
]

MAX_ACTOR = 128
"""Characters that the name of an actor may have, as ``Hello`` declares it."""


CONNECT_TIMEOUT_S = 10.0
"""How long a client waits for a place in the daemon's queue."""
CONNECT_RETRY_S = 0.02

NOT_RUNNING = "The daemon does not appear to be running."
"""The hint of a ``ConnectError`` that starting the daemon would mend."""


class ConnectionFailure(ConnectionError):
    """No answer came, because there is no connection. ``hint`` says what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConnectError(ConnectionFailure):
    """The daemon cannot be reached."""


class ConnectionLost(ConnectionFailure):
    """The connection ended. Whether an unanswered request was carried out is not known."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a request, which was then cancelled; ``outcome`` is how it ended (None: it was done)."""

    def __init__(self, outcome: NexusError | ConnectionFailure | None) -> None:
        super().__init__()
        self.outcome = outcome


def connect_error(path: str, error: OSError) -> ConnectError:
    """The error for a failed connect."""
    if isinstance(error, BlockingIOError):
        return ConnectError(
            f"cannot connect to Nexus daemon at {path}: too many clients wait there",
            "It may hang. See: nexusctl daemon status",
        )
    if isinstance(error, PermissionError):
        from pathlib import Path

        return ConnectError(
            f"cannot connect to Nexus daemon at {path}: {error.strerror}",
            f"The socket or its folder belongs to another user: ls -ld {Path(path).parent} {path}",
        )
    if error.errno is None:  # Python's own refusal of a path that sockaddr_un has no room for
        return ConnectError(
            f"cannot connect to Nexus daemon at {path}: the path is too long for a Unix socket",
            "Choose a shorter one: --socket PATH, or NEXUS_SOCKET.",
        )
    return ConnectError(f"cannot connect to Nexus daemon at {path}", NOT_RUNNING)


def lost_error() -> ConnectionLost:
    """The error for a connection that ended without a word."""
    return ConnectionLost(
        "the connection to the daemon was lost",
        "Whether an unanswered request was carried out is not known; look before you repeat it.\n"
        "The daemon may have been stopped or restarted: nexusctl daemon status",
    )


def check_actor(actor: str | None) -> str | None:
    """Refuse an actor that the daemon would not take, before a request is made without one.

    Raises:
        InvalidArgument: it is empty, longer than 128 characters, or not printable.
    """
    if actor is not None and not (1 <= len(actor) <= MAX_ACTOR and actor.isprintable()):
        raise InvalidArgument(
            f"cannot accept actor: expected 1 to {MAX_ACTOR} printable characters", details={"path": "actor"}
        )
    return actor
