"""Scopes: with a real user manager, with one that does not respond, and with one that enforces no limits."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.raw import wait_until
from support.runtimes import shell
from support.systemd import UserManager, user_manager

from nexus.runtime import LimitUnavailable, Runtime
from nexus.runtime.scope import Scopes

INSIDE = """
import asyncio, json, os, signal, sys
from pathlib import Path
from nexus.runtime import LimitUnavailable, Runtime
from support.runtimes import shell

def facts(process):
    path = Path(f"/proc/{process.pid}/cgroup").read_text().rpartition("0::")[2].strip()
    folder = Path("/sys/fs/cgroup") / path.lstrip("/")
    def read(name):
        try:
            return (folder / name).read_text().strip()
        except OSError:
            return None
    return {"path": path, "memory": read("memory.max"), "swap": read("memory.swap.max"), "cpu": read("cpu.max")}

async def main():
    runtime = Runtime(Path(sys.argv[1]))
    found = {}
    plain = await runtime.start("service-1", "a" * 32, shell("sleep 1000 & exec sleep 1000"))
    found["plain"] = facts(plain)
    again = await runtime.adopt("service-1", "a" * 32)
    os.kill(plain.shim_pid, signal.SIGKILL)
    found["lost"] = [(await again.wait()).kind, plain.pids()]
    plain.close()
    try:
        limited = await runtime.start(
            "service-2", "b" * 32, shell("exec sleep 1000", memory_bytes=64 << 20, cpu_percent=50)
        )
    except LimitUnavailable as error:
        found["refused"] = error.message
        found["left"] = (Path(sys.argv[1]) / "service-2" / ("b" * 32)).exists()
    else:
        found["limited"] = facts(limited)
        found["stopped"] = (await limited.stop())[:2]
    code = (await (await runtime.start("service-3", "c" * 32, shell("exit 3"))).wait())[:2]
    found["exit"] = code
    print(json.dumps(found))

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def manager() -> Iterator[UserManager]:
    """A systemd user manager that the tests start."""
    with user_manager() as running:
        yield running


def test_children_run_in_their_own_scopes_with_enforced_limits(manager: UserManager, shim: str) -> None:
    words = [
        "env",
        f"PYTHONPATH={os.pathsep.join(sys.path)}",
        f"NEXUS_RUNTIME_SHIM={shim}",
        sys.executable,
        "-c",
        INSIDE,
    ]
    found = json.loads(manager.run(*words, str(manager.root / shim)).stdout)
    assert found["plain"]["path"].endswith(f"/nexus-{'a' * 32}.scope")
    assert found["lost"] == ["lost", []]
    assert found["exit"] == ["exit", 3]
    if "limited" in found:
        assert found["limited"]["path"].endswith(f"/nexus-{'b' * 32}.scope")
        assert found["limited"]["memory"] == str(64 << 20)
        assert found["limited"]["swap"] in ("0", None)
        assert found["limited"]["cpu"].split()[0] == "50000"
        assert found["stopped"] == ["signal", 15]
    else:
        # Where a controller is missing, the start fails with that reason and no process is left.
        assert "controller is not available" in found["refused"]
        assert found["left"] is False
    listed = ("list-units", "--type=scope", "--all", "--plain", "--no-legend")
    wait_until(lambda: "nexus-" not in manager.systemctl(*listed), "the manager to unload the scopes")


def fake_user_manager(root: Path, script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Create the socket of a user manager, and a systemd-run that runs this script."""
    (root / "systemd").mkdir()
    (root / "systemd" / "private").touch()
    program = root / "systemd-run"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(root))
    monkeypatch.setenv("PATH", f"{root}:{os.environ['PATH']}")
    monkeypatch.delenv("NEXUS_RUNTIME_SCOPES", raising=False)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("echo 'Failed to connect to bus: No medium found' >&2; exit 1", "No medium found"),
        ("exec sleep 1000", "did not answer"),
    ],
    ids=["fails", "hangs"],
)
def test_unresponsive_user_manager_starts_unlimited_processes_without_a_scope(
    root: Path,
    shim: str,
    script: str,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake_user_manager(root, script, monkeypatch)
    monkeypatch.setattr("nexus.runtime.runtime._SCOPE_TIMEOUT_S", 0.3)
    runtime = Runtime(root / "processes")

    async def scenario() -> None:
        with caplog.at_level(logging.WARNING):
            for number in range(2):
                process = await runtime.start("service-1", f"run-{number}", shell("exit 3"))
                assert (await process.wait()).code == 3
        (warning,) = caplog.messages
        assert reason in warning
        with pytest.raises(LimitUnavailable, match=reason) as caught:
            await runtime.start("service-1", "run-3", shell("true", cpu_percent=50))
        assert caught.value.hint
        assert await runtime.adopt("service-1", "run-3") is None

    asyncio.run(scenario())


def test_limited_start_fails_when_the_limit_is_not_enforced(
    root: Path, shim: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It executes the command after the two dashes without any scope.
    fake_user_manager(root, 'while [ "$1" != -- ]; do shift; done; shift; exec "$@"', monkeypatch)
    runtime = Runtime(root / "processes")
    marks = root / "pid"

    async def scenario() -> None:
        spec = shell(f"echo $$ > {marks}; exec sleep 1000", memory_bytes=64 << 20)
        runtime.check(spec)
        with pytest.raises(LimitUnavailable, match="memory controller"):
            await runtime.start("service-1", "run-1", spec)
        process = await runtime.start("service-1", "run-2", shell("exit 4"))
        assert (await process.wait()).code == 4

    asyncio.run(scenario())
    assert not list((runtime.directory / "service-1").glob("run-1*"))


def test_scopes_can_be_disabled(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_user_manager(root, "exit 1", monkeypatch)
    spec = shell("true", memory_bytes=1 << 20)
    Runtime(root / "processes").check(spec)
    with pytest.raises(LimitUnavailable):
        Runtime(root / "processes", scopes=False).check(spec)
    monkeypatch.setenv("NEXUS_RUNTIME_SCOPES", "no")
    with pytest.raises(LimitUnavailable):
        Runtime(root / "processes").check(spec)


@pytest.mark.parametrize(
    ("files", "missing"),
    [
        ({"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "50000 100000"}, None),
        ({"memory.max": "67108864", "cpu.max": "50000 100000"}, None),
        ({"cpu.max": "50000 100000"}, "memory"),
        ({"memory.max": "max", "memory.swap.max": "0", "cpu.max": "50000 100000"}, "memory"),
        ({"memory.max": "67108864", "memory.swap.max": "max", "cpu.max": "50000 100000"}, "memory"),
        ({"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "max 100000"}, "CPU"),
        ({"memory.max": "67108864", "memory.swap.max": "0"}, "CPU"),
        ({"memory.max": "67108864", "memory.swap.max": "0", "cpu.max": "100000 100000"}, "CPU"),
    ],
)
def test_verify_compares_limits_with_the_control_group(root: Path, files: dict[str, str], missing: str | None) -> None:
    for name, text in files.items():
        (root / name).write_text(f"{text}\n")
    spec = shell("true", memory_bytes=(64 << 20) + 100, cpu_percent=50)
    if missing is None:
        Scopes().verify(root, spec)
        return
    with pytest.raises(LimitUnavailable, match=f"the {missing} controller"):
        Scopes().verify(root, spec)
    with pytest.raises(LimitUnavailable):
        Scopes().verify(None, spec)


@pytest.mark.parametrize(("kills", "reason"), [(1, "over its memory limit"), (0, "")])
def test_oom_kill_is_distinguished_from_other_kills(root: Path, shim: str, kills: int, reason: str) -> None:
    """A plain folder stands in for the control group, so that no memory controller is needed."""
    cgroup = root / "cgroup"
    cgroup.mkdir()
    (cgroup / "memory.events").write_text(f"low 0\nhigh 0\nmax 3\noom 1\noom_kill {kills}\n")

    async def scenario() -> None:
        process = await Runtime(root / "processes", scopes=False).start("service-1", "run", shell("kill -9 $$"))
        process.set_cgroup(cgroup)
        ended = await process.wait()
        assert (ended.kind, ended.code, ended.reason) == ("signal", 9, reason)

    asyncio.run(scenario())
