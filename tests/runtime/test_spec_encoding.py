"""The spec of a child can be read back while its shim runs, and the child does not inherit it."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from support.runtimes import PATH, collect, joined

from nexus.runtime import Process, ProcessSpec, Runtime

# Programs that set a title of their own in ps(1) do this: the title overwrites the environment (proc(5), env_start).
OVERWRITE = """
import ctypes, os, time
start, end = map(int, open("/proc/self/stat").read().rpartition(")")[2].split()[47:49])
ctypes.memset(start, 0, end - start)
print("overwritten", flush=True)
time.sleep(1000)
"""


def shown_environment(pid: int) -> bytes:
    """The environment of a process as ``/proc/PID/environ`` shows it."""
    return Path(f"/proc/{pid}/environ").read_bytes().strip(b"\0")


def test_environment_is_known_after_the_program_overwrote_its_own(runtime: Runtime) -> None:
    environment = {"PATH": PATH, "EMPTY": "", "TEXT": "a b\nä=c", "PORT": "80"}
    spec = ProcessSpec((sys.executable, "-c", OVERWRITE, "", "ä"), "/", environment | {"NOTIFY_SOCKET": "x"})

    async def scenario() -> None:
        process = await runtime.start("service-1", "run-1", spec)
        async for piece in runtime.log("service-1").pieces(follow=True):
            assert piece.data == b"overwritten\n"
            break
        assert not shown_environment(process.pid)
        assert process.environment() == environment
        process.close()
        again = await runtime.adopt("service-1", "run-1")
        assert isinstance(again, Process)
        assert again.environment() == environment
        await again.stop(grace_ms=0)
        with pytest.raises(OSError, match=r"No such|spec"):
            again.environment()
        again.close()

    asyncio.run(scenario())


def test_child_does_not_inherit_the_spec(runtime: Runtime) -> None:
    spec = ProcessSpec(("/bin/sh", "-c", "ls -l /proc/self/fd"), "/", {"PATH": PATH})

    async def scenario() -> bytes:
        await (await runtime.start("service-1", "run-1", spec)).wait()
        return joined(await collect(runtime.log("service-1")))

    assert b"memfd" not in asyncio.run(scenario())
