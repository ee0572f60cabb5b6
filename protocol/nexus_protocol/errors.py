"""The error tree: the root of all errors that are reported to a person, and the branch that crosses the wire.

    ReportedError                  a message and a hint for a person
    ├── NexusError                 also has a code, a type and details, and crosses the wire
    │   ├── ProtocolError          the peer broke the framing; the connection ends
    │   │   ├── BadFrame
    │   │   ├── UnsupportedVersion
    │   │   └── FrameTooLarge
    │   ├── UnknownCommand
    │   ├── InvalidArgument
    │   ├── NotFound
    │   ├── Conflict
    │   ├── FailedPrecondition
    │   ├── PermissionDenied
    │   ├── ResourceExhausted
    │   ├── DeadlineExceeded
    │   ├── Cancelled
    │   ├── Unavailable
    │   └── Internal
    ├── ConnectionFailure          nexus.client.errors: the connection itself failed
    │   ├── ConnectError
    │   └── ConnectionLost
    ├── DaemonTooOld               nexus.client.errors: the daemon lacks a feature that a request needs
    ├── PathError                  nexus.paths: a directory or a socket path cannot be used
    ├── ConfigError                nexus.config: the configuration file cannot be used
    ├── RuntimeFailure             nexus.runtime.spec: a process cannot be started, limited, attached to or removed
    └── StartError                 nexus.daemon.listener: the daemon cannot start

Capabilities, the store and nexusctl derive their own errors from the children of ``NexusError`` and give each a stable,
dotted ``type``. This module imports none of them; ``error_from_payload`` finds their classes because each class
registers itself when it is defined.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "BadFrame",
    "Cancelled",
    "Conflict",
    "DeadlineExceeded",
    "FailedPrecondition",
    "FrameTooLarge",
    "Internal",
    "InvalidArgument",
    "NexusError",
    "NotFound",
    "PermissionDenied",
    "ProtocolError",
    "ReportedError",
    "ResourceExhausted",
    "Unavailable",
    "UnknownCommand",
    "UnsupportedVersion",
    "error_from_payload",
]


class ReportedError(Exception):
    """An error that is reported to a person.

    ``message`` is one sentence; ``hint`` says what to do, on one or more lines. Any other exception is a bug.
    """

    exit_code: ClassVar[int] = 1
    """What a command line program exits with when this error ends it."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NexusError(ReportedError):
    """An error that can be sent in an Error frame.

    ``code`` comes from the protocol's table, ``type`` is the dotted domain error, such as ``vm.name_taken`` (by default
    the code itself), and ``details`` is a map for programs.
    """

    code: ClassVar[str] = "internal"
    type: str = "internal"

    def __init__(self, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message, hint)
        self.details: dict[str, Any] = dict(details or {})

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "code" in cls.__dict__:
            _BY_CODE.setdefault(cls.code, cls)
            if "type" not in cls.__dict__:
                cls.type = cls.code
        if "type" in cls.__dict__:
            _BY_TYPE.setdefault(cls.type, cls)

    def payload(self) -> dict[str, Any]:
        """Build the Error frame's payload: ``code``, ``message``, ``type``, and ``hint`` and ``details`` where set."""
        body: dict[str, Any] = {"code": self.code, "message": self.message, "type": self.type}
        if self.hint is not None:
            body["hint"] = self.hint
        if self.details:
            body["details"] = self.details
        return body


_BY_CODE: dict[str, type[NexusError]] = {"internal": NexusError}
_BY_TYPE: dict[str, type[NexusError]] = {}


class ProtocolError(NexusError):
    """The peer broke the framing. The connection is closed after the Error frame."""

    sequence = 0
    """The sequence that the Error frame carries; 0 where none is known."""


class BadFrame(ProtocolError):
    """Wrong magic, reserved flags, or a code or sequence that is not allowed."""

    code = "bad_frame"


class UnsupportedVersion(ProtocolError):
    """The frame has another protocol version; ``details.supported`` lists the supported ones."""

    code = "unsupported_version"


class FrameTooLarge(ProtocolError):
    """The header announces more than ``details.limit`` bytes. The payload was not read."""

    code = "frame_too_large"


class UnknownCommand(NexusError):
    """The daemon has no command with this code."""

    code = "unknown_command"


class InvalidArgument(NexusError):
    """The payload does not fit the command; ``details.path`` names the field."""

    code = "invalid_argument"
    exit_code = 2


class NotFound(NexusError):
    """The object does not exist."""

    code = "not_found"
    exit_code = 4


class Conflict(NexusError):
    """The request conflicts with something that exists already."""

    code = "conflict"
    exit_code = 5


class FailedPrecondition(NexusError):
    """The object is not in a state that allows this."""

    code = "failed_precondition"
    exit_code = 5


class PermissionDenied(NexusError):
    """The peer is not allowed to do this."""

    code = "permission_denied"


class ResourceExhausted(NexusError):
    """Too many connections or streams, a full disk, or a result larger than the frame limit."""

    code = "resource_exhausted"


class DeadlineExceeded(NexusError):
    """The request's time ran out; ``details`` says what is still running."""

    code = "deadline_exceeded"
    exit_code = 124


class Cancelled(NexusError):
    """The request was cancelled; ``details`` says what is still running."""

    code = "cancelled"
    exit_code = 130


class Unavailable(NexusError):
    """The daemon is stopping, or something it needs is missing."""

    code = "unavailable"


class Internal(NexusError):
    """A bug in the daemon. Its log has the traceback."""

    code = "internal"


_BY_CODE["internal"] = Internal


def error_from_payload(body: Mapping[str, Any]) -> NexusError:
    """Return the exception for an Error frame's payload: by ``type`` if its class is defined here, else by ``code``.

    Unknown types and codes still give an error with the daemon's own message. No payload makes this function raise.
    """
    code = str(body.get("code", "internal"))
    type_ = str(body.get("type", code))
    cls = _BY_TYPE.get(type_)
    if cls is None or cls.code != code:
        cls = _BY_CODE.get(code, Internal)
    hint = body.get("hint")
    details = body.get("details")
    error = cls.__new__(cls)
    NexusError.__init__(
        error,
        str(body.get("message", "the daemon gave no message")),
        hint=hint if isinstance(hint, str) else None,
        details=details if isinstance(details, dict) else None,
    )
    error.type = type_
    return error
