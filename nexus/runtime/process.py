"""Watches one run: its main process, its shim and its stop. It knows no spec and no log.

Processes are identified by pidfds: the pids in the status file were checked when the descriptors were opened.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path

from nexus.runtime.members import end_run, end_when_possible
from nexus.runtime.orphans import open_held_control
from nexus.runtime.spec import Exit
from nexus.runtime.spec_encoding import environment_of
from nexus.runtime.status import Reachable, RunRecord, Status, is_exhaustion, now_ms, open_process, read_status
from nexus.runtime.tree import Usage, descendants, end_cgroup, ran_out_of_memory, usage
from nexus.runtime.watched import Watched

__all__ = ["Process", "lost", "reap"]

_log = logging.getLogger(__name__)

_UNREADABLE_S = 0.2
_STATUS_POLL_S = 0.002
"""The pidfd of the child becomes readable a moment before the shim has written the exit."""


def lost(reason: str) -> Exit:
    """An exit of unknown status, at the present time."""
    return Exit("lost", 0, False, now_ms(), reason)


def reap(pidfd: int) -> None:
    """Reap the process if it is an ended child of this process; otherwise do nothing."""
    with contextlib.suppress(OSError):
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)


class Process(Watched):
    """A run whose shim was alive when this object was created, by ``Runtime.start`` or ``Runtime.adopt``.

    ``started_at`` is in ms. ``exit`` is how the main process ended, None while it runs.
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
        self._exited = asyncio.Event()
        self._on_exit: Callable[[], None] | None = None
        self._finished = asyncio.Event()
        self._cleanup: asyncio.Task[None] | None = None
        self._status_timer: asyncio.TimerHandle | None = None
        self._unreadable = False
        self._shim: int | None = shim
        # The shim keeps its child as a zombie while it lives, so the pid cannot have been reused.
        self._main = open_process(record.pid, record.pid_start)
        self._loop.add_reader(shim, self._shim_ended)
        if self._main is not None:
            self._loop.add_reader(self._main, self._main_ended)

    def __repr__(self) -> str:
        return f"<Process {self.owner} {self.run_id} pid {self.pid} {self.exit or 'runs'}>"

    @property
    def started_clock_ms(self) -> int | None:
        """When the main process started, in ms of the boot clock; None where its shim could not tell."""
        return self._record.pid_start * 1000 // os.sysconf("SC_CLK_TCK") or None

    @property
    def finished(self) -> bool:
        """Whether all processes of the run have ended and the log is complete."""
        return self._finished.is_set()

    def on_exit(self, call: Callable[[], None]) -> None:
        """Call ``call`` once the main process has exited, at once if it has. A later call replaces ``call``."""
        if self.exit is None:
            self._on_exit = call
        else:
            call()

    async def wait_exit(self) -> Exit:
        """Wait until the main process has exited; processes that it started may still be running."""
        await self._exited.wait()
        assert self.exit is not None
        return self.exit

    async def wait(self) -> Exit:
        """Wait until all processes of the run have ended and the log is complete."""
        await self._finished.wait()
        assert self.exit is not None
        return self.exit

    async def stop(self, number: int | None = None, grace_ms: int | None = None) -> Exit:
        """Stop the main process and everything that it started, and wait until all have ended.

        The shim sends the signal to the whole process group and kills what is left after the grace time. So the stop
        continues if this call is cancelled or the daemon ends. A second call may shorten the grace time. None means the
        spec's signal or grace time.
        """
        if not self._finished.is_set():
            if self._shim is not None:
                with contextlib.suppress(OSError):  # a suspended shim would not read the command
                    signal.pidfd_send_signal(self._shim, signal.SIGCONT)
            command = f"stop {-1 if number is None else int(number)} {-1 if grace_ms is None else grace_ms}"
            while not self._finished.is_set() and not self._try_command(command):
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_UNREADABLE_S):
                        await self.wait()
        return await self.wait()

    def send_signal(self, number: int) -> None:
        """Send a signal to the main process's group; does nothing once the main process has exited."""
        if self.exit is None:
            self._send_command(f"signal {int(number)}")

    def pids(self) -> list[int]:
        """The pids of the main process and everything below it that runs now."""
        return [] if self._finished.is_set() else descendants(self.shim_pid)

    def usage(self) -> Usage:
        """Resident bytes, CPU time in ms and number of processes of the whole tree."""
        return Usage(0, 0, 0) if self._finished.is_set() else usage(self.shim_pid)

    def environment(self) -> dict[str, str]:
        """The environment that the child was started with, even if its program has overwritten it. Reads /proc.

        Raises:
            OSError: the shim has ended.
        """
        return environment_of(self.shim_pid)

    def set_cgroup(self, cgroup: Path | None) -> None:
        """Set the run's own control group, whose processes are killed if the shim is killed."""
        self._cgroup = cgroup

    def close(self) -> None:
        """Stop watching without touching the process. Pending waits never return."""
        if self._status_timer is not None:
            self._status_timer.cancel()
        if self._cleanup is not None:
            self._cleanup.cancel()
        self._close_main()
        self._on_exit = None
        if self._shim is not None:
            self._loop.remove_reader(self._shim)
            os.close(self._shim)
            self._shim = None

    def _close_main(self) -> None:
        if self._main is not None:
            self._loop.remove_reader(self._main)
            os.close(self._main)
            self._main = None

    def _try_command(self, command: str) -> bool:
        """``_send_command``; False when this process lacks the descriptors for it."""
        try:
            self._send_command(command)
        except OSError as error:
            if not is_exhaustion(error):
                raise
            return False
        return True

    def _send_command(self, command: str) -> None:
        """Write a command to the shim's control FIFO; does nothing if the shim has ended."""
        fd = self._open_control()
        if fd is None:
            return
        try:
            with contextlib.suppress(BrokenPipeError):  # the shim has ended at this moment
                os.write(fd, command.encode() + b"\n")
        finally:
            os.close(fd)

    def _open_control(self) -> int | None:
        """Open the control FIFO by its name, or else through the shim's own descriptor; None if the shim has ended.

        Raises:
            OSError: this process lacks descriptors or memory.
        """
        flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
        with Reachable():
            fd = os.open(self._folder / "control", flags)
            if stat.S_ISFIFO(os.fstat(fd).st_mode):
                return fd
            os.close(fd)
        # The file was deleted or replaced. The shim still has its control FIFO open. Its pid cannot be reused while
        # this holds its pidfd and has not seen its end.
        return None if self._shim is None else open_held_control(self.shim_pid, self.run_id)

    def _set_exit(self, end: Exit) -> None:
        if self.exit is None:
            over_limit = (end.kind, end.code) == ("signal", signal.SIGKILL) and ran_out_of_memory(self._cgroup)
            self.exit = end._replace(reason="over its memory limit") if over_limit else end
            if self._on_exit is not None:
                self._on_exit()
        self._exited.set()

    def _read_status(self) -> Status | None:
        """The status of this run; None where the file is missing or another run's."""
        status = read_status(self._folder / "status")
        return None if status is not None and status.run not in (None, self._record) else status

    def _main_ended(self) -> None:
        """Read the exit from the status file once the main process is a zombie; poll until the shim has written it."""
        if self._main is not None:
            self._loop.remove_reader(self._main)
        self._status_timer = None
        try:
            status = self._read_status()
        except OSError as error:
            self._read_again(self._main_ended, error)
            return
        if status is not None and status.exit is not None:
            self._set_exit(status.exit)
        elif self._shim is not None and self._cleanup is None:
            with contextlib.suppress(OSError):  # a suspended shim would not write it
                signal.pidfd_send_signal(self._shim, signal.SIGCONT)
            self._status_timer = self._loop.call_later(_STATUS_POLL_S, self._main_ended)

    def _shim_ended(self) -> None:
        assert self._shim is not None
        self._loop.remove_reader(self._shim)
        reap(self._shim)
        self._read_end()

    def _read_again(self, read: Callable[[], None], error: OSError) -> None:
        """Read the status file again in a moment: that it cannot be read does not mean that there was no exit."""
        if not self._unreadable:
            self._unreadable = True
            _log.error("run %s of %s: cannot read its status, trying again: %s", self.run_id, self.owner, error)
        self._status_timer = self._loop.call_later(_UNREADABLE_S, read)

    def _read_end(self) -> None:
        """Read how the run ended, once its shim has."""
        self._status_timer = None
        try:
            status = self._read_status()
        except OSError as error:
            self._read_again(self._read_end, error)
            return
        if status is not None and status.done and status.exit is not None:
            self._finish(status.exit)
        elif status is not None and status.failed:
            self._finish(lost("the program could not be started"))
        else:
            self._cleanup = asyncio.create_task(self._kill_remaining(None if status is None else status.exit))

    async def _kill_remaining(self, recorded: Exit | None) -> None:
        """After the shim was killed, kill its child and everything below, which would otherwise run unwatched."""
        if self._main is not None:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._main, signal.SIGKILL)
        if self._cgroup is not None:
            end_cgroup(self._cgroup)
        what = f"run {self.run_id} of {self.owner}"
        if not await end_when_possible(lambda: end_run(self._record, self.run_id, watched=True), what):
            _log.warning("run %s of %s: some of its processes cannot be ended", self.run_id, self.owner)
        self._finish(recorded or lost("its supervisor was killed"))

    def _finish(self, end: Exit) -> None:
        self._cleanup = None
        self._set_exit(end)
        self._finished.set()
        self.close()
