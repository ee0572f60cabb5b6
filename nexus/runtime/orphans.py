"""Finds and ends the surviving processes of runs whose files were deleted.

It needs no run folder. A process belongs to a run when its environment has the run's id. It is the run's shim when its
command line has the run's label and it still holds the control FIFO. Both are checked again on an open pidfd, which
names one process even if the pid is reused.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.members import RUN_ID, end_members, end_when_possible, has_run_id, own_ancestry, strings_of
from nexus.runtime.status import Reachable

__all__ = ["Orphans", "end_orphans", "find_orphans", "has_folder", "open_held_control", "stop_shims"]

_SHIM_SLACK_S = 5.0
"""How long beyond the grace time a shim gets to end its processes."""
_KILL_WAIT_S = 1.0


class Orphans(NamedTuple):
    """The processes of a run that were found by one scan."""

    label: str
    """``OWNER/RUN``, the shim's first argument."""
    shims: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.label.rpartition("/")[2]


def find_orphans(owners: Mapping[str, str]) -> dict[str, Orphans]:
    """Find the surviving processes of runs; ``owners`` maps run ids to owners. Scans every process once, and blocks.

    Returns the runs that have any, by run id. This process and its ancestors are left out: a service may have started
    the daemon again.

    Raises:
        OSError: this process lacks descriptors or memory, so that it cannot look at every process.
    """
    labels = {f"{owner}/{run_id}".encode(): run_id for run_id, owner in owners.items()}
    variables = {RUN_ID + run_id.encode(): run_id for run_id in owners}
    own = own_ancestry()
    shims: dict[str, list[int]] = {}
    members: dict[str, list[int]] = {}
    for name in (entry.name for entry in Path("/proc").iterdir()):
        if not name.isdigit() or int(name) in own:
            continue
        for file, runs, found in (("environ", variables, members), ("cmdline", labels, shims)):
            run_id = next((runs[text] for text in strings_of(int(name), file) if text in runs), None)
            if run_id is not None:
                found.setdefault(run_id, []).append(int(name))
                break
    return {
        run_id: Orphans(f"{owners[run_id]}/{run_id}", tuple(shims.get(run_id, ())), tuple(members.get(run_id, ())))
        for run_id in owners
        if run_id in members or any(_is_shim(pid, f"{owners[run_id]}/{run_id}") for pid in shims.get(run_id, ()))
    }


async def end_orphans(orphans: Orphans, number: int, grace_ms: int) -> None:
    """End the remaining processes of a run, with a signal and after the grace time with SIGKILL; wait until they end.

    Where the shim still runs, it does this: it also reaches descendants whose environment lacks the run's id.
    """
    grace_s = grace_ms / 1000
    for pid in orphans.shims:
        await _end_shim(pid, orphans.label, f"stop {int(number)} {grace_ms}", grace_s + _SHIM_SLACK_S)
    if not orphans.shims:
        await _signal_members(orphans, number, grace_s)
    await end_when_possible(lambda: end_members(has_run_id(orphans.run_id)), f"run {orphans.run_id}")


def has_folder(pid: int, folder: Path) -> bool:
    """Whether a process has the folder of a run open, as its shim does.

    Raises:
        OSError: this process lacks descriptors or memory.
    """
    path = os.path.realpath(folder)  # the links in /proc are resolved
    with Reachable():
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with Reachable():
                if str(entry.readlink()).removesuffix(" (deleted)") == path:
                    return True
    return False


def stop_shims(orphans: Orphans) -> None:
    """Tell the shims of a run to stop it, with the signal and the grace time of its spec; does not wait."""
    for pid in orphans.shims:
        with Reachable():
            shim = os.pidfd_open(pid)
            try:
                control = open_held_control(pid, orphans.run_id) if _is_shim(pid, orphans.label) else None
                if control is not None:
                    try:
                        signal.pidfd_send_signal(shim, signal.SIGCONT)  # a suspended shim would not read the command
                        os.write(control, b"stop -1 -1\n")
                    finally:
                        os.close(control)
            finally:
                os.close(shim)


def open_held_control(shim_pid: int, run_id: str) -> int | None:
    """Open a shim's control FIFO through the shim's own descriptor, after its file was deleted; None if it has ended.

    The caller must know that ``shim_pid`` is still the shim's, as by a pidfd that has not become readable.

    Raises:
        OSError: this process lacks descriptors or memory.
    """
    suffixes = (f"/{run_id}/control (deleted)", f"/{run_id}/control")
    with Reachable():
        for entry in Path(f"/proc/{shim_pid}/fd").iterdir():
            with Reachable():
                if str(entry.readlink()).endswith(suffixes):
                    return os.open(entry, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def _is_member(pid: int, label: str) -> bool:
    return RUN_ID + label.rpartition("/")[2].encode() in strings_of(pid, "environ")


def _is_shim(pid: int, label: str) -> bool:
    if label.encode() not in strings_of(pid, "cmdline"):
        return False
    control = open_held_control(pid, label.rpartition("/")[2])
    if control is not None:
        os.close(control)
    return control is not None


async def _end_shim(pid: int, label: str, command: str, timeout_s: float) -> None:
    try:
        shim = os.pidfd_open(pid)
    except OSError:
        return
    try:
        if not _is_shim(pid, label):
            return
        control = open_held_control(pid, label.rpartition("/")[2])
        if control is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(shim, signal.SIGCONT)  # a suspended shim would not read the command
                os.write(control, command.encode() + b"\n")
            os.close(control)
            if await _ended(shim, timeout_s):
                return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(shim, signal.SIGKILL)
        await _ended(shim, _KILL_WAIT_S)
    finally:
        os.close(shim)


async def _signal_members(orphans: Orphans, number: int, timeout_s: float) -> None:
    """Signal the processes that still belong to the run, and wait until they end, for ``timeout_s`` at most."""
    descriptors = []
    try:
        for pid in orphans.members:
            with contextlib.suppress(OSError):
                descriptors.append(os.pidfd_open(pid))
                if _is_member(pid, orphans.label):
                    signal.pidfd_send_signal(descriptors[-1], number)
                    signal.pidfd_send_signal(descriptors[-1], signal.SIGCONT)
                else:
                    os.close(descriptors.pop())
        await asyncio.gather(*(_ended(descriptor, timeout_s) for descriptor in descriptors))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def _ended(pidfd: int, timeout_s: float) -> bool:
    """Wait until a process ends, for ``timeout_s`` at most; returns whether it has."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
