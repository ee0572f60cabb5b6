"""Errors of the connection itself, as opposed to errors that the daemon replies with.

ReportedError
├── ConnectionFailure (also ConnectionError)
│   ├── ConnectError       there is no daemon at the socket, or it refuses the connection
│   │   └── ConnectTimeout a host did not reply in time
│   └── ConnectionLost     the connection ended before the reply
└── DaemonTooOld           the daemon lacks a feature that the request needs; nothing was sent
KeyboardInterrupt
└── Interrupted
"""

from __future__ import annotations

from nexus_protocol import InvalidArgument
from nexus_protocol.errors import ReportedError

__all__ = [
    "ConnectError",
    "ConnectTimeout",
    "ConnectionFailure",
    "ConnectionLost",
    "DaemonTooOld",
    "Interrupted",
    "check_actor",
    "context_unknown",
    "lost_error",
]

_MAX_ACTOR = 128
"""Characters that the name of an actor may have, as ``Hello`` declares it."""


class ConnectionFailure(ReportedError, ConnectionError):
    """There is no reply, because there is no connection."""

    exit_code = 3


class ConnectError(ConnectionFailure):
    """The daemon cannot be reached. ``not_running`` says whether starting the daemon would help."""

    def __init__(self, message: str, hint: str | None = None, *, not_running: bool = False) -> None:
        super().__init__(message, hint)
        self.not_running = not_running


class ConnectTimeout(ConnectError):
    """The daemon of a host did not reply in time."""

    exit_code = 124


class ConnectionLost(ConnectionFailure):
    """The connection ended. Whether an unanswered request was carried out is not known."""


class DaemonTooOld(ReportedError):
    """The daemon is older than this client and lacks a feature that the request needs. The request was not sent."""

    def __init__(self, feature: str, part: str) -> None:
        super().__init__(
            f"cannot send {part}: the running daemon is older than this program",
            "To run the version that is installed: nexusctl daemon restart",
        )
        self.feature = feature
        """As the reply to ``Hello`` would list it, such as ``context``."""


def context_unknown() -> DaemonTooOld:
    """The error for a request with a context where the daemon does not list ``context``."""
    return DaemonTooOld("context", "a request with why, key, project or lease")


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a request, which was then cancelled.

    ``outcome`` is the error that the request ended with, or None when it had already succeeded.
    """

    def __init__(self, outcome: ReportedError | None) -> None:
        super().__init__()
        self.outcome = outcome


def lost_error() -> ConnectionLost:
    """The error for a connection that ended without an Error frame."""
    return ConnectionLost(
        "the connection to the daemon was lost",
        "Whether an unanswered request was carried out is not known; check before you repeat it.\n"
        "The daemon may have been stopped or restarted: nexusctl daemon status",
    )


def check_actor(actor: str | None) -> str | None:
    """Return the actor if the daemon would accept it.

    Checked here because the daemon's refusal would come with the reply to ``Hello``, which is not awaited.

    Raises:
        InvalidArgument: it is empty, longer than 128 characters, or not printable.
    """
    if actor is not None and not (1 <= len(actor) <= _MAX_ACTOR and actor.isprintable()):
        raise InvalidArgument(
            f"cannot accept actor: expected 1 to {_MAX_ACTOR} printable characters", details={"path": "actor"}
        )
    return actor
