"""How the record of a service becomes the program that the runtime starts: argv, directory, limits.

It asks the plugins; it starts nothing and writes nothing.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from nexus.capability import Hooks
from nexus.hints import command_line
from nexus.records.scope import reference_of
from nexus.runtime import ProcessSpec
from nexus.services.errors import ServiceNoCommand
from nexus.services.records import Service
from nexus.services.states import StdinMode

__all__ = ["argv_of", "directory_of", "make_spec", "refuse_without_command", "umask_of"]

_MIB = 1024 * 1024


def argv_of(command: str | list[str]) -> tuple[str, ...]:
    """The argument vector of a command: a string is run by the shell."""
    return ("/bin/sh", "-c", command) if isinstance(command, str) else tuple(command)


def directory_of(service: Service) -> str:
    """The working directory: the declared one, else the repository, else the home directory."""
    return service.directory or service.repo_path or os.path.expanduser("~")  # noqa: PTH111


def umask_of(service: Service) -> int | None:
    """The declared umask; None: that of the session that started the daemon."""
    return None if service.umask is None else int(service.umask, 8)


def refuse_without_command(service: Service) -> None:
    """Return if the service has a run command.

    Raises:
        ServiceNoCommand: it has none.
    """
    if service.run_command is None:
        raise ServiceNoCommand(
            f'cannot start service "{service.name}": it has no run command',
            hint="Give it one: "
            + command_line("nexusctl", "service", "update", reference_of(service), "--run", "COMMAND"),
            details={"id": service.id, "name": service.name},
        )


async def make_spec(service: Service, environment: Mapping[str, str], hooks: Hooks | None) -> ProcessSpec:
    """The program that the runtime starts; plugins may change the environment first.

    Raises:
        NexusError: a plugin refuses.
    """
    assert service.run_command is not None
    argv = argv_of(service.run_command)
    directory = directory_of(service)
    variables = dict(environment)
    if hooks is not None:
        fields: dict[str, Any] = {"id": service.id, "project": service.project, "name": service.name}
        fields |= {"run_command": service.run_command, "directory": directory}
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
        umask=umask_of(service),
        terminal=service.tty,
        stdin="open" if service.stdin is StdinMode.OPEN else "null",
    )
