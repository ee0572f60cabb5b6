"""Why a service is in its state: a code of ``ServiceReason`` for programs, with its sentence for people."""

from __future__ import annotations

from typing import Any

from nexus.runtime import Exit
from nexus.services.records import Service
from nexus.services.states import ServiceReason
from nexus.supervision.exits import describe_exit
from nexus.supervision.requests import Reason

__all__ = [
    "FILES_DELETED",
    "HOST_RESTARTED",
    "exit_reason",
    "reason_columns",
    "restart_reason",
    "stored_reason",
]

FILES_DELETED = Reason(ServiceReason.FILES_DELETED, "its files were deleted: what is left of it is being ended")
HOST_RESTARTED = Reason(ServiceReason.HOST_RESTARTED, "the machine was restarted")

_OF_EXIT = {"exit": ServiceReason.EXITED, "signal": ServiceReason.KILLED, "lost": ServiceReason.LOST}


def reason_columns(reason: Reason | None) -> dict[str, Any]:
    """The columns that hold a reason; None unsets them."""
    if reason is None:
        return {"reason": None, "reason_code": None}
    return {"reason": reason.text, "reason_code": reason.code}


def stored_reason(service: Service) -> Reason | None:
    """The reason that a record holds; of a record that is older than the codes it is a request."""
    if service.reason is None:
        return None
    return Reason(service.reason_code or ServiceReason.REQUESTED, service.reason)


def exit_reason(exit_: Exit) -> Reason:
    """The end of a process as a reason."""
    return Reason(_OF_EXIT[exit_.kind], describe_exit(exit_))


def restart_reason(ended: Reason) -> Reason:
    """The reason of a run that follows one which ended for ``ended``."""
    return Reason(ServiceReason.RESTARTED, f"restarted: {ended.text}")
