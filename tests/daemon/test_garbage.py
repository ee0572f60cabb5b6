"""The full collections of the daemon's garbage collector: when they are made, and when not."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from nexus.daemon import garbage
from nexus.daemon.garbage import Collector


class Node:
    """An object in a cycle."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def collector() -> Iterator[Collector]:
    """A collector of this process, whose settings are restored afterwards."""
    before = gc.get_threshold()
    yield Collector()
    gc.set_threshold(*before)
    gc.unfreeze()


@pytest.fixture
def forgotten(collector: Collector) -> weakref.ref[Node]:
    """An object in a cycle that was forgotten after it had become old."""
    node = Node()
    reference = weakref.ref(node)
    gc.collect(1)
    gc.collect(1)
    return reference


def grow(middle: int) -> None:
    """Let this many collections of the middle generation pass."""
    for _ in range(middle):
        gc.collect(1)


def test_old_objects_are_collected_only_after_much_work(
    collector: Collector, forgotten: weakref.ref[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_DUE_MIDDLE", 10)
    collector.tick(idle=True)
    assert forgotten() is not None
    grow(10)
    collector.tick(idle=False)
    assert forgotten() is not None, "a request is at work"
    collector.tick(idle=True)
    assert forgotten() is None


def test_collection_that_is_long_due_does_not_wait_for_a_request(
    collector: Collector, forgotten: weakref.ref[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(garbage, "_DUE_MIDDLE", 10)
    grow(20)
    collector.tick(idle=False)
    assert forgotten() is None


def test_old_objects_are_collected_once_an_hour(
    collector: Collector, forgotten: weakref.ref[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    last = collector._last
    monkeypatch.setattr(garbage.time, "monotonic", lambda: last + 3599)
    collector.tick(idle=True)
    assert forgotten() is not None
    monkeypatch.setattr(garbage.time, "monotonic", lambda: last + 3601)
    collector.tick(idle=True)
    assert forgotten() is None
    assert collector._last == last + 3601
