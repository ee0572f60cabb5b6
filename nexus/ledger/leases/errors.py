"""The errors of leases; those that any request under a lease may get are in ``records.errors``."""

from __future__ import annotations

from nexus_protocol.errors import Conflict, InvalidArgument

from nexus.records.errors import RecordAmbiguous, RecordChanged, RecordCursorInvalid, RecordIdTaken, RecordNameTaken

__all__ = [
    "LeaseAmbiguous",
    "LeaseChanged",
    "LeaseCursorInvalid",
    "LeaseIdTaken",
    "LeaseInvalid",
    "LeaseNameTaken",
    "LeaseTaken",
]


class LeaseAmbiguous(RecordAmbiguous):
    """Several ids begin with this reference; ``details.matches`` lists some of them."""

    type = "lease.ambiguous"


class LeaseNameTaken(RecordNameTaken):
    """Leases have no names."""

    type = "lease.name_taken"


class LeaseIdTaken(RecordIdTaken):
    """A lease with this id exists and differs from the request."""

    type = "lease.id_taken"


class LeaseChanged(RecordChanged):
    """The lease has another revision than the request expects; ``details.revision`` is the present one."""

    type = "lease.changed"


class LeaseCursorInvalid(RecordCursorInvalid):
    """The cursor was not returned by ListLeases for these filters."""

    type = "lease.cursor_invalid"


class LeaseTaken(Conflict):
    """Another lease is live on the resource: ``details.lease``, which ``details.holder`` has."""

    type = "lease.taken"


class LeaseInvalid(InvalidArgument):
    """The fields do not fit together; ``details.path`` names the field."""

    type = "lease.invalid"
