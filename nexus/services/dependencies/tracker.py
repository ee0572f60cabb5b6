"""The dependencies of one service as they are at each look: which are missing before a start, which were lost since.

It reads records and starts dependencies; it writes nothing and waits for nothing. Between its looks it is given the
rows of dependencies that change, and reads again only what they leave open.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from nexus_protocol import NexusError

from nexus.capability import ManagerContext
from nexus.hints import command_line
from nexus.journal.operation import Operation
from nexus.records.scope import qualified, reference_of
from nexus.services import store
from nexus.services.dependencies.announcer import Change
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


class _Look:
    """What one look has found so far, in the order of the changes."""

    def __init__(self, reason: Reason | None) -> None:
        self.events: list[tuple[str, dict[str, Any]]] = []
        self.reason = reason
        self.stop: Reason | None = None
        self.restart: Reason | None = None
        self.cause: str | None = None
        self.led_by: Operation | None = None


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
        self._missing: dict[str, tuple[StoredDependency, StoredService]] | None = None
        """While the start waits: all dependencies as they were last read or noticed; None to read them again."""
        self._watched: dict[str, tuple[StoredDependency, int]] = {}
        """While the service is up: each dependency, and the revision of its state that was looked at last."""
        self._noticed: list[Change] = []
        """What the next look is to handle, in order."""
        self._stale = True
        """Whether the next look is to read all dependencies."""
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

    def refresh(self) -> None:
        """Read everything again at the next look: the dependencies themselves may have changed."""
        self._missing, self._stale = None, True

    def notice(self, changes: Sequence[Change]) -> bool:
        """Take note of changes of one dependency, in order; whether that needs a look. Known ones are skipped."""
        if self._missing is not None:
            for change in changes:
                self._notice_missing(change.stored)
            return True
        needs_look = False
        for change in changes:
            needs_look = self._notice_watched(change) or needs_look
        return needs_look

    def _notice_missing(self, stored: StoredService) -> None:
        known = None if self._missing is None else self._missing.get(stored.service.id)
        if self._missing is None or known is None or known[0].dependency != stored.service.name:
            self._missing = None
        elif stored.service.state_revision > known[1].service.state_revision:
            self._missing[stored.service.id] = (known[0], stored)

    def _notice_watched(self, change: Change) -> bool:
        stored = change.stored
        key = stored.service.id
        edge, seen = self._watched.get(key, (None, 0))
        if edge is None or self._stale:
            return False  # the next look reads it
        if edge.dependency != stored.service.name:
            self._stale = True
            return True
        if stored.service.state_revision <= seen:
            return False
        self._watched[key] = edge, stored.service.state_revision
        rule = is_met if key in self._lost else is_lost
        if self._noticed or rule(edge.condition, stored, self._manager.boot):
            self._noticed.append(change)
            return True
        if key not in self._lost:
            self._met.add(key)
        return False

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
        if self._missing is not None:
            still = self._look_again(list(self._missing.values()))
            if still is not None:
                return still
        rows = self._rows()
        self._missing = {edge.dependency_id: (edge, dependency) for edge, dependency in rows}
        waits: list[StoredDependency] = []
        self.blocked = None
        for edge, dependency in rows:
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
            self._missing = None
            return None
        return self._waiting(waits)

    def _look_again(self, rows: list[tuple[StoredDependency, StoredService]]) -> Missing | None:
        """What is still missing by the noticed rows; None where only the records themselves can tell what follows."""
        waits: list[StoredDependency] = []
        for edge, dependency in rows:
            peer = self._peer(edge.dependency_id)
            if is_met(edge.condition, dependency, self._manager.boot) and not peer.stopping:
                self._met.add(edge.dependency_id)
                self._claimed.add(edge.dependency_id)
                continue
            waits.append(edge)
            to_start = self._on_demand and edge.dependency_id not in self._claimed
            if to_start or not peer.alive or peer.blocked is not None:
                return None
            if edge.condition is DependencyCondition.HEALTHY and not has_health_check(dependency.service):
                return None
        self.blocked = None
        return self._waiting(waits) if waits else None

    def _waiting(self, waits: list[StoredDependency]) -> Missing:
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

    @property
    def due(self) -> bool:
        """Whether there is something to look at."""
        return self._stale or bool(self._noticed)

    def look(self, service: Service) -> Observed:
        """What was lost and what is back since the last look; ``service`` is the dependent."""
        self._missing = None
        seen = _Look(stored_reason(service))
        noticed, self._noticed = self._noticed, []
        for change in noticed:
            edge, _ = self._watched[change.stored.service.id]
            self._observe(edge, change, seen)
        if self._stale:
            self._stale = False
            rows = self._rows()
            self._watched = {edge.dependency_id: (edge, other.service.state_revision) for edge, other in rows}
            for edge, dependency in rows:
                self._observe(edge, Change(self._manager, dependency), seen)
            self._lost = {key: None for key in self._lost if key in self._watched}
            if self._reason_of is not None and self._reason_of not in self._watched:
                # It no longer depends on what the reason names.
                self._reason_of = seen.reason = None
        lost = [self._watched[key][0].dependency for key in self._lost]
        return Observed(seen.events, lost, seen.reason, seen.stop, seen.restart, seen.cause, seen.led_by)

    def _observe(self, edge: StoredDependency, change: Change, seen: _Look) -> None:
        key, dependency, boot = edge.dependency_id, change.stored, self._manager.boot
        detail = {"dependency": edge.dependency, "condition": edge.condition.value}
        if key in self._lost:
            if is_met(edge.condition, dependency, boot):
                del self._lost[key]
                self._met.add(key)
                seen.events.append(("service.dependency_back", detail))
                seen.cause, seen.led_by = "dependency.back", change.led_to
                if self._reason_of == key and seen.reason is not None:
                    seen.reason = Reason(ServiceReason.DEPENDENCY_BACK, f"{seen.reason.text}; it is back")
                    self._reason_of = None
        elif is_lost(edge.condition, dependency, boot):
            self._lost[key] = None
            why = _why_lost(dependency.service)
            seen.reason = Reason(ServiceReason.DEPENDENCY_LOST, f'lost "{edge.dependency}": {why}')
            self._reason_of = key
            detail |= {"reason": why, "when_lost": edge.when_lost.value}
            seen.events.append(("service.dependency_lost", detail))
            seen.cause, seen.led_by = "dependency.lost", change.led_to
            if key in self._met and edge.when_lost is WhenLost.STOP:
                seen.stop = seen.reason
            elif key in self._met and edge.when_lost is WhenLost.RESTART:
                seen.restart = seen.reason
            self._met.discard(key)
        else:
            self._met.add(key)


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
