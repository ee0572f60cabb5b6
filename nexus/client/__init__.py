"""Clients of the daemon: ``Client`` for asyncio, ``BlockingClient`` without it, over one protocol engine.

::

    async with Client() as nexus:
        vm = await nexus.call(CreateVm(name="web"))

Commands and records come from the capabilities: ``nexus.vms``, ``nexus.system``, ``nexus.journal``, each in its module
``commands``. Errors are those of ``nexus_protocol``, and ``ConnectError`` and ``ConnectionLost``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus.client.errors import ConnectError, ConnectionFailure, ConnectionLost, Interrupted

if TYPE_CHECKING:
    from nexus.client.aio import Client, Stream
    from nexus.client.blocking import BlockingClient, BlockingStream

__all__ = [
    "BlockingClient",
    "BlockingStream",
    "Client",
    "ConnectError",
    "ConnectionFailure",
    "ConnectionLost",
    "Interrupted",
    "Stream",
]


def __getattr__(name: str) -> Any:
    # Who needs one client should not wait for the import of the other one's asyncio.
    if name in ("Client", "Stream"):
        from nexus.client import aio as module
    elif name in ("BlockingClient", "BlockingStream"):
        from nexus.client import blocking as module  # type: ignore[no-redef]
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(module, name)
