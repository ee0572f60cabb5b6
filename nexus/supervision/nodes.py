"""Where jobs run beside this machine: the capability that has the nodes registers how they are reached.

It knows no node and no job. A node is named by its id; ``LOCAL`` is this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, Protocol

from nexus.runtime import Exit, Orphans, ProcessSpec, Watched
from nexus.store import Reader

__all__ = ["LOCAL", "Blocked", "Elsewhere", "NodeProvider", "NodeSession", "Nodes", "Runs"]

LOCAL = "local"
"""The id of the node that always exists: the daemon's own machine."""


class Runs(Protocol):
    """The process runtime as a supervision uses it, here or elsewhere: ``Runtime`` says what each method does."""

    def check(self, spec: ProcessSpec) -> None:
        """As ``Runtime``."""

    async def start(self, owner: str, run_id: str, spec: ProcessSpec, *, stdin: int | None = None) -> Watched:
        """As ``Runtime``."""

    async def adopt(self, owner: str, run_id: str) -> Watched | Exit | None:
        """As ``Runtime``."""

    async def find_orphans(self, owners: Mapping[str, str]) -> dict[str, Orphans]:
        """As ``Runtime``."""

    async def end_orphans(self, orphans: Orphans, number: int, grace_ms: int) -> None:
        """As ``Runtime``."""

    async def stop_unreadable(self, owner: str, run_id: str) -> None:
        """As ``Runtime``."""

    def forget(self, owner: str, run_id: str) -> None:
        """As ``Runtime``."""


class NodeSession(NamedTuple):
    """What a job finds on a node."""

    environment: dict[str, str]
    """The variables of a login there, without those of the daemon."""
    home: str
    shell: str
    """The shell that runs a line for bash."""


class Elsewhere(Runs, Protocol):
    """The runs on another node."""

    async def session(self) -> NodeSession:
        """What a job finds there; connects if need be.

        Raises:
            RuntimeFailure: the node cannot be reached at present.
        """


class Blocked(NamedTuple):
    """Why no job begins on a node at present: ``code`` is for programs, ``text`` is the sentence for people.

    Without a text there is nothing to tell: one may begin in a moment.
    """

    code: str
    text: str


class NodeProvider(Protocol):
    """The nodes of one daemon but ``LOCAL``."""

    def runs(self, node_id: str) -> Elsewhere:
        """The runs on a node, also on one that was removed."""

    def blocked(self, node_id: str) -> Blocked | None:
        """Why no job begins there at present, None where one may. A node that is not connected is connected to."""

    def cores(self, node_id: str) -> int | None:
        """How many cores it has, as far as that is known."""


class Nodes:
    """The nodes of one daemon, and who asks for them."""

    def __init__(self) -> None:
        self.provider: NodeProvider | None = None
        self._known: list[Callable[[Reader, str], set[str]]] = []
        self._ready: list[Callable[[], None]] = []

    def register(self, provider: NodeProvider) -> None:
        """Have the nodes that a capability has."""
        self.provider = provider

    def register_user(self, known: Callable[[Reader, str], set[str]], ready: Callable[[], None]) -> None:
        """``known`` gives the ids of the runs that records know on a node; ``ready`` is called when one may begin."""
        self._known.append(known)
        self._ready.append(ready)

    def known_runs(self, reader: Reader, node_id: str) -> set[str]:
        """The ids of the runs that records know on a node."""
        return set().union(*(known(reader, node_id) for known in self._known))

    def ready(self) -> None:
        """What a node can do has changed: jobs may begin there, or no more."""
        for call in self._ready:
            call()

    def elsewhere(self, node_id: str) -> Elsewhere | None:
        """The runs on a node; None for this machine."""
        return None if node_id == LOCAL or self.provider is None else self.provider.runs(node_id)
