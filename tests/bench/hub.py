"""The measures of a service with four hundred dependents: what its changes cost itself, and another client."""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import threading
from collections.abc import Callable, Iterator

from bench.measures import Measure, Sample, duration
from bench.world import Pipeline, World
from nexus_protocol import Command
from support.raw import wait_until

from nexus.client import BlockingClient
from nexus.services.commands import (
    AddDependency,
    AddService,
    ListServices,
    RestartService,
    StartService,
    UpdateService,
)
from nexus.services.records import ServiceStarted
from nexus.services.states import ServiceState
from nexus.system.commands import Ping

__all__ = ["HUB_MEASURES"]

COUNT = 400
NAMES = [f"dependent-{number:03}" for number in range(COUNT)]
PROGRAM = ["/bin/sleep", "100000"]


class Hub:
    """A daemon with a service that four hundred others depend on, all of them up."""

    def __init__(self, world: World) -> None:
        self.daemon = world.new_daemon()
        self.daemon.start()
        world.enter(contextlib.closing(self.daemon))
        self._numbers = itertools.count()
        self.client = world.enter(BlockingClient(self.daemon.socket_path))
        self.client.call(AddService(name="hub", run_command=PROGRAM, start_window_ms=0))
        self._each(lambda name: AddService(name=name, run_command=PROGRAM, start_window_ms=0))
        self._each(lambda name: AddDependency(service=name, dependency="hub"))
        self._each(lambda name: StartService(service=name))

    def _each(self, command: Callable[[str], Command[object]]) -> None:
        names = iter(NAMES)
        with contextlib.closing(Pipeline(self.daemon.socket_path)) as pipeline:
            assert pipeline.run(lambda: command(next(names)), lambda sent: sent < COUNT) == COUNT

    def settle(self) -> None:
        """Wait until no dependent has lost the hub."""

        def settled() -> bool:
            services = self.client.call(ListServices()).services
            return all(each.state is ServiceState.RUNNING and not each.lost_dependencies for each in services)

        wait_until(settled, "the dependents of the hub")

    def restart(self) -> ServiceStarted:
        """Restart the hub."""
        return self.client.call(RestartService(service="hub"))

    def update(self) -> None:
        """Change a field of the hub that concerns no dependent."""
        self.client.call(UpdateService(service="hub", tags=[f"tag-{next(self._numbers)}"]))

    @contextlib.contextmanager
    def pings(self) -> Iterator[list[float]]:
        """The latencies in ms of another client's pings within the block."""
        taken: list[float] = []
        ended = threading.Event()

        def ping() -> None:
            with BlockingClient(self.daemon.socket_path) as client:
                while not ended.is_set():
                    taken.append(duration(lambda: client.call(Ping())) * 1000)

        thread = threading.Thread(target=ping)
        thread.start()
        try:
            yield taken
        finally:
            ended.set()
            thread.join()


@functools.cache
def _hub_of(world: World) -> Hub:
    return Hub(world)


def _p99_within(world: World, change: Callable[[Hub], object], times: int) -> Sample:
    """The 99th percentile of the pings while the hub is changed, until its dependents know."""
    hub = _hub_of(world)
    hub.settle()
    with world.all_cores(hub.daemon), hub.pings() as taken:
        for _ in range(times if world.quick else 3 * times):
            change(hub)
    hub.settle()
    return Sample(statistics.quantiles(taken, n=100)[98])


def _restart(world: World) -> Sample:
    hub = _hub_of(world)
    taken = []
    for _ in range(3 if world.quick else 10):
        hub.settle()
        with world.all_cores(hub.daemon):
            taken.append(duration(hub.restart) * 1000)
    return Sample(statistics.median(taken))


HUB_MEASURES = (
    Measure(
        "hub-update-ping",
        f"Ping p99 during UpdateService of one with {COUNT} dependents",
        "ms",
        10.0,
        False,
        functools.partial(_p99_within, change=Hub.update, times=50),
    ),
    Measure(
        "hub-restart-ping",
        "the same during RestartService",
        "ms",
        10.0,
        False,
        functools.partial(_p99_within, change=Hub.restart, times=3),
    ),
    Measure("hub-restart", f"RestartService of one with {COUNT} dependents", "ms", 120.0, False, _restart),
)
"""In the order of the table."""
