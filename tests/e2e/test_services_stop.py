"""Stops of services that resist: every process is ended, and the kept output is complete within its limit."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import wait_until
from support.services import ServiceWorld, processes_of, stat_fields

from nexus.services.commands import StartService, StopService
from nexus.services.states import ServiceState

MIB = 1024 * 1024
LOG_LIMIT_MIB = 4
GRACE_MS = 1500

# Argument 1 is a file with the number of lines that are certainly written. All processes ignore what can be ignored.
TENACIOUS = r"""
import mmap, os, signal, sys, time

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)

def away():
    "Leave the session and the parent."
    if os.fork():
        return False
    os.setsid()
    if os.fork():
        os._exit(0)
    os.setsid()
    return True

if away():  # only its arguments connect this one with the service
    os.closerange(0, 1024)
    os.execve(sys.executable, [sys.executable, "-I", "-S", "-c", "import signal, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)", sys.argv[1]], {})
if away():  # this one forks and exits faster than /proc can be read
    while True:
        if os.fork():
            os._exit(0)
        time.sleep(0.001)
if away():  # this one forks faster than its children end
    while True:
        if not os.fork():
            os.setsid()
            time.sleep(0.2)
            os._exit(0)
        time.sleep(0.01)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass

counter = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 20)
pad = b" " + b"x" * 987 + b"\n"
number = 0
while True:
    data = b"".join(b"%011d%b" % (each, pad) for each in range(number, number + 256))
    while data:
        data = data[os.write(1, data):]
    number += 256
    counter[:] = b"%020d" % number
"""


@pytest.fixture
def world(root: Path) -> Iterator[ServiceWorld]:
    """A running daemon; it and all processes of its services are ended after the test."""
    with ServiceWorld(root) as world:
        world.daemon.start()
        yield world


def size_of_output(world: ServiceWorld, service_id: str) -> int:
    """The size of a service's output on the disk. Files that disappear meanwhile count as 0."""
    total = 0
    for path in world.daemon.state.rglob(f"service-{service_id}/log/*"):
        try:
            total += path.stat().st_size
        except FileNotFoundError:
            continue
    return total


@pytest.mark.slow
@pytest.mark.parametrize("shim", ["native", "python"])
def test_stop_ends_every_process_of_a_resisting_service_after_its_grace(root: Path, shim: str) -> None:
    from nexus.runtime.spec_encoding import shim_command

    if shim == "native" and not os.access(shim_command()[0], os.X_OK):
        pytest.skip("the native shim was not built: there was no C compiler")
    with ServiceWorld(root) as world:
        world.daemon.environment["NEXUS_RUNTIME_SHIM"] = shim
        world.daemon.start()
        counter, program = root / "counter", root / "tenacious.py"
        counter.write_bytes(b"0" * 20)
        program.write_text(TENACIOUS)
        service = world.add(
            "tenacious",
            [sys.executable, "-I", "-S", str(program), str(counter)],
            log_limit_mib=LOG_LIMIT_MIB,
            stop_grace_ms=GRACE_MS,
        )
        world.call(StartService(service="tenacious"))
        sizes = []

        def filled() -> bool:
            sizes.append(size_of_output(world, service.id))
            return int(counter.read_bytes()) > 60_000  # lines of 1000 bytes

        wait_until(filled, "an output of many times its limit")
        pid = world.service("tenacious").pid
        assert pid is not None
        sessions = {fields[3] for each in processes_of(counter) if (fields := stat_fields(each))}
        assert len(sessions) >= 3  # the processes have left the session

        stopped = world.call(StopService(service="tenacious")).service
        assert processes_of(counter) == []
        assert stopped.state is ServiceState.STOPPED
        assert (stopped.exit_signal, stopped.exit_code) == (signal.SIGKILL, None)
        stopping, ended = world.events("service.stopping", "service.stopped")
        assert GRACE_MS <= (ended.at or 0) - (stopping.at or 0) <= GRACE_MS + 30_000

        sizes.append(size_of_output(world, service.id))
        assert max(sizes) <= LOG_LIMIT_MIB * MIB
        assert max(sizes) > LOG_LIMIT_MIB * MIB // 2
        certain = int(counter.read_bytes())
        written = world.output("tenacious").split(b"\n")
        lines = [line for line in written if len(line) == 999]
        numbers = [int(line[:11]) for line in lines]
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert len(written) - len(lines) <= 2  # cut: the oldest by the limit, the newest by SIGKILL
        assert numbers[-1] >= certain - 1
        assert len(numbers) * 1000 > LOG_LIMIT_MIB * MIB // 2
        assert world.daemon.stop() == 0


def test_stop_continues_when_the_daemon_is_killed_during_it(world: ServiceWorld) -> None:
    marker = world.root / "stays"
    script = "trap 'echo told' TERM; echo ready; while :; do sleep 1; done"
    world.add("stays", ["/bin/sh", "-c", script, str(marker)], stop_grace_ms=2000)
    world.call(StartService(service="stays"))
    wait_until(lambda: b"ready" in world.output("stays"), "the trap to be set")
    stop = world.cli.start("service", "stop", "stays")
    try:
        # The row changes before the shim has the order. From the signal on the stop continues without the daemon.
        wait_until(lambda: b"told" in world.output("stays"), "the stop to begin")
        assert world.service("stays").state is ServiceState.STOPPING
        world.daemon.kill()
        _, error = stop.communicate(timeout=60)
    finally:
        stop.kill()
        stop.wait()
    assert stop.returncode == 3, error
    wait_until(lambda: not processes_of(marker), "all processes to end without a daemon")
    world.daemon.start()
    service = world.service("stays")
    assert (service.state, service.exit_signal, service.pid) == (ServiceState.STOPPED, signal.SIGKILL, None)
    assert len(world.events("service.stopped")) == 1
