"""Lists, look-ups and completion in one of a thousand projects with a hundred services each, and over all of them."""

from __future__ import annotations

import functools
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench.measures import Measure, Sample, duration
from bench.world import World
from nexus_protocol import Command
from support.daemon import DaemonProcess

from nexus.client import BlockingClient
from nexus.projects.commands import CreateProject
from nexus.services.commands import AddService, GetServiceStatus, ListDependencies, ListServices
from nexus.services.states import ServiceState

__all__ = ["PROJECT_MEASURES"]

PROJECTS = 1000
SERVICES = 100
_MIDDLE = f"project-{PROJECTS // 2}"


@functools.cache
def _daemon(world: World, projects: int) -> DaemonProcess:
    """A daemon with this number of projects; each has services of the same names."""
    daemon = world.new_daemon().start()
    with BlockingClient(daemon.socket_path) as client:
        first = PROJECTS // 2
        for number in range(first, first + projects):
            client.call(CreateProject(f"project-{number}"))
            services = [AddService(f"service-{each:03}", run_command="true") for each in range(SERVICES)]
            client.batch(services, project=f"project-{number}")
    return daemon


def _latency(world: World, command: Command[Any], project: str | None) -> Sample:
    """The median duration of a command in milliseconds, and that where there is one project."""
    rounds = 20 if world.quick else 200
    found = []
    for projects in (PROJECTS // 10 if world.quick else PROJECTS, 1):
        with BlockingClient(_daemon(world, projects).socket_path) as client:
            call = functools.partial(client.call_raw, command, project=project)
            call()
            found.append(statistics.median(duration(call) for _ in range(rounds)) * 1000)
    return Sample(*found)


def _completion(world: World) -> Sample:
    """The duration of a completion of services' names in milliseconds, whole process, and that in one project."""
    program = Path(sys.executable).with_name("nexusctl")
    found = []
    for projects in (PROJECTS // 10 if world.quick else PROJECTS, 1):
        environment = os.environ | _daemon(world, projects).environment | {"NEXUS_PROJECT": _MIDDLE}
        environment |= {"_NEXUSCTL_COMPLETE": "bash_complete", "COMP_WORDS": "nexusctl service start serv"}
        environment |= {"COMP_CWORD": "3"}

        def complete(environment: dict[str, str] = environment) -> None:
            done = subprocess.run([program], env=environment, capture_output=True, text=True, check=True)
            assert len(done.stdout.splitlines()) == SERVICES

        complete()
        found.append(statistics.median(duration(complete) for _ in range(5 if world.quick else 20)) * 1000)
    return Sample(*found)


_COMMANDS: dict[str, tuple[str, Command[Any], str | None]] = {
    "list": ("ListServices of one project", ListServices(), _MIDDLE),
    "nothing": (
        "ListServices of one project in a state that none has",
        ListServices(state=ServiceState.FAILED),
        _MIDDLE,
    ),
    "get": ("GetServiceStatus by name", GetServiceStatus("service-050"), _MIDDLE),
    "edges": ("ListDependencies of one project", ListDependencies(), _MIDDLE),
    "all": ("ListServices of all projects, 100 records", ListServices(limit=100), "*"),
    "all-nothing": (
        "ListServices of all projects in a state that none has",
        ListServices(state=ServiceState.FAILED),
        "*",
    ),
}

PROJECT_MEASURES = (
    *(
        Measure(
            f"projects-{name}",
            f"{title}; {PROJECTS:,} projects with {SERVICES} services each, p50",
            "ms",
            1.5,
            False,
            functools.partial(_latency, command=command, project=project),
            "one project",
        )
        for name, (title, command, project) in _COMMANDS.items()
    ),
    Measure(
        "projects-completion",
        "Completion of services' names, whole process, p50",
        "ms",
        1.2,
        False,
        _completion,
        "one project",
    ),
)
"""In the order of the table."""
