"""The states of a VM record, and the transition table."""

from __future__ import annotations

from nexus_protocol.command import WireEnum

__all__ = ["TRANSITIONS", "VmRole", "VmState"]


class VmRole(WireEnum):
    """The purpose of a VM."""

    PORTAL = "portal"
    WORK = "work"
    SERVICE = "service"


class VmState(WireEnum):
    """The state of a VM."""

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
"""The states that may follow each state. No state is final."""
