"""What is left of runs whose files somebody deleted: found by what each of their processes carries, and ended.

It knows no folder of a run. A process is one of a run when its environment says so, and a run's shim when it was
started for it and still holds its control; both are looked at again once a descriptor names the process for good.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.tree import parent_of

__all__ = ["Orphans", "end_orphans", "find_orphans", "open_held_control"]

_MARK = b"NEXUS_RUN_ID="
_SHIM_SLACK_S = 5.0
"""How much longer than the grace time a shim gets to end what it has."""
_KILL_ROUNDS = 20
_KILL_WAIT_S = 1.0


class Orphans(NamedTuple):
    """The processes that a run had when it was looked for."""

    label: str
    """``OWNER/RUN``, as its shim was called."""
    shims: tuple[int, ...]
    members: tuple[int, ...]

    @property
    def run_id(self) -> str:
        """The id of the run."""
        return self.label.rpartition("/")[2]


def find_orphans(owners: Mapping[str, str]) -> dict[str, Orphans]:
    """What lives of some runs, by their ids; ``owners`` has the owner of each. Looks at every process once, and blocks.

    This process itself and those above it are never among them: a service may have started the daemon anew.
    """
    labels = {f"{owner}/{run_id}".encode(): run_id for run_id, owner in owners.items()}
    marks = {_MARK + run_id.encode(): run_id for run_id in owners}
    own = _own_line()
    shims: dict[str, list[int]] = {}
    members: dict[str, list[int]] = {}
    for name in (entry.name for entry in Path("/proc").iterdir()):
        if not name.isdigit() or int(name) in own:
            continue
        for file, words, found in (("environ", marks, members), ("cmdline", labels, shims)):
            run_id = next((words[word] for word in _words(int(name), file) if word in words), None)
            if run_id is not None:
                found.setdefault(run_id, []).append(int(name))
                break
    return {
        run_id: Orphans(f"{owners[run_id]}/{run_id}", tuple(shims.get(run_id, ())), tuple(members.get(run_id, ())))
        for run_id in owners
        if run_id in members or any(_is_shim(pid, f"{owners[run_id]}/{run_id}") for pid in shims.get(run_id, ()))
    }


async def end_orphans(orphans: Orphans, number: int, grace_ms: int) -> None:
    """End what is left of a run, and wait for that: with a signal, and with SIGKILL after the grace time.

    Where its shim lives it is the shim that does so, for it knows more of its own.
    """
    grace_s = grace_ms / 1000
    for pid in orphans.shims:
        await _end_shim(pid, orphans.label, f"stop {int(number)} {grace_ms}", grace_s + _SHIM_SLACK_S)
    if not orphans.shims:
        await _signal_members(orphans, number, grace_s)
    for _ in range(_KILL_ROUNDS):
        orphans = await _look_again(orphans)
        if not orphans.members:
            return
        await _signal_members(orphans, signal.SIGKILL, _KILL_WAIT_S)


def open_held_control(shim_pid: int, run_id: str) -> int | None:
    """A descriptor for the commands of a shim whose folder was deleted: it still holds its end. None where it is gone.

    ``shim_pid`` has to be known for the shim's, as by a pidfd that has not told its end.
    """
    ends = (f"/{run_id}/control (deleted)", f"/{run_id}/control")
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{shim_pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()).endswith(ends):
                    return os.open(entry, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return None


def _words(pid: int, file: str) -> list[bytes]:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/{file}", "rb") as words:
        return words.read().split(b"\0")
    return []


def _is_member(pid: int, label: str) -> bool:
    return _MARK + label.rpartition("/")[2].encode() in _words(pid, "environ")


def _is_shim(pid: int, label: str) -> bool:
    if label.encode() not in _words(pid, "cmdline"):
        return False
    control = open_held_control(pid, label.rpartition("/")[2])
    if control is not None:
        os.close(control)
    return control is not None


def _own_line() -> set[int]:
    line = {os.getpid()}
    pid = os.getppid()
    while pid > 0:
        line.add(pid)
        pid = parent_of(pid)
    return line


async def _look_again(orphans: Orphans) -> Orphans:
    owner, _, run_id = orphans.label.rpartition("/")
    found = await asyncio.to_thread(find_orphans, {run_id: owner})
    return found.get(run_id, Orphans(orphans.label, (), ()))


async def _end_shim(pid: int, label: str, words: str, within_s: float) -> None:
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
                signal.pidfd_send_signal(shim, signal.SIGCONT)  # one that was suspended would not hear it
                os.write(control, words.encode() + b"\n")
            os.close(control)
            if await _ended(shim, within_s):
                return
        with contextlib.suppress(OSError):
            signal.pidfd_send_signal(shim, signal.SIGKILL)
        await _ended(shim, _KILL_WAIT_S)
    finally:
        os.close(shim)


async def _signal_members(orphans: Orphans, number: int, within_s: float) -> None:
    """Signal the processes that are the run's, and wait for their ends, or so long."""
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
        await asyncio.gather(*(_ended(descriptor, within_s) for descriptor in descriptors))
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


async def _ended(pidfd: int, within_s: float) -> bool:
    """Wait for the end of a process, but no longer than that; tells whether it has come."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(within_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True
