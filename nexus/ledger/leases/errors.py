"""The domain errors of leases."""

from __future__ import annotations

from nexus_protocol.errors import FailedPrecondition

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordNotFound

__all__ = ["LeaseAmbiguous", "LeaseChanged", "LeaseCursorInvalid", "LeaseNotFound", "LeaseRequired"]


class LeaseNotFound(RecordNotFound):
    """No lease has this id."""

    type = "lease.not_found"


class LeaseAmbiguous(RecordAmbiguous):
    """Several leases have an id that begins so."""

    type = "lease.ambiguous"


class LeaseChanged(RecordChanged):
    """The lease has another revision than the request expects."""

    type = "lease.changed"


class LeaseCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by this list for these filters."""

    type = "lease.cursor_invalid"


class LeaseRequired(FailedPrecondition):
    """Another holds what the request would change; ``details.holder`` is the id of the agent."""

    type = "lease.required"
