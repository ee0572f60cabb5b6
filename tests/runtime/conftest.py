"""Fixtures of the process runtime: every test runs with both shims."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runtimes import end_all

import nexus.runtime
from nexus.runtime import Runtime


@pytest.fixture(params=["native", "python"])
def shim(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The kind of shim, which is set in the environment."""
    kind = str(request.param)
    program = Path(nexus.runtime.__file__).parent / "native" / "nexus-shim"
    if kind == "native" and not os.access(program, os.X_OK):
        pytest.skip("the shim was not compiled: reinstall the package with a C compiler")
    monkeypatch.setenv("NEXUS_RUNTIME_SHIM", kind)
    return kind


@pytest.fixture
def runtime(root: Path, shim: str) -> Iterator[Runtime]:
    """An empty runtime without scopes; processes that are left at the end are killed."""
    made = Runtime(root / "processes", scopes=False)
    yield made
    end_all(made.directory)
