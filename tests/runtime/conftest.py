"""Fixtures of the process room: each promise is kept by both shims."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.rooms import end_all

import nexus.runtime
from nexus.runtime import Runtime


@pytest.fixture(params=["native", "python"])
def shim(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both shims, one after the other."""
    kind = str(request.param)
    program = Path(nexus.runtime.__file__).parent / "native" / "nexus-shim"
    if kind == "native" and not os.access(program, os.X_OK):
        pytest.skip("the shim was not compiled: install the package again where a C compiler is")
    monkeypatch.setenv("NEXUS_RUNTIME_SHIM", kind)
    return kind


@pytest.fixture
def room(root: Path, shim: str) -> Iterator[Runtime]:
    """An empty room without scopes; what still runs at the end is killed."""
    made = Runtime(root / "processes", scopes=False)
    yield made
    end_all(made.directory)
