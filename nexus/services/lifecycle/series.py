"""The restarts of one series: how many, when, and when the next run may begin. It writes nothing."""

from __future__ import annotations

import asyncio
from typing import Any

from nexus.runtime.status import boot_clock_ms, now_ms
from nexus.services.reasons import restart_reason, stored_reason
from nexus.services.records import Service
from nexus.services.states import RestartPolicy
from nexus.services.store import StoredService
from nexus.supervision.backoff import RestartLimits, Retry, plan_restart
from nexus.supervision.requests import Reason

__all__ = ["RestartSeries", "wants_restart"]


def wants_restart(policy: RestartPolicy, *, failed: bool) -> bool:
    """Whether the policy restarts a service after an end, which ``failed`` or not."""
    return policy is RestartPolicy.ALWAYS or (policy is RestartPolicy.ON_FAILURE and failed)


class RestartSeries:
    """The restarts since the last start on demand, or since the last run that outlived the restart window."""

    def __init__(self) -> None:
        self.count = 0
        self.restarted: Reason | None = None
        """Why the present run was begun, if the policy or a lost dependency did."""
        self._times: list[int] = []
        """By the boot clock, which never jumps."""
        self._next_run_at: float | None = None
        """By the loop's monotonic clock."""

    def resume(self, stored: StoredService, *, rebooted: bool) -> None:
        """Take over the series and the wait that the record holds; times of an earlier boot no longer count."""
        service = stored.service
        self.count, self._times = service.restarts, [] if rebooted else list(stored.restart_times)
        if service.next_restart_at is not None:
            wait_ms = min(service.next_restart_at - now_ms(), 2 * service.restart_backoff_max_ms)
            self._wait(wait_ms)
            ended = stored_reason(service)
            self.restarted = None if ended is None else restart_reason(ended)

    @property
    def left_s(self) -> float | None:
        """Seconds until the next run may begin; None where no wait was planned."""
        return None if self._next_run_at is None else self._next_run_at - asyncio.get_running_loop().time()

    def plan(self, service: Service, ended_ms_ago: int, up_ms: int) -> Retry:
        """When the next run follows one that was up for ``up_ms``, and forget restarts that no longer count.

        ``Retry.at`` is by the boot clock.
        """
        now = boot_clock_ms()
        limits = RestartLimits(
            service.restart_backoff_ms, service.restart_backoff_max_ms, service.restart_limit, service.restart_window_ms
        )
        plan = plan_restart(limits, self._times, now - max(ended_ms_ago, 0), now, up_ms)
        self._times = plan.times
        return plan

    def wait_until(self, at: int, reason: Reason) -> int:
        """Let the next run begin at a time of the boot clock, after an end for ``reason``; gives the wait in ms."""
        wait_ms = max(at - boot_clock_ms(), 0)
        self._wait(wait_ms)
        self.restarted = restart_reason(reason)
        return wait_ms

    def _wait(self, wait_ms: int) -> None:
        self._next_run_at = asyncio.get_running_loop().time() + wait_ms / 1000

    def begin_run(self) -> None:
        """Count the restart whose wait is over."""
        self._next_run_at = None
        self.count += 1
        self._times.append(boot_clock_ms())

    def restart_uncounted(self, reason: Reason) -> None:
        """Let the next run begin at once; it counts as no restart of the policy."""
        self._next_run_at = None
        self.restarted = restart_reason(reason)

    def columns(self) -> dict[str, Any]:
        """The columns that hold the series."""
        return {"restarts": self.count, "restart_times": self._times}
