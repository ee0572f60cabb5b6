"""Fixtures and hooks of the whole suite."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support.daemon import DaemonProcess, made_directories, short_directory
from support.soak import SOAK
from support.toy import ToyServer

from nexus.config import Limits

# Time limits would fail on a busy machine: examples have no deadline, and making them may be slow.
settings.register_profile(
    "nexus",
    max_examples=100 * SOAK,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    database=None,
)
settings.load_profile("nexus")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Under xdist, begin with the tests marked as slow: none of them ends last, while the other workers are idle.

    ``--dist worksteal`` first divides the list into one stretch per worker. Each stretch begins with some slow tests.
    """
    workers = getattr(config, "workerinput", {}).get("workercount", 0)
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    ordered: list[pytest.Item] = []
    for left in range(workers, 0, -1):
        size = (len(slow) + len(others)) // left
        first = slow[::left][:size]
        slow = [item for item in slow if item not in first]
        ordered += first + others[: size - len(first)]
        others = others[size - len(first) :]
    items[:] = ordered or items


@pytest.fixture(scope="session", autouse=True)
def no_folder_is_left() -> Iterator[None]:
    """Fails the last test of the process if one of them left its folder behind."""
    yield
    left = [directory for directory in made_directories if directory.exists()]
    assert left == []


@pytest.fixture
def root() -> Iterator[Path]:
    """A private folder with a short path, removed after the test."""
    directory = short_directory()
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def make_daemon(root: Path) -> Iterator[Callable[..., DaemonProcess]]:
    """Creates daemons in the test's folder, not started yet. Daemons that run at the end are killed."""
    made: list[DaemonProcess] = []

    def make(*arguments: str, **options: object) -> DaemonProcess:
        daemon = DaemonProcess(root, *arguments, **options)  # type: ignore[arg-type]
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        daemon.close()


@pytest.fixture
def daemon(make_daemon: Callable[..., DaemonProcess]) -> DaemonProcess:
    """A running daemon with fresh folders."""
    return make_daemon().start()


@pytest.fixture(scope="module")
def shared() -> Iterator[DaemonProcess]:
    """One running daemon for all tests of a module. Each test restores its state."""
    root = short_directory()
    daemon = DaemonProcess(root)
    try:
        daemon.start()
        yield daemon
        assert daemon.stop() == 0
        assert " error " not in daemon.log()
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture
def make_toy(root: Path) -> Iterator[Callable[..., ToyServer]]:
    """Creates toy servers with the given limits, and defaults for the others."""
    made: list[ToyServer] = []

    def make(**limits: float) -> ToyServer:
        toy = ToyServer(root / f"toy{len(made)}.sock", Limits(**limits))  # type: ignore[arg-type]
        made.append(toy)
        return toy

    yield make
    for toy in made:
        toy.close()


@pytest.fixture
def toy(make_toy: Callable[..., ToyServer]) -> ToyServer:
    """A toy server with the default limits."""
    return make_toy()


_skipped: list[str] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Collect skipped tests."""
    if report.skipped and not hasattr(report, "wasxfail"):
        _skipped.append(report.nodeid)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    """Collect skipped modules."""
    if report.skipped:
        _skipped.append(report.nodeid)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """With NEXUS_TESTS_NO_SKIP, where all requirements of the tests are installed, a skip is a failure."""
    if os.environ.get("NEXUS_TESTS_NO_SKIP") and _skipped and exitstatus == pytest.ExitCode.OK:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        print(f"\nNEXUS_TESTS_NO_SKIP is set, but {len(_skipped)} tests were skipped: {', '.join(_skipped)}")
