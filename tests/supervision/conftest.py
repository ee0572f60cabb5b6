from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from support.raw import wait_until
from support.runtimes import children


@pytest.fixture(autouse=True)
def reaped() -> Iterator[None]:
    """Reap the shims that a test leaves, as init does where a daemon ends: here they are children of the test."""
    before = children()
    yield
    for pid in children() - before:
        wait_until(lambda pid=pid: os.waitpid(pid, os.WNOHANG)[0], "the end of a shim")
