"""What leases and the rest of the daemon tell each other: neither side knows the other.

The manager of leases registers as the keeper. What runs under leases, such as jobs, registers as a carrier.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Protocol

from nexus_protocol.context import HeldLease

from nexus.journal.operation import Operation
from nexus.store import Reader

__all__ = ["Carrier", "LeaseKeeper", "Leases"]


class LeaseKeeper(Protocol):
    """Keeps the time of leases."""

    def presented(self, lease: HeldLease) -> None:
        """A request came that is made under a lease: that renews it."""

    def job_ended(self, job_id: str) -> None:
        """A job has ended, or was deleted."""


class Carrier(Protocol):
    """Records with processes that carry the lease under which they were begun."""

    def carried(self, reader: Reader) -> Collection[str]:
        """The ids of the leases that what has not ended carries."""

    async def lost(self, lease_id: str, reason: str, operation: Operation) -> None:
        """Stop all that carries a lease; ``reason`` is the sentence for people."""


class Leases:
    """The leases of one daemon, as the daemon and what it runs see them."""

    def __init__(self) -> None:
        self._keeper: LeaseKeeper | None = None
        self._end_of_job: Callable[[Reader, str], str | None] | None = None
        self.carriers: list[Carrier] = []

    def register(self, keeper: LeaseKeeper) -> None:
        """Tell ``keeper`` of each request that presents a lease."""
        self._keeper = keeper

    def register_carrier(self, carrier: Carrier) -> None:
        """Have ``carrier`` stop what it runs under a lease that is lost."""
        self.carriers.append(carrier)

    def register_jobs(self, end_of_job: Callable[[Reader, str], str | None]) -> None:
        """Ask ``end_of_job`` how the job with an id has ended, in words; None: it has not."""
        self._end_of_job = end_of_job

    def presented(self, lease: HeldLease) -> None:
        """A request came that is made under a lease."""
        if self._keeper is not None:
            self._keeper.presented(lease)

    def end_of_job(self, reader: Reader, job_id: str) -> str | None:
        """How the job with this id has ended, in words; None: it has not."""
        return "there are no jobs" if self._end_of_job is None else self._end_of_job(reader, job_id)

    def job_ended(self, job_id: str) -> None:
        """A job has ended, or was deleted: it renews no lease any more."""
        if self._keeper is not None:
            self._keeper.job_ended(job_id)
