"""The errors that every record type has. A contract derives its own from them, with the type ``<kind>.<error>``."""

from __future__ import annotations

from typing import NamedTuple

from nexus_protocol.errors import Conflict, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied

__all__ = [
    "LeaseNeedsPerson",
    "LeaseNotFound",
    "LeaseRequired",
    "LeaseStale",
    "ProjectNotFound",
    "QueryInvalid",
    "RecordAmbiguous",
    "RecordChanged",
    "RecordCursorInvalid",
    "RecordErrors",
    "RecordIdTaken",
    "RecordNameTaken",
    "RecordNotFound",
    "RestoreRefused",
]


class RecordNotFound(NotFound):
    """No record of the kind has this id or name."""


class ProjectNotFound(RecordNotFound):
    """No project has this id or name, or this folder."""

    type = "project.not_found"


class LeaseNotFound(RecordNotFound):
    """No lease has this id."""

    type = "lease.not_found"


class LeaseStale(FailedPrecondition):
    """The lease that the request is made under, or is about, is not live, or has another epoch.

    ``details.current_epoch`` is the epoch that the resource has now, ``details.state`` what became of the lease.
    """

    type = "lease.stale"


class LeaseRequired(FailedPrecondition):
    """Another holds the record: only requests under its lease, ``details.lease``, may change this."""

    type = "lease.required"


class RecordAmbiguous(Conflict):
    """Several ids begin with the reference; ``details.matches`` lists some of them."""


class RecordNameTaken(Conflict):
    """Another record of the kind has the name."""


class RecordIdTaken(Conflict):
    """A record with the id exists and differs from the request."""


class RecordChanged(Conflict):
    """The record has another revision than the request expects; ``details.revision`` is the present one."""


class RecordCursorInvalid(InvalidArgument):
    """The cursor was not returned by this list for these filters."""


class RestoreRefused(FailedPrecondition):
    """What the checkpoint has cannot be put in the place of what is there; ``details.ids`` has some of the records."""

    type = "checkpoint.restore_refused"


class LeaseNeedsPerson(PermissionDenied):
    """A person takes a lease from its holder: the client belongs to a job or a service, or has ended."""

    type = "lease.needs_person"


class QueryInvalid(InvalidArgument):
    """The query of a search is malformed; ``details.at`` is the character where, from 1."""

    type = "query.invalid"


class RecordErrors(NamedTuple):
    """The errors of one record type."""

    not_found: type[RecordNotFound]
    ambiguous: type[RecordAmbiguous]
    name_taken: type[RecordNameTaken]
    id_taken: type[RecordIdTaken]
    changed: type[RecordChanged]
    cursor_invalid: type[RecordCursorInvalid]
