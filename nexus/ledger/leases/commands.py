"""The commands on leases. They are granted by what claims a resource, such as a task."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from nexus_protocol.command import Command, Effect, command
from nexus_protocol.events import cause, event

from nexus.ledger.leases.errors import (
    LeaseAmbiguous,
    LeaseChanged,
    LeaseCursorInvalid,
    LeaseInvalid,
)
from nexus.ledger.leases.records import Lease, LeasePage
from nexus.ledger.states import LeaseState
from nexus.records.errors import LeaseNeedsPerson, LeaseNotFound, LeaseStale
from nexus.records.events import written_event
from nexus.records.fields import Cursor, PageLimit, Reference, Revision, StateRevision

__all__ = ["GetLease", "LeaseReference", "ListLeases", "LostReason", "ReleaseLease", "RenewLease", "RevokeLease", "Ttl"]

_HELD = {"resource_kind": "the kind of what is held", "resource_id": "its id", "epoch": "the epoch", "holder": "who"}
event("lease.granted", "A lease was granted.", **_HELD)
event("lease.deleted", "A lease that ended long ago was deleted.", **_HELD)
event("lease.updated", "A lease was changed.", fields="its value before and after")
for _state, _meaning in (
    ("released", "Its holder gave a lease back."),
    ("expired", "A lease was not renewed in time."),
    ("revoked", "A lease was taken from its holder."),
):
    event(
        f"lease.{_state}",
        _meaning,
        reason="why, in words",
        continue_point="of a task: the number of its newest continue point",
        checkpoint="of a task: the number of the newest checkpoint of its project",
        **_HELD,
    )
written_event("lease", "A lease")
cause("lease.job_ended", "The job that renewed a lease ended.")
cause("leases.retention", "Leases ended longer ago than the setting leases.keep_days.")
cause("lease.expired", "A lease was not renewed in time, or an older database was put in the place of its own.")

LeaseReference = Annotated[
    Reference,
    Meta(
        description="the id of the lease, or 4 or more characters that it alone begins with",
        extra={"completes": "lease", "metavar": "LEASE"},
    ),
]
Ttl = Annotated[
    int,
    Meta(ge=1000, le=7 * 24 * 3_600_000, description="how long it holds without being renewed, 1 s to 7 days"),
]
ProcessId = Annotated[int, Meta(ge=1, le=2**31 - 1, description="a process that renews it as long as it lives")]
JobReference = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="a job that renews it until it has ended",
        extra={"completes": "job", "metavar": "JOB"},
    ),
]
LostReason = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        pattern=r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)",
        description="why it is taken away, in words",
    ),
]
_FOUND = (LeaseNotFound, LeaseAmbiguous)


@command(0x0570, Effect.READ, errors=_FOUND)
class GetLease(Command[Lease]):
    """Get a lease."""

    lease: LeaseReference


@command(0x0571, Effect.READ, errors=(LeaseCursorInvalid,), all_projects=True)
class ListLeases(Command[LeasePage]):
    """List leases, newest first."""

    state: Annotated[LeaseState, Meta(description="only those in this state")] | None = None
    holder: (
        Annotated[str, Meta(min_length=1, max_length=64, description="only those that the agent with this id holds")]
        | None
    ) = None
    limit: PageLimit = 1000
    cursor: Cursor | None = None


@command(0x0572, Effect.CHANGE, errors=(*_FOUND, LeaseStale, LeaseChanged, LeaseInvalid))
class RenewLease(Command[Lease]):
    """Renew a live lease for its time, or another one, and have a process or a job renew it from now on.

    Any request that is made under a lease renews it as well.
    """

    lease: LeaseReference
    ttl_ms: Ttl | None = None
    pid: ProcessId | None = None
    job: JobReference | None = None
    if_revision: Revision | None = None


@command(0x0573, Effect.CHANGE, errors=(*_FOUND, LeaseStale, LeaseChanged, LeaseNeedsPerson))
class ReleaseLease(Command[Lease]):
    """Give a live lease back. What was begun under it goes on; one that was given back already is returned.

    Its holder does it under the lease itself; another client must be a person's, and belong to no job or service.
    """

    lease: LeaseReference
    if_state_revision: StateRevision | None = None


@command(0x0574, Effect.CHANGE, errors=(*_FOUND, LeaseStale, LeaseChanged, LeaseNeedsPerson))
class RevokeLease(Command[Lease]):
    """Take a live lease from its holder, who changes nothing any more; its jobs and services stop, unless it says keep.

    For people: it is recorded who did it, and a client that belongs to a job or a service is refused. One that was
    revoked already is returned.
    """

    lease: LeaseReference
    reason: LostReason | None = None
    if_state_revision: StateRevision | None = None
