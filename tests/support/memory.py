"""A project with an agent for tests of the memory, of a daemon that they share."""

from __future__ import annotations

import uuid
from typing import Any

from nexus_protocol import Command
from nexus_protocol.context import HeldLease

from nexus.client import BlockingClient
from nexus.journal.commands import Event, WatchEvents
from nexus.ledger.agents.commands import CreateAgent
from nexus.ledger.states import AgentType
from nexus.ledger.tasks.commands import ClaimTask, CreateTask
from nexus.ledger.tasks.records import ClaimedTask
from nexus.projects.commands import CreateProject
from support.daemon import DaemonProcess

__all__ = ["Desk"]


class Desk:
    """A client that speaks in a project of its own, and has an agent of its own."""

    def __init__(self, daemon: DaemonProcess) -> None:
        self.daemon = daemon
        self.client = BlockingClient(daemon.socket_path)
        self.client.connect()
        made = uuid.uuid4().hex[:12]
        self.agent = f"a-{made}"
        self.project = self.client.call(CreateProject(f"p-{made}"))
        self.agent_id = self.client.call(CreateAgent(self.agent, AgentType.CODER)).id

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_error: object) -> None:
        self.client.close()

    def call(self, command: Command[Any], lease: HeldLease | None = None) -> Any:
        """The reply of a command in the project."""
        return self.client.call(command, project=self.project.id, lease=lease)

    def task(self, name: str = "a") -> str:
        """Create a task; returns its number."""
        return str(self.call(CreateTask(name)).number)

    def claim(self, task: str, **fields: Any) -> tuple[HeldLease, ClaimedTask]:
        """Claim a task; returns the lease, and the reply."""
        claimed: ClaimedTask = self.call(ClaimTask(self.agent, task=task, **fields))
        return HeldLease(claimed.lease.id, claimed.lease.epoch), claimed

    def events(self, *kinds: str) -> list[Event]:
        """The events of the project of these kinds."""
        with self.client.stream(WatchEvents(kinds=list(kinds), follow=False), project=self.project.id) as stream:
            return [event for event in stream if event.kind is not None]
