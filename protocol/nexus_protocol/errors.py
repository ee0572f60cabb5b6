"""The error tree that crosses the wire: what each error code means, and how it is written and read.

    NexusError
    ├── ProtocolError          the peer broke the framing; the connection ends
    │   ├── BadFrame
    │   ├── UnsupportedVersion
    │   └── FrameTooLarge
    ├── UnknownCommand
    ├── InvalidArgument
    ├── NotFound
    ├── Conflict
    ├── FailedPrecondition
    ├── PermissionDenied
    ├── ResourceExhausted
    ├── DeadlineExceeded
    ├── Cancelled
    ├── Unavailable
    └── Internal

Capabilities derive their own errors from these and give each a stable, dotted ``type``. This module knows no
capability; it learns their classes as they are defined.
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
    "ResourceExhausted",
    "Unavailable",
    "UnknownCommand",
    "UnsupportedVersion",
    "error_from_payload",
]


class NexusError(Exception):
    """An error with a place on the wire.

    ``message`` is one sentence for a person; ``hint`` says what to do now; ``details`` is a map for programs.
    ``code`` comes from the protocol's table, ``type`` is the dotted domain error, such as ``vm.name_taken``
    (by default the code itself).
    """

    code: ClassVar[str] = "internal"
    type: str = "internal"

    def __init__(self, message: str, *, hint: str | None = None, details: Mapping[str, Any] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
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
        """The Error frame's payload: ``code``, ``message``, ``type``, and ``hint`` and ``details`` where set."""
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
    """Wrong magic, reserved flags, or a code or sequence that may not be used."""

    code = "bad_frame"


class UnsupportedVersion(ProtocolError):
    """The frame is of another protocol version; ``details.supported`` lists those that work."""

    code = "unsupported_version"


class FrameTooLarge(ProtocolError):
    """The header claims more than ``details.limit`` bytes. Nothing of the payload was read."""

    code = "frame_too_large"


class UnknownCommand(NexusError):
    """No command has this code here."""

    code = "unknown_command"


class InvalidArgument(NexusError):
    """The payload does not fit the command; ``details.path`` names the field."""

    code = "invalid_argument"


class NotFound(NexusError):
    """The thing is not there."""

    code = "not_found"


class Conflict(NexusError):
    """The request clashes with what is there."""

    code = "conflict"


class FailedPrecondition(NexusError):
    """The thing is not in a state that allows this."""

    code = "failed_precondition"


class PermissionDenied(NexusError):
    """The peer is not allowed."""

    code = "permission_denied"


class ResourceExhausted(NexusError):
    """Too many connections or streams, a full disk, or a result larger than a frame may be."""

    code = "resource_exhausted"


class DeadlineExceeded(NexusError):
    """The time that was given ran out; ``details`` says what is still running."""

    code = "deadline_exceeded"


class Cancelled(NexusError):
    """The request was cancelled; ``details`` says what is still running."""

    code = "cancelled"


class Unavailable(NexusError):
    """The daemon is stopping, or something that it needs is missing."""

    code = "unavailable"


class Internal(NexusError):
    """A bug in the daemon. Its log has the traceback."""

    code = "internal"


_BY_CODE["internal"] = Internal


def error_from_payload(body: Mapping[str, Any]) -> NexusError:
    """The exception for an Error frame's payload: by ``type`` where this program knows it, else by ``code``.

    Unknown types and codes still give an error with the daemon's own message; nothing in the payload can make
    this raise.
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
