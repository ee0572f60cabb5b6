"""The records of leases."""

from __future__ import annotations

from nexus_protocol.command import Record

from nexus.ledger.states import LeaseState, OnLost

__all__ = ["Lease"]


class Lease(Record, kw_only=True):
    """A lease."""

    id: str
    resource_kind: str
    resource_id: str
    project_id: str | None = None
    project: str | None = None
    epoch: int
    holder: str
    host: str
    granted_at: int
    ttl_ms: int
    renewed_at: int
    state: LeaseState
    boot_id: str
    on_lost: OnLost = OnLost.STOP
    pid: int | None = None
    pid_start: int | None = None
    job_id: str | None = None
    ended_at: int | None = None
    reason: str | None = None
    created_at: int
    updated_at: int
    revision: int
    state_revision: int

    @property
    def name(self) -> str:
        """How sentences name it."""
        return self.id
