"""Helpers for tests of the process runtime: specs of small programs, facts about processes, and cleanup."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from nexus.runtime import Log, LogPiece, ProcessSpec
from nexus.runtime.members import end_run
from nexus.runtime.status import is_locked, open_process, read_status
from nexus.runtime.tree import parent_of

__all__ = ["PATH", "alive", "children", "collect", "end_all", "joined", "python", "shell", "shim_of"]

PATH = "/usr/local/bin:/usr/bin:/bin"


def children() -> set[int]:
    """The children of this process, with those that have ended and are not reaped."""
    pids = (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
    return {pid for pid in pids if parent_of(pid) == os.getpid()}


def shell(script: str, directory: Path | str = "/", **options: object) -> ProcessSpec:
    """A spec that runs a script in /bin/sh."""
    return ProcessSpec(("/bin/sh", "-c", script), str(directory), {"PATH": PATH}, **options)  # type: ignore[arg-type]


def python(source: str, *arguments: object, **options: object) -> ProcessSpec:
    """A spec that runs a program in Python with these arguments."""
    argv = (sys.executable, "-I", "-S", "-c", source, *map(str, arguments))
    return ProcessSpec(argv, "/", {"PATH": PATH}, **options)  # type: ignore[arg-type]


def alive(pid: int) -> bool:
    """Whether a process is running; a zombie is not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
    return stat[stat.rindex(b")") + 2 :][:1] not in (b"Z", b"X")


def shim_of(folder: Path) -> int:
    """The pid of the shim that wrote a run's status."""
    status = read_status(folder / "status")
    assert status is not None
    assert status.run is not None
    return status.run.shim_pid


async def collect(log: Log, **options: object) -> list[LogPiece]:
    """All pieces that a log yields."""
    return [piece async for piece in log.pieces(**options)]  # type: ignore[arg-type]


def joined(pieces: list[LogPiece], stream: int | None = None) -> bytes:
    """The bytes of pieces, of one stream or of both."""
    return b"".join(piece.data for piece in pieces if stream in (None, piece.stream))


def end_all(directory: Path) -> None:
    """Kill every running shim below a runtime's directory, and the processes that it started."""
    for lock in directory.glob("*/*/lock"):
        status = read_status(lock.parent / "status")
        if status is None or status.run is None or not is_locked(lock):
            continue
        shim = open_process(status.run.shim_pid, status.run.shim_start)
        if shim is not None:
            signal.pidfd_send_signal(shim, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitid(os.P_PIDFD, shim, os.WEXITED)
            os.close(shim)
        end_run(status.run, lock.parent.name, watched=True)
