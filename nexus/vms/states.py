"""The states of a VM record, and the one table of what may follow what."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["TRANSITIONS", "VmRole", "VmState"]


class VmRole(WireEnum):
    """What a VM is for."""

    PORTAL = "portal"
    WORK = "work"
    SERVICE = "service"


class VmState(WireEnum):
    """Where a VM is in its life."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    CRASHED = "crashed"
    FAILED = "failed"


TRANSITIONS: dict[VmState, frozenset[VmState]] = {
    VmState.CREATED: frozenset({VmState.RUNNING, VmState.FAILED}),
    VmState.RUNNING: frozenset({VmState.STOPPED, VmState.CRASHED, VmState.FAILED}),
    VmState.STOPPED: frozenset({VmState.RUNNING, VmState.FAILED}),
    VmState.CRASHED: frozenset({VmState.RUNNING, VmState.FAILED}),
    VmState.FAILED: frozenset({VmState.RUNNING}),
}
"""From each state, those that may follow it. No state is a dead end."""
