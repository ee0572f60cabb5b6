"""Builds the environment of a service's run from its sources, and records the source of each variable.

Each source overrides those before it: the daemon's own environment (inherited), the configuration files (file), the
service's record (service), the start (start), the port (port), the tunnels (tunnel), and Nexus itself (nexus).
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from nexus.runtime import loopback
from nexus.runtime.inheritance import inherited_environment
from nexus.services.configuration.config_file import read_config_files
from nexus.services.records import tunnel_prefix
from nexus.services.store import StoredService

__all__ = ["Variable", "as_environment", "resolve"]


class Variable(NamedTuple):
    """A variable of a run, with the source that its value comes from."""

    name: str
    value: str | None
    """None: not known before the service starts."""
    source: str

    def __repr__(self) -> str:
        return f"Variable({self.name}, {self.source})"


async def resolve(
    stored: StoredService,
    *,
    inherited: Mapping[str, str] | None = None,
    port: int | None = None,
    tunnels: Mapping[str, int] | None = None,
    run_id: str | None = None,
) -> list[Variable]:
    """The whole environment of a run, sorted by name.

    ``inherited`` is the part of the daemon's environment (default: ``inherited_environment()``), ``port`` the port of
    this run, and ``tunnels`` has the loopback port of each tunnelled dependency by name. A variable whose port or run
    id is not given has the value None.

    Raises:
        ServiceConfigFile: a configuration file cannot be read.
    """
    service = stored.service
    layers: list[tuple[str, Mapping[str, str | None]]] = []
    base = inherited_environment() if inherited is None else inherited
    layers.append(("inherited", base))
    if service.config_filename is not None:
        # In a thread: a slow file system must not block the event loop.
        layers.append(("file", await asyncio.to_thread(read_config_files, service, base)))
    layers += [("service", stored.environment), ("start", stored.start_environment)]
    if service.port is not None:
        layers.append(("port", {"PORT": _text(port if port is not None else service.port or None)}))
    tunnel_ports = tunnels or {}
    for edge in stored.dependencies:
        if edge.tunnel_enabled:
            prefix = tunnel_prefix(edge.dependency)
            tunnel = {f"{prefix}HOST": loopback.HOST, f"{prefix}PORT": _text(tunnel_ports.get(edge.dependency))}
            layers.append(("tunnel", tunnel))
    layers.append(("nexus", {"NEXUS_PROJECT": service.project, "NEXUS_SERVICE": service.name, "NEXUS_RUN_ID": run_id}))
    variables = {name: Variable(name, value, source) for source, values in layers for name, value in values.items()}
    return [variables[name] for name in sorted(variables)]


def _text(number: int | None) -> str | None:
    return None if number is None else str(number)


def as_environment(variables: Iterable[Variable]) -> dict[str, str]:
    """The environment as a process gets it: the variables whose values are known."""
    return {variable.name: variable.value for variable in variables if variable.value is not None}
