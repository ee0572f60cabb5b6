"""Clients of the daemon: ``Client`` for asyncio, ``BlockingClient`` without it, over one protocol engine.

::

    async with Client() as nexus:
        vm = await nexus.call(CreateVm(name="web"))

Commands and records are in the module ``commands`` of each capability: ``nexus.vms``, ``nexus.services``,
``nexus.projects``, ``nexus.system``, ``nexus.journal``. Errors are those of ``nexus_protocol``, ``ConnectError``,
``ConnectionLost`` and ``DaemonTooOld``.

A request may say beside its fields why it is made, for people, and have a key, so that its repetition is recognised::

    with BlockingClient(why="nightly tests") as nexus:
        vm = nexus.call(CreateVm(name="web"), key="tests-2026-03-01")

Names are looked up in one project: that of ``NEXUS_PROJECT``, else ``default``, or ``Client(project="shop")``. A client
never looks for a folder. ``ProjectRoot`` names a project by its folder.

The daemon of another host is reached by the system's ssh: ``Client(host="ssh://me@build1")``, or ``NEXUS_HOST``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus.client.errors import (
    ConnectError,
    ConnectionFailure,
    ConnectionLost,
    ConnectTimeout,
    DaemonTooOld,
    Interrupted,
)

if TYPE_CHECKING:
    from nexus.client.aio import Client, Stream
    from nexus.client.blocking import BlockingClient, BlockingStream

__all__ = [
    "BlockingClient",
    "BlockingStream",
    "Client",
    "ConnectError",
    "ConnectTimeout",
    "ConnectionFailure",
    "ConnectionLost",
    "DaemonTooOld",
    "Interrupted",
    "Stream",
]


def __getattr__(name: str) -> Any:
    # The blocking client must not pay for the import of asyncio.
    if name in ("Client", "Stream"):
        from nexus.client import aio as module
    elif name in ("BlockingClient", "BlockingStream"):
        from nexus.client import blocking as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
