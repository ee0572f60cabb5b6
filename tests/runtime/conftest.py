"""Fixtures of the process runtime: tests run with the native and the Python shim, and with both tunnel programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.runtimes import end_all
from support.tunnels import Tunnel
from support.written_logs import CLOCK, Written, writer_clock

import nexus.runtime
from nexus.runtime import Runtime
from nexus.runtime import tunnel as tunnel_module

TUNNEL_SOURCE = Path(tunnel_module.__file__).parent / "native" / "nexus-tunnel.c"


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


@pytest.fixture(scope="module")
def native_tunnel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command of the native tunnel, compiled from the present source."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    path = tmp_path_factory.mktemp("native") / "nexus-tunnel"
    subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", path, TUNNEL_SOURCE], check=True)
    return [str(path)]


@pytest.fixture(scope="module", params=["native", "python"])
def tunnel_command(request: pytest.FixtureRequest) -> list[str]:
    """The command of the native and of the Python tunnel."""
    if request.param == "python":
        return [sys.executable, "-I", "-S", tunnel_module.__file__]
    native_tunnel: list[str] = request.getfixturevalue("native_tunnel")
    return native_tunnel


@pytest.fixture
def tunnel(tunnel_command: list[str], tmp_path: Path) -> Iterator[Tunnel]:
    """A tunnel that the test starts."""
    tunnel = Tunnel(tunnel_command, tmp_path)
    yield tunnel
    tunnel.close()


@pytest.fixture(scope="module")
def clock() -> Iterator[None]:
    """The shim's writer has the clock of the log that a test writes."""
    with writer_clock():
        yield


@pytest.fixture
def written(root: Path, clock: None) -> Iterator[Written]:
    """A log that the test writes, at times that it sets."""
    made = Written(root / "owner" / "log")
    CLOCK["log"] = made
    yield made
    CLOCK.clear()
    made.close()
