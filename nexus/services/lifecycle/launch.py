"""What a run of a service needs before its process can be: its port, its environment, its limits.

It asks the store, the ports, the configuration and the plugins; it starts nothing and writes nothing.
"""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, NamedTuple

from nexus.runtime import ProcessSpec, ports
from nexus.services.errors import ServiceNoCommand, ServicePortTaken
from nexus.services.records import Service
from nexus.supervision import store as port_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from nexus.capability import Hooks
    from nexus.services.store import StoredService
    from nexus.store import StateStore

__all__ = ["argv_of", "choose_port", "directory_of", "make_spec", "port_taken", "refuse_without_command"]

_MIB = 1024 * 1024


def argv_of(command: str | list[str]) -> tuple[str, ...]:
    """The words to run: a string is for the shell."""
    return ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)


def directory_of(service: Service) -> str:
    """Where it runs: where it says, else in its repository, else in the home directory."""
    return service.directory or service.repo_path or os.path.expanduser("~")  # noqa: PTH111


def refuse_without_command(service: Service) -> None:
    """Refuse to start what says not how.

    Raises:
        ServiceNoCommand: it has no run command.
    """
    if service.run_command is None:
        raise ServiceNoCommand(
            f'cannot start service "{service.name}": it has no run command',
            hint=f"Give it one: nexusctl service update {service.name} --run 'COMMAND'",
            details={"id": service.id, "name": service.name},
        )


class Lease(NamedTuple):
    """The port of a run, and whether it may be another one."""

    port: int | None
    leased: bool


async def choose_port(
    store: StateStore, stored: StoredService, avoid: set[int], ours: Callable[[int], str | None]
) -> Lease:
    """The port for the next run: the declared one if nobody listens there, or a free one in place of 0.

    ``ours`` tells the name of the service that a pid belongs to. A port leased for the run before is taken again where
    that is possible.

    Raises:
        ServicePortTaken: somebody listens on the declared one.
        ResourceExhausted: no port is free.
    """
    service = stored.service
    if service.port is None:
        return Lease(None, False)
    if service.port == 0:
        taken = store.read(lambda reader: port_store.ports_given(reader, service.id)) | avoid
        return Lease(await ports.find_free_in_thread(taken, service.active_port), True)
    holder = await ports.holder_in_thread(service.port)
    if holder is not None:
        name = None if holder.pid is None else await asyncio.to_thread(ours, holder.pid)
        raise port_taken(service, service.port, holder, name)
    return Lease(service.port, False)


def port_taken(service: Service, port: int, holder: ports.PortHolder | None, owner: str | None) -> ServicePortTaken:
    """The refusal that says who has the port."""
    words = [] if owner is None else [f'service "{owner}"']
    if holder is not None:
        words.append(ports.describe_holder(holder))
    who = ", ".join(words)
    details = {"id": service.id, "name": service.name, "port": port, "reason": f"port {port} is in use by {who}"}
    if owner is not None:
        details["holder"] = owner
    if holder is not None and holder.pid is not None:
        details |= {"pid": holder.pid, "command": holder.command}
    return ServicePortTaken(
        f'cannot start service "{service.name}": port {port} is in use by {who}',
        hint=f"Stop that: nexusctl service stop {owner}"
        if owner is not None
        else "Stop that, or give the service another port (0: a free one at each start).",
        details=details,
    )


async def make_spec(service: Service, environment: Mapping[str, str], hooks: Hooks | None) -> ProcessSpec:
    """What the process room is to start; plugins are asked first.

    Raises:
        NexusError: a plugin refuses.
    """
    assert service.run_command is not None
    argv = argv_of(service.run_command)
    directory = directory_of(service)
    variables = dict(environment)
    if hooks is not None:
        fields = {"id": service.id, "name": service.name, "run_command": service.run_command, "directory": directory}
        variables = await hooks.pre_start(service.name, fields, variables)
    return ProcessSpec(
        argv=argv,
        directory=directory,
        environment=variables,
        stop_signal=signal.Signals[service.stop_signal.value].value,
        stop_grace_ms=service.stop_grace_ms,
        log_bytes=service.log_limit_mib * _MIB,
        memory_bytes=None if service.memory_limit_mib is None else service.memory_limit_mib * _MIB,
        cpu_percent=service.cpu_limit_percent,
    )
