"""The daemon ends although a call in a thread never returns."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, contextlib, sys
from nexus.daemon.threads import StoppableExecutor, exit_despite_threads

async def serve(path):
    asyncio.get_running_loop().set_default_executor(StoppableExecutor())
    calls = [asyncio.ensure_future(asyncio.to_thread(open, path)) for _ in range(3)]
    print("begun", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    for call in calls:
        call.cancel()
    await asyncio.wait(calls)

asyncio.run(serve(sys.argv[1]))
print("served", flush=True)
sys.exit(exit_despite_threads(7))
"""


@pytest.mark.parametrize("held", [True, False])
def test_exit_code_is_given_although_threads_wait_for_a_fifo(tmp_path: Path, held: bool) -> None:
    path = tmp_path / "fifo"
    if held:
        os.mkfifo(path)
    else:
        path.touch()
    # The pool has fewer threads than there are calls: the call that ends the program must be among the first.
    program = PROGRAM.replace("range(100)", "range(3)")
    result = subprocess.run(
        [sys.executable, "-c", program, str(path)],
        input="go\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (result.returncode, result.stdout) == (7, "begun\nserved\n"), result.stderr
    assert ("ending without the threads" in result.stderr) == held
