"""Keeps the records of nodes and the connections to them in agreement, and gives jobs their runs elsewhere."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection
from typing import Any

from nexus.capability import ManagerContext
from nexus.journal.operation import Operation
from nexus.journal.rows import Event
from nexus.nodes.commands import Node, NodeChecked, NodeUnreachable, NodeUnusable
from nexus.nodes.probe import Probe, limits_of, parse_probe
from nexus.nodes.states import NodeStatus
from nexus.nodes.store import NODES
from nexus.remote.connection import Connection
from nexus.remote.errors import Destination, HostRefused, HostUnreachable
from nexus.remote.runtime import Notes, RemoteRuntime
from nexus.remote.session import Greeting, Session
from nexus.runtime.status import now_ms
from nexus.store import StoreError, Transaction
from nexus.supervision.nodes import Blocked, NodeSession
from nexus.tasks import BackgroundTasks, cancel_and_wait

__all__ = ["NodeManager", "make_manager"]

_log = logging.getLogger("nexus.nodes")

_HEARTBEAT_MS = 30_000
_MISSES = 3
_CHECK_S = 40.0
_RETRY_S = 1.0
_UNREACHABLE = "node_unreachable"
_DRAINED = "node_drained"


class _Runs(RemoteRuntime):
    """The runs on one node, as jobs see them."""

    async def session(self) -> NodeSession:
        """As ``Elsewhere``."""
        await self.connection.use(_CHECK_S)
        environment = dict(self.greeting().environment)
        home = environment.get("HOME") or "/"
        return NodeSession(environment, home, "/bin/bash" if self.has_bash else "/bin/sh")

    has_bash = True


class _Link:
    """The connection to one node, and what of it is to be written into its record."""

    def __init__(self, manager: NodeManager, node_id: str, node: Node | None) -> None:
        self.id = node_id
        self.node = node
        """As it was last read; None where it was removed."""
        self.misses = 0
        self.heard_at = 0
        self._manager = manager
        self.connection = Connection(node_id, _destination(node_id, node), manager.notes.owner, self)
        self.runs = _Runs(node_id, self.connection, manager.context.runtime, manager.notes)
        self._writing = asyncio.Lock()
        self.note_tools()

    def note_tools(self) -> None:
        """Take over what the record knows of the tools there."""
        tools = [] if self.node is None else self.node.capabilities.get("tools", [])
        self.runs.has_bash = not tools or "bash" in tools

    # What the connection tells

    def connected(self, greeting: Greeting) -> None:
        """As ``Events``."""
        was_offline = self.node is None or self.node.status is not NodeStatus.ONLINE
        events: list[Event] = [("node.online", {"ip_address": greeting.address})] if was_offline else []
        self.misses, self.heard_at = 0, now_ms()
        self.write(
            events,
            status=NodeStatus.ONLINE,
            reason=None,
            ip_address=greeting.address,
            last_heartbeat=self.heard_at,
        )

    def ready(self, session: Session) -> None:
        """As ``Events``."""
        if self.node is not None and "os" not in self.node.capabilities:
            self._manager.tasks.spawn(self._probe_quietly(session))
        self._manager.context.nodes.ready()

    def answered(self) -> None:
        """As ``Events``."""
        if now_ms() - self.heard_at >= _HEARTBEAT_MS:
            self.heard_at = now_ms()
            self.write([], last_heartbeat=self.heard_at)

    def missed(self, failure: HostUnreachable) -> None:
        """As ``Events``."""
        self.misses += 1
        _log.info("%s", failure.message)
        changes: dict[str, Any] = {"reason": failure.message}
        events: list[Event] = []
        if self.misses >= _MISSES and self.node is not None and self.node.status is NodeStatus.ONLINE:
            changes["status"] = NodeStatus.OFFLINE
            events = [("node.offline", {"reason": failure.message})]
        self.write(events, **changes)
        self._manager.context.nodes.ready()

    def known(self) -> Collection[str]:
        """As ``Events``."""
        context = self._manager.context
        return context.store.read(lambda reader: context.nodes.known_runs(reader, self.id))

    def removed(self, run_id: str) -> None:
        """As ``Events``."""
        self._manager.notes.delete(self.id, run_id)

    # Its record

    def write(self, events: list[Event], **changes: Any) -> None:
        """Write observed fields into the record, after those that were given before."""
        if self.node is not None:
            self._manager.tasks.spawn(self._write(events, changes))

    async def _write(self, events: list[Event], changes: dict[str, Any]) -> None:
        async with self._writing:
            operation = self._manager.context.cause("node.connection")
            while True:
                try:
                    await self.write_now(operation, events, changes)
                    return
                except StoreError as error:
                    _log.warning("node %s: %s", self.id, error.message)
                    await asyncio.sleep(_RETRY_S)

    async def write_now(self, operation: Operation, events: list[Event], changes: dict[str, Any]) -> None:
        """Write observed fields into the record.

        Raises:
            StoreError: that cannot be written at present.
        """

        def change(tx: Transaction) -> Node | None:
            present = NODES.by_id(tx, self.id)
            if present is None:
                return None
            different = {name: value for name, value in changes.items() if getattr(present, name) != value}
            return NODES.write(tx, operation, self.id, different, events) if different else present

        self.node = await self._manager.context.store.write(change)
        self.note_tools()

    async def probe(self, session: Session) -> Probe:
        """Find what the host has.

        Raises:
            HostUnreachable: the session is over.
            HostRefused: no job can run there.
        """
        assert session.greeting is not None
        runner = self.connection.runner_of(session.greeting)
        return parse_probe((await session.request("probe")).decode(errors="replace"), runner)

    async def _probe_quietly(self, session: Session) -> None:
        try:
            found = await self.probe(session)
        except (HostUnreachable, HostRefused) as error:
            _log.info("node %s: %s", self.id, error.message)
            return
        self.write([], capabilities=found.capabilities)


class NodeManager:
    """The connections of one daemon to its nodes: made when they are needed."""

    def __init__(self, context: ManagerContext) -> None:
        self.context = context
        self.notes = Notes(context.directory / "nodes")
        self._links: dict[str, _Link] = {}
        self.tasks = BackgroundTasks("nodes", _log)
        context.nodes.register(self)

    async def start(self) -> None:
        """Have what is left on nodes of runs that no record knows ended and removed, once they can be reached."""
        for node_id in await asyncio.to_thread(self.notes.nodes):
            runs = await asyncio.to_thread(self.notes.runs, node_id)
            link = self._link(node_id)
            if link.node is None:
                for run_id in runs:
                    self.notes.delete(node_id, run_id)
                continue
            for run_id in runs - set(link.known()):
                link.connection.forget(run_id)

    async def close(self) -> None:
        """End every connection; what runs elsewhere goes on."""
        await asyncio.gather(*(link.connection.close() for link in self._links.values()))
        await cancel_and_wait(*self.tasks)

    def children(self) -> int:
        """None: jobs are counted as such, and what is left of others on a node is swept by the next daemon as well."""
        return 0

    def _link(self, node_id: str) -> _Link:
        link = self._links.get(node_id)
        if link is None:
            node = self.context.store.read(lambda reader: NODES.by_id(reader, node_id))
            link = self._links[node_id] = _Link(self, node_id, node)
        return link

    # What jobs ask

    def runs(self, node_id: str) -> _Runs:
        """As ``NodeProvider``."""
        return self._link(node_id).runs

    def blocked(self, node_id: str) -> Blocked | None:
        """As ``NodeProvider``. While it is connected to for the first time there is no reason to tell."""
        link = self._link(node_id)
        if link.node is None:
            return Blocked(_UNREACHABLE, f'node "{node_id}" was removed')
        if link.node.drained:
            return Blocked(_DRAINED, f'node "{node_id}" is drained')
        if link.connection.session is not None:
            return None
        link.connection.want()
        failure = link.connection.failure
        return Blocked(_UNREACHABLE, "" if failure is None else failure.message)

    def cores(self, node_id: str) -> int | None:
        """As ``NodeProvider``."""
        node = self._link(node_id).node
        found = None if node is None else node.capabilities.get("cores")
        return found if isinstance(found, int) else None

    # Commands

    def changed(self, node: Node) -> None:
        """A node was changed."""
        link = self._links.get(node.id)
        if link is not None:
            link.node = node
            link.connection.change(_destination(node.id, node))
        self.context.nodes.ready()

    def removed(self, node: Node) -> None:
        """A node was removed: its connection ends."""
        link = self._links.pop(node.id, None)
        if link is not None:
            link.node = None
            self.tasks.spawn(link.connection.close())

    async def check(self, node: Node, operation: Operation) -> NodeChecked:
        """Connect to a node and write what is found there.

        Raises:
            NodeUnreachable: it cannot be reached.
            NodeUnusable: no job can run there.
        """
        link = self._link(node.id)
        link.node = link.node or node
        details = {"id": node.id, "name": node.name}
        try:
            session = await link.connection.use(_CHECK_S)
            found = await link.probe(session)
        except HostUnreachable as failure:
            raise NodeUnreachable(failure.message, hint=failure.hint, details=details) from None
        except HostRefused as refusal:
            raise NodeUnusable(refusal.message, hint=refusal.hint, details=details) from None
        await link.write_now(operation, [], {"capabilities": found.capabilities})
        if found.problem is not None:
            raise NodeUnusable(f'cannot run jobs on node "{node.name}": {found.problem}', details=details)
        runner = found.capabilities["runner"]
        return NodeChecked(link.node or node, limits_of(runner))


def _destination(node_id: str, node: Node | None) -> Destination:
    return Destination(node_id) if node is None else Destination(node.hostname, node.user, node.port)


def make_manager(context: ManagerContext) -> NodeManager:
    """The manager of this capability."""
    return NodeManager(context)
