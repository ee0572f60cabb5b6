"""The dependencies of one service as they are at each look: which are missing before a start, which were lost since.

It reads records and starts dependencies; it writes nothing and waits for nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from nexus_protocol import NexusError

from nexus.capability import ManagerContext
from nexus.hints import command_line
from nexus.journal.operation import Operation, resumed
from nexus.records.scope import qualified, reference_of
from nexus.services import store
from nexus.services.dependencies.conditions import is_lost, is_met
from nexus.services.dependencies.store import StoredDependency
from nexus.services.errors import ServiceDependencyFailed
from nexus.services.health.declared import has_health_check
from nexus.services.reasons import stored_reason
from nexus.services.records import Service
from nexus.services.states import DependencyCondition, ServiceReason, ServiceState, WhenLost
from nexus.services.store import StoredService
from nexus.store import Reader
from nexus.supervision.requests import Reason

__all__ = ["DependencyTracker", "Missing", "Observed", "Peer"]

_WAITED_FOR = {
    DependencyCondition.STARTED: "to be up",
    DependencyCondition.HEALTHY: "to be healthy",
    DependencyCondition.COMPLETED: "to complete",
}


class Peer(Protocol):
    """The handle of another service."""

    @property
    def blocked(self) -> str | None:
        """Why it waits for a dependency that nothing brings up; None while it does not."""

    @property
    def alive(self) -> bool:
        """Whether it has a supervision task: it is starting, up or stopping."""

    @property
    def stopping(self) -> bool:
        """Whether it is on its way to stopped or failed."""

    def ensure(self, operation: Operation) -> bool:
        """Start it without waiting; False while it is stopping."""


class Missing(NamedTuple):
    """What a start still waits for."""

    reason: Reason
    lost: list[str]
    """The names of those that are only waited for, not started."""


class Observed(NamedTuple):
    """What has changed among the dependencies of a running service."""

    events: list[tuple[str, dict[str, Any]]]
    lost: list[str]
    """The names of all that are lost now."""
    reason: Reason | None
    """The reason that the record should have now."""
    stop: Reason | None
    """Why the service is to be stopped, if it is."""
    restart: Reason | None
    cause: str | None = None
    """What the last change is, as a cause; None without events."""
    led_by: Operation | None = None
    """What led to the last change: the operation of that dependency."""


class DependencyTracker:
    """The dependencies of one service between two looks at them."""

    def __init__(self, manager: ManagerContext, service_id: str, peer: Callable[[str], Peer]) -> None:
        self._manager = manager
        self._service_id = service_id
        self._peer = peer
        self.reset(on_demand=True)

    def reset(self, *, on_demand: bool) -> None:
        """Begin a start: with ``on_demand`` missing dependencies are started, else they are waited for."""
        self._on_demand = on_demand
        self.blocked: str | None = None
        """Why the start waits for a dependency that nothing brings up: one that is not up, or is blocked itself."""
        self._claimed: set[str] = set()
        """Dependencies that this start has started or found up: it starts none of them a second time."""
        self._lost: dict[str, None] = {}
        """In the order in which they were lost."""
        self._met: set[str] = set()
        """Dependencies whose condition was met in this run: only their loss stops or restarts the service."""
        self._reason_of: str | None = None
        """The lost dependency that the record's reason names."""

    def resume(self, stored: StoredService) -> None:
        """Take over what the record says of them."""
        service = stored.service
        self.reset(on_demand=not service.lost_dependencies and service.next_restart_at is None)
        ids = {edge.dependency: edge.dependency_id for edge in stored.dependencies}
        self._lost = {ids[name]: None for name in service.lost_dependencies if name in ids}
        self._met = set(ids.values()) - self._lost.keys()
        if service.reason_code is ServiceReason.DEPENDENCY_LOST and self._lost:
            # While one is lost, the reason names the one that was lost last.
            self._reason_of = next(reversed(self._lost))

    def _rows(self) -> list[tuple[StoredDependency, StoredService]]:
        def read(reader: Reader) -> list[tuple[StoredDependency, StoredService]]:
            edges = store.stored(reader, self._service_id).dependencies
            return [(edge, store.stored(reader, edge.dependency_id)) for edge in edges]

        return self._manager.store.read(read, snapshot=True)

    # Before a start

    def missing(self, operation: Operation, fail: Callable[[NexusError], None]) -> Missing | None:
        """What the start still waits for; None when every condition is met.

        A dependency that is up, even unhealthy, or is retried by its policy is waited for. One that nothing brings up
        ends a start on demand. A start that only waits for its dependencies goes on; ``fail`` gets the error, which
        ends the waits of clients.

        Raises:
            ServiceDependencyFailed: a dependency will not come up.
        """
        waits: list[StoredDependency] = []
        self.blocked = None
        for edge, dependency in self._rows():
            peer = self._peer(edge.dependency_id)
            if is_met(edge.condition, dependency, self._manager.boot) and not peer.stopping:
                self._met.add(edge.dependency_id)
                self._claimed.add(edge.dependency_id)
                continue
            waits.append(edge)
            if edge.condition is DependencyCondition.HEALTHY and not has_health_check(dependency.service):
                update = command_line(
                    "nexusctl", "service", "update", qualified(edge.project, edge.dependency), "--help"
                )
                hint = f"Give it one, or ask for less than healthy: {update}"
                raise _failed(edge, dependency.service, "failed: it has no health check", hint=hint)
            why = self._why_blocked(peer, dependency.service, operation)
            if why is None:
                continue
            if self._on_demand and not peer.alive:
                raise _failed(edge, dependency.service, why)
            self.blocked = self.blocked or f'dependency "{edge.dependency}" {why}'
            fail(_failed(edge, dependency.service, why, waits=True))
        if not waits:
            return None
        words = ", ".join(f'"{edge.dependency}" {_WAITED_FOR[edge.condition]}' for edge in waits)
        lost = [] if self._on_demand else [edge.dependency for edge in waits]
        return Missing(Reason(ServiceReason.WAITING, f"waits for {words}"), lost)

    def _why_blocked(self, peer: Peer, service: Service, operation: Operation) -> str | None:
        """Why nothing brings a missing dependency up; None where something does. A start on demand starts it once."""
        if self._on_demand and service.id not in self._claimed:
            if peer.ensure(operation):
                self._claimed.add(service.id)
            return None
        if peer.alive:
            return None if peer.blocked is None else f"waits in vain: {peer.blocked}"
        verb = "has stopped" if service.state is ServiceState.STOPPED else "failed"
        return f"{verb}: {service.reason or f'it is {service.state}'}"

    # While it is up

    def look(self, stored: StoredService) -> Observed:
        """What was lost and what is back since the last look."""
        events: list[tuple[str, dict[str, Any]]] = []
        reason = stored_reason(stored.service)
        stop = restart = None
        cause: str | None = None
        led_by: Operation | None = None
        rows = self._rows() if stored.dependencies else []
        for edge, dependency in rows:
            key = edge.dependency_id
            detail = {"dependency": edge.dependency, "condition": edge.condition.value}
            if key in self._lost:
                if is_met(edge.condition, dependency, self._manager.boot):
                    del self._lost[key]
                    self._met.add(key)
                    events.append(("service.dependency_back", detail))
                    cause, led_by = "dependency.back", self._led_to(dependency)
                    if self._reason_of == key and reason is not None:
                        reason = Reason(ServiceReason.DEPENDENCY_BACK, f"{reason.text}; it is back")
                        self._reason_of = None
            elif is_lost(edge.condition, dependency, self._manager.boot):
                self._lost[key] = None
                why = _why_lost(dependency.service)
                reason = Reason(ServiceReason.DEPENDENCY_LOST, f'lost "{edge.dependency}": {why}')
                self._reason_of = key
                events.append(("service.dependency_lost", detail | {"reason": why, "when_lost": edge.when_lost.value}))
                cause, led_by = "dependency.lost", self._led_to(dependency)
                if key in self._met and edge.when_lost is WhenLost.STOP:
                    stop = reason
                elif key in self._met and edge.when_lost is WhenLost.RESTART:
                    restart = reason
                self._met.discard(key)
            else:
                self._met.add(key)
        names = {edge.dependency_id: edge.dependency for edge, _ in rows}
        self._lost = {key: None for key in self._lost if key in names}
        if self._reason_of is not None and self._reason_of not in names:
            # It no longer depends on what the reason names.
            self._reason_of = reason = None
        lost = [names[key] for key in self._lost]
        return Observed(events, lost, reason, stop, restart, cause, led_by)

    def _led_to(self, dependency: StoredService) -> Operation:
        """What led to the state that was read: the handle of the dependency may not know of that state yet."""
        manager, id_ = self._manager, dependency.operation_id
        return manager.store.read(lambda reader: resumed(reader, manager.caller, id_, "adopted"))


def _why_lost(service: Service) -> str:
    if service.state is ServiceState.RUNNING:
        return f"unhealthy: {service.health_message}" if service.health_message else "unhealthy"
    return service.reason or str(service.state)


def _failed(
    edge: StoredDependency, service: Service, why: str, *, waits: bool = False, hint: str = ""
) -> ServiceDependencyFailed:
    hint = hint or f"Look at it: {command_line('nexusctl', 'service', 'status', reference_of(service))}"
    if waits:
        hint = f'"{edge.service}" starts once "{service.name}" is back.\n{hint}'
    return ServiceDependencyFailed(
        f'cannot start service "{edge.service}": its dependency "{service.name}" {why}',
        hint=hint,
        details={
            "name": edge.service,
            "dependency": service.name,
            "condition": edge.condition.value,
            "reason": f'dependency "{service.name}" {why}',
        },
    )
