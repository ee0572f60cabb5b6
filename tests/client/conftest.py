"""Fixtures for the clients."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.toy import ToyServer

from nexus.config import Limits


@pytest.fixture
def make_toy(root: Path) -> Iterator[Callable[..., ToyServer]]:
    """Makes toy servers with the limits that are given, and the defaults for the others."""
    made: list[ToyServer] = []

    def make(**limits: int) -> ToyServer:
        toy = ToyServer(root / f"toy{len(made)}.sock", Limits(**limits))
        made.append(toy)
        return toy

    yield make
    for toy in made:
        toy.close()


@pytest.fixture
def toy(make_toy: Callable[..., ToyServer]) -> ToyServer:
    """A toy server with the default limits."""
    return make_toy()
