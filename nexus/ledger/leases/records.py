"""The record of a lease."""

from __future__ import annotations

from msgspec import field
from nexus_protocol.command import Record

from nexus.ledger.states import LeaseState, OnLost

__all__ = ["Lease", "LeasePage"]


class Lease(Record, kw_only=True):
    """What a holder has of a resource until it gives it back, does not renew it in time, or has it taken away."""

    id: str
    resource_id: str
    resource_kind: str
    """Of what is held: task."""
    project_id: str | None = None
    project: str | None = None
    """The present name of the project of what is held."""
    epoch: int
    """Its number among the leases of the resource. It only rises; a holder with an older one changes nothing."""
    holder: str
    """The id of the agent that has it."""
    host: str
    """The host of the daemon that granted it."""
    granted_at: int
    ttl_ms: int
    """It expires when it was not renewed for so long, while a daemon ran."""
    renewed_at: int
    """When it was last renewed, to a quarter of ``ttl_ms``."""
    state: LeaseState
    boot_id: str
    """The boot of that host in which it was granted."""
    on_lost: OnLost
    """What becomes of the jobs and services that were begun under it when it expires or is revoked."""
    pid: int | None = None
    """A process that renews it as long as it lives."""
    pid_start: int | None = None
    """When that began, in ticks of its boot."""
    job_id: str | None = None
    """A job that renews it until it has ended."""
    ended_at: int | None = None
    reason: str | None = None
    """Why it ended, in words."""
    created_at: int
    updated_at: int
    revision: int
    """Counts the changes of its configuration, from 1."""
    state_revision: int
    """Counts the changes of its state, from 0."""
    names: dict[str, str] = field(default_factory=dict)
    """Of GetLease and ListLeases, for people: what the task and the holder are called, by id, as ``#12 Log in``."""

    @property
    def name(self) -> str:
        """How sentences name it: by its id."""
        return self.id


class LeasePage(Record):
    """One page of leases, newest first, and the cursor of the next page."""

    leases: list[Lease]
    next_cursor: str | None = None
