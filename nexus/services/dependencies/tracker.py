"""What one service needs of others, and what it lost: its dependencies as they are at each look.

It reads the rows and asks units to come up; it writes nothing and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from nexus_protocol import NexusError

from nexus.services import store
from nexus.services.errors import ServiceDependencyFailed
from nexus.services.lifecycle.policy import has_health_check, is_lost, is_met
from nexus.services.states import DependencyCondition, ServiceHealth, ServiceState, WhenLost

if TYPE_CHECKING:
    from nexus.capability import Caller
    from nexus.services.dependencies.store import StoredDependency
    from nexus.services.lifecycle.context import Keeper
    from nexus.services.records import Service
    from nexus.services.store import StoredService
    from nexus.store import Reader

__all__ = ["Looked", "Missing", "Needs"]

_WAITED_FOR = {
    DependencyCondition.STARTED: "to be up",
    DependencyCondition.HEALTHY: "to be healthy",
    DependencyCondition.COMPLETED: "to complete",
}


class Missing(NamedTuple):
    """What a start still waits for."""

    words: str
    lost: list[str]
    """The names of those that are not brought up for it."""


class Looked(NamedTuple):
    """What has changed among the dependencies of a service that is up."""

    events: list[tuple[str, dict[str, Any]]]
    lost: list[str]
    """The names of all that are lost now."""
    reason: str
    stop: str | None
    """Why the service is to be stopped, if it is."""
    restart: str | None


class Needs:
    """The dependencies of one service, between its looks at them."""

    def __init__(self, keeper: Keeper, service_id: str) -> None:
        self._keeper = keeper
        self._service_id = service_id
        self.reset(on_demand=True)

    def reset(self, *, on_demand: bool) -> None:
        """A start begins: with ``on_demand`` what is not up is brought up, else it is waited for."""
        self._on_demand = on_demand
        self._asked: dict[str, int] = {}
        """Those that were asked to come up, and how often they had failed before."""
        self._lost: set[str] = set()
        self._held: set[str] = set()
        """Those that were there since the start: only their loss has consequences."""

    def resume(self, stored: StoredService) -> None:
        """Go on where a daemon before this one was."""
        lost = set(stored.service.lost_dependencies)
        self.reset(on_demand=not lost and stored.service.next_restart_at is None)
        self._lost = {edge.dependency_id for edge in stored.dependencies if edge.dependency in lost}
        self._held = {edge.dependency_id for edge in stored.dependencies} - self._lost

    def _rows(self) -> list[tuple[StoredDependency, StoredService]]:
        def read(reader: Reader) -> list[tuple[StoredDependency, StoredService]]:
            edges = store.stored(reader, self._service_id).dependencies
            return [(edge, store.stored(reader, edge.dependency_id)) for edge in edges]

        return self._keeper.store.read(read, snapshot=True)

    # Before a start

    def missing(self, caller: Caller, fail: Callable[[NexusError], None]) -> Missing | None:
        """What the start still waits for; None when all are as it needs them.

        ``fail`` is told of one that failed and is tried again, which only delays the start.

        Raises:
            ServiceDependencyFailed: one will not come.
        """
        waits: list[StoredDependency] = []
        for edge, dependency in self._rows():
            unit = self._keeper.unit(edge.dependency_id)
            if is_met(edge.condition, dependency, self._keeper.boot_at) and not (unit.resting):
                self._held.add(edge.dependency_id)
                continue
            waits.append(edge)
            if edge.condition is DependencyCondition.HEALTHY and not has_health_check(dependency.service):
                hint = f"Give it one, or ask for less than healthy: nexusctl service update {edge.dependency} --help"
                raise _failed(edge, dependency.service, "it has no health check", hint=hint)
            if self._on_demand:
                self._bring_up(edge, dependency.service, caller, fail)
        if not waits:
            return None
        words = ", ".join(f'"{edge.dependency}" {_WAITED_FOR[edge.condition]}' for edge in waits)
        return Missing(f"waits for {words}", [] if self._on_demand else [edge.dependency for edge in waits])

    def _bring_up(
        self, edge: StoredDependency, service: Service, caller: Caller, fail: Callable[[NexusError], None]
    ) -> None:
        unit = self._keeper.unit(edge.dependency_id)
        failures = self._asked.get(edge.dependency_id)
        if failures is None:
            before = unit.failures
            if unit.ensure(caller):
                self._asked[edge.dependency_id] = before
        elif not unit.alive:
            raise _failed(edge, service, service.reason or f"it is {service.state}")
        elif unit.failures > failures:
            self._asked[edge.dependency_id] = unit.failures
            fail(_failed(edge, service, service.reason or "it failed", goes_on=True))
        elif _is_sick(edge, service):
            raise _failed(edge, service, f"unhealthy: {service.health_message or 'its check fails'}")

    # While it is up

    def look(self, stored: StoredService) -> Looked:
        """What was lost and what is back since the last look."""
        events: list[tuple[str, dict[str, Any]]] = []
        reason = stored.service.reason or ""
        stop = restart = None
        rows = self._rows() if stored.dependencies else []
        for edge, dependency in rows:
            key = edge.dependency_id
            detail = {"dependency": edge.dependency, "condition": edge.condition.value}
            if key in self._lost:
                if is_met(edge.condition, dependency, self._keeper.boot_at):
                    self._lost.discard(key)
                    self._held.add(key)
                    events.append(("service.dependency_back", detail))
                    if reason.startswith(f'lost "{edge.dependency}"'):
                        reason += "; it is back"
            elif is_lost(edge.condition, dependency, self._keeper.boot_at):
                self._lost.add(key)
                why = _why_lost(dependency.service)
                reason = f'lost "{edge.dependency}": {why}'
                events.append(("service.dependency_lost", detail | {"reason": why, "when_lost": edge.when_lost.value}))
                if key in self._held and edge.when_lost is WhenLost.STOP:
                    stop = reason
                elif key in self._held and edge.when_lost is WhenLost.RESTART:
                    restart = reason
                self._held.discard(key)
            else:
                self._held.add(key)
        self._lost &= {edge.dependency_id for edge, _ in rows}
        lost = [edge.dependency for edge, _ in rows if edge.dependency_id in self._lost]
        return Looked(events, lost, reason, stop, restart)


def _is_sick(edge: StoredDependency, service: Service) -> bool:
    return (
        edge.condition is DependencyCondition.HEALTHY
        and service.state is ServiceState.RUNNING
        and service.health is ServiceHealth.UNHEALTHY
        and not service.restart_unhealthy
    )


def _why_lost(service: Service) -> str:
    if service.state is ServiceState.RUNNING:
        return f"unhealthy: {service.health_message}" if service.health_message else "unhealthy"
    return service.reason or str(service.state)


def _failed(
    edge: StoredDependency, service: Service, reason: str, *, goes_on: bool = False, hint: str = ""
) -> ServiceDependencyFailed:
    hint = hint or f"Look at it: nexusctl service status {service.name}"
    if goes_on:
        hint = f'"{service.name}" is tried again by its restart policy, and "{edge.service}" goes on waiting. {hint}'
    return ServiceDependencyFailed(
        f'cannot start service "{edge.service}": its dependency "{service.name}" failed: {reason}',
        hint=hint,
        details={
            "name": edge.service,
            "dependency": service.name,
            "condition": edge.condition.value,
            "reason": f'dependency "{service.name}" failed: {reason}',
        },
    )
