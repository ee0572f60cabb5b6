"""The port of a run: the declared one or a leased one, and the error that names its holder."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from nexus.hints import command_line
from nexus.runtime import ports
from nexus.services.dependencies.store import name_of_lease
from nexus.services.errors import ServicePortTaken
from nexus.services.lifecycle.context import ServiceContext
from nexus.services.records import Service
from nexus.services.store import StoredService, port_lease

__all__ = ["PortChoice", "choose_port", "describe_held", "leased_by_another"]

_FREE_S = 2.0
"""How long the port of a stopped service may stay in use before that is said."""


class PortChoice(NamedTuple):
    """The port of the next run, if it has one."""

    port: int | None
    leased: bool
    """Whether the port was chosen, so that a conflict is resolved by choosing another."""


async def choose_port(context: ServiceContext, stored: StoredService, avoid: set[int]) -> PortChoice:
    """The declared port, or for 0 a free one, if possible the one of the run before.

    Raises:
        ServicePortTaken: a process listens on the declared one.
        ResourceExhausted: no port is free.
    """
    service = stored.service
    if service.port is None:
        return PortChoice(None, False)
    if service.port == 0:
        owner = port_lease(service.id)
        return PortChoice(await context.manager.ports.find_free(owner, service.active_port, avoid), True)
    holder = await ports.holder_in_thread(service.port)
    if holder is None:
        return PortChoice(service.port, False)
    by = ports.describe_holder(holder)
    if holder.pid is None:
        raise _taken(service, service.port, by)
    name = await asyncio.to_thread(context.services.service_of_pid, holder.pid)
    if name is not None:
        by = f'service "{name}", {by}'
    raise _taken(service, service.port, by, name, pid=holder.pid, command=holder.command)


def leased_by_another(context: ServiceContext, service: Service, port: int) -> ServicePortTaken:
    """The error of a declared port that another record has leased."""
    name = context.manager.store.read(lambda reader: name_of_lease(reader, port), snapshot=True)
    return _taken(service, port, "another service" if name is None else f'service "{name}"', name)


async def describe_held(port: int | None) -> str:
    """Words for the reason of a stop after which the port is not free; empty where it is."""
    if port is None or await ports.wait_until_free(port, _FREE_S):
        return ""
    holder = await ports.holder_in_thread(port)
    return "" if holder is None else f"; port {port} is in use by {ports.describe_holder(holder)}"


def _taken(service: Service, port: int, by: str, holder: str | None = None, **details: object) -> ServicePortTaken:
    """The error of a port in use: ``by`` says by what, ``holder`` is the name of a service."""
    known = {"id": service.id, "name": service.name, "port": port, "reason": f"port {port} is in use by {by}"}
    if holder is not None:
        known["holder"] = holder
    return ServicePortTaken(
        f'cannot start service "{service.name}": port {port} is in use by {by}',
        hint=f"Stop that: {command_line('nexusctl', 'service', 'stop', holder)}"
        if holder is not None
        else "Stop that, or give the service another port (0: a free one at each start).",
        details=known | details,
    )
