"""One run that is watched: its main process, its shim, its stop. It knows no spec and no log.

A process is known by a pidfd alone: the pids in its status file were checked when the descriptors were opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
from pathlib import Path

from nexus.runtime.orphans import open_held_control
from nexus.runtime.spec import Exit
from nexus.runtime.spec_encoding import environment_of
from nexus.runtime.status import RunRecord, now_ms, open_process, read_status
from nexus.runtime.tree import Usage, descendants, end_cgroup, end_session, ran_out_of_memory, usage

__all__ = ["Process", "lost", "reap"]

_LOOK_AGAIN_S = 0.002
"""The kernel tells of a child's end a moment before the shim has written how."""


def lost(reason: str) -> Exit:
    """An end that nobody saw."""
    return Exit("lost", 0, False, now_ms(), reason)


def reap(pidfd: int) -> None:
    """Take the exit code of a child of ours that has ended; one that is another's is left to it."""
    with contextlib.suppress(OSError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


class Process:
    """A run whose shim lives, or lived when this was made; made by ``Runtime.start`` and ``Runtime.adopt``.

    ``started_at`` is in ms. ``exit`` is how the main process ended, None as long as it runs.
    """

    def __init__(
        self, owner: str, run_id: str, folder: Path, record: RunRecord, shim: int, cgroup: Path | None = None
    ) -> None:
        self.owner = owner
        self.run_id = run_id
        self.pid = record.pid
        self.shim_pid = record.shim_pid
        self.started_at = record.started_at
        self.exit: Exit | None = None
        self._folder = folder
        self._record = record
        self._cgroup = cgroup
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._gone = asyncio.Event()
        self._last_rites: asyncio.Task[None] | None = None
        self._again: asyncio.TimerHandle | None = None
        self._shim: int | None = shim
        # The shim keeps its child as a zombie while it lives, so this pid was no other's at any time.
        self._main = open_process(record.pid, record.pid_start)
        self._loop.add_reader(shim, self._shim_ended)
        if self._main is not None:
            self._loop.add_reader(self._main, self._main_ended)

    def __repr__(self) -> str:
        return f"<Process {self.owner} {self.run_id} pid {self.pid} {self.exit or 'runs'}>"

    async def wait_exit(self) -> Exit:
        """Wait for the end of the main process; others that it started may still be ending."""
        await self._ended.wait()
        assert self.exit is not None
        return self.exit

    async def wait(self) -> Exit:
        """Wait until everything is gone and the log is complete."""
        await self._gone.wait()
        assert self.exit is not None
        return self.exit

    async def stop(self, number: int | None = None, grace_ms: int | None = None) -> Exit:
        """End it and everything that it started, and wait for that.

        The whole group gets the signal, and what is left after the grace time is killed. It is the shim that does so:
        to be cancelled here, or the end of the daemon, does not stop the stop. A second call may shorten the grace
        time. None means what the spec said.
        """
        if not self._gone.is_set():
            if self._shim is not None:
                with contextlib.suppress(OSError):  # one that somebody suspended would not hear it
                    signal.pidfd_send_signal(self._shim, signal.SIGCONT)
            self._tell(f"stop {-1 if number is None else int(number)} {-1 if grace_ms is None else grace_ms}")
        return await self.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the main process's group; nothing happens when that has ended."""
        if self.exit is None:
            self._tell(f"signal {int(number)}")

    def pids(self) -> list[int]:
        """The main process and everything below it that runs now."""
        return [] if self._gone.is_set() else descendants(self.shim_pid)

    def usage(self) -> Usage:
        """Resident bytes, CPU time in ms and number of processes of the whole tree."""
        return Usage(0, 0, 0) if self._gone.is_set() else usage(self.shim_pid)

    def environment(self) -> dict[str, str]:
        """The environment that it was started with, whatever its program has made of that. Blocks for a moment.

        Raises:
            OSError: its shim has ended.
        """
        return environment_of(self.shim_pid)

    def in_cgroup(self, cgroup: Path | None) -> None:
        """From now on this control group, which is this run's alone, is ended with a shim that was killed."""
        self._cgroup = cgroup

    def close(self) -> None:
        """Let go of it, and leave it as it is; whoever waits for it here waits in vain."""
        if self._again is not None:
            self._again.cancel()
        if self._last_rites is not None:
            self._last_rites.cancel()
        self._forget_main()
        if self._shim is not None:
            self._loop.remove_reader(self._shim)
            os.close(self._shim)
            self._shim = None

    def _forget_main(self) -> None:
        if self._main is not None:
            self._loop.remove_reader(self._main)
            os.close(self._main)
            self._main = None

    def _tell(self, words: str) -> None:
        """Write a command for the shim; one that is gone has nothing left to do."""
        try:
            fd = self._open_control()
        except OSError as error:
            if error.errno in (errno.ENXIO, errno.ENOENT):
                return
            raise
        try:
            os.write(fd, words.encode() + b"\n")
        finally:
            os.close(fd)

    def _open_control(self) -> int:
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            return os.open(self._folder / "control", flags | os.O_NOFOLLOW)
        except FileNotFoundError:
            if self._shim is None:
                raise
            # Somebody deleted the folder of a run that goes on. The shim still holds its end, and by it can be reached;
            # its pid is no other's while we hold its descriptor and have not seen its end.
            control = open_held_control(self.shim_pid, self.run_id)
            if control is None:
                raise
            return control

    def _see(self, ended: Exit) -> None:
        if self.exit is None:
            over = (ended.kind, ended.code) == ("signal", signal.SIGKILL) and ran_out_of_memory(self._cgroup)
            self.exit = ended._replace(reason="over its memory limit") if over else ended
        self._ended.set()

    def _main_ended(self) -> None:
        """The main process is a zombie: the shim writes how it ended, now or in a moment."""
        if self._main is not None:
            self._loop.remove_reader(self._main)
        self._again = None
        status = read_status(self._folder / "status")
        if status is not None and status.exit is not None:
            self._see(status.exit)
        elif self._shim is not None and self._last_rites is None:
            self._again = self._loop.call_later(_LOOK_AGAIN_S, self._main_ended)

    def _shim_ended(self) -> None:
        assert self._shim is not None
        self._loop.remove_reader(self._shim)
        reap(self._shim)
        status = read_status(self._folder / "status")
        if status is not None and status.done and status.exit is not None:
            self._finish(status.exit)
        elif status is not None and status.failed:
            self._finish(lost("the program could not be started"))
        else:
            self._last_rites = asyncio.create_task(self._bury(None if status is None else status.exit))

    async def _bury(self, known: Exit | None) -> None:
        """The shim was killed: nothing of its child lives on unwatched."""
        if self._main is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._main, signal.SIGKILL)
        if self._cgroup is not None:
            end_cgroup(self._cgroup)
        await asyncio.to_thread(end_session, self._record, watched=True)
        self._finish(known or lost("its supervisor was killed"))

    def _finish(self, ended: Exit) -> None:
        self._last_rites = None
        self._see(ended)
        self._gone.set()
        self.close()
