"""Short-lived child programs, which do not outlive the daemon: started in a session of their own, bounded, reaped.

Programs that outlive the daemon are started by ``Runtime``. This module knows no health check, git or plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

__all__ = ["ChildProcess", "CommandResult", "OutputPipe", "run_command"]

_READ_BYTES = 64 * 1024
_DRAIN_READS = 32
"""Reads of 64 KiB that are more than a pipe can hold (1 MiB at most for an ordinary user)."""
_KILLED_S = 0.05
"""How long ``run_command`` waits for a killed program. One that sleeps in the kernel for longer is reaped later."""
_UNWATCHED_S = 1.0


class CommandResult(NamedTuple):
    """How a program ended, and the last bytes of what it wrote."""

    code: int | None
    """The exit code, negative for a signal; None when it had not ended in time."""
    output: bytes
    """Standard output and standard error together."""


class OutputPipe:
    """Reads what children write, while the loop runs, and gives it to ``receive`` in pieces of at most 64 KiB.

    ``on_eof`` is called once all writers have closed it. ``ChildProcess`` opens the pipe and ``close`` ends it.
    """

    def __init__(self, receive: Callable[[bytes], None], on_eof: Callable[[], None] | None = None) -> None:
        self.at_eof = False
        self._receive = receive
        self._on_eof = on_eof
        self._loop = asyncio.get_running_loop()
        self._fd = -1

    def open(self) -> int:
        """Make the pipe and start to read; gives the write end, which the caller closes.

        Raises:
            OSError: there are no descriptors left.
        """
        self._fd, write_end = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(self._fd, False)
            self._loop.add_reader(self._fd, self._read)
        except BaseException:
            self.close()
            os.close(write_end)
            raise
        return write_end

    def pause(self) -> None:
        """Stop reading; writers block once the pipe is full."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)

    def resume(self) -> None:
        """Read again after ``pause``."""
        if self._fd >= 0:
            self._loop.add_reader(self._fd, self._read)

    def drain(self) -> None:
        """Read what the pipe holds now; bounded, since a process that still runs may write without end."""
        for _ in range(_DRAIN_READS):
            if not self._read():
                break

    def close(self) -> None:
        """Stop reading, and close the read end."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self) -> bool:
        """Read once; False when there is nothing to read now or ever."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, _READ_BYTES)
        except BlockingIOError:
            return False
        if data:
            self._receive(data)
            return True
        self.close()
        self.at_eof = True
        if self._on_eof is not None:
            self._on_eof()
        return False


class ChildProcess:
    """A program that leads a session and a process group of its own. Standard input is /dev/null.

    The leader stays a zombie until ``reap``. Until then its pid also names its group, so that ``signal_group`` cannot
    reach another process. Every child must be reaped. ``on_exit`` is called on the loop when the leader has ended.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        directory: str | Path,
        environment: Mapping[str, str],
        stdout: OutputPipe,
        stderr: OutputPipe,
        descriptors: Collection[int] = (),
        on_exit: Callable[[], None] | None = None,
    ) -> None:
        """Start the program; returns once it was executed. ``descriptors`` are inherited under the same numbers.

        Raises:
            OSError: it cannot be started; the pipes are closed.
        """
        self.ended = asyncio.Event()
        """Set when the leader has ended, reaped or not."""
        self._on_exit = on_exit
        self._reap_at_exit = False
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        write_ends: dict[OutputPipe, int] = {}
        try:
            for pipe in (stdout, stderr):
                if pipe not in write_ends:
                    write_ends[pipe] = pipe.open()
            self._popen = subprocess.Popen(
                argv,
                cwd=directory,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=write_ends[stdout],
                stderr=write_ends[stderr],
                start_new_session=True,
                pass_fds=tuple(descriptors),
            )
            self._watch()
        except BaseException:
            stdout.close()
            stderr.close()
            raise
        finally:
            for write_end in write_ends.values():
                os.close(write_end)

    def _watch(self) -> None:
        try:
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._exited)
        except BaseException:
            self._close_pidfd()
            self.signal_group(signal.SIGKILL)
            # Without a descriptor its end cannot be awaited; ``subprocess`` reaps one that has not ended by then.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._popen.wait(_UNWATCHED_S)
            raise

    @property
    def pid(self) -> int:
        """The process id of the leader, and the id of its group and session."""
        return self._popen.pid

    @property
    def returncode(self) -> int | None:
        """The exit code, negative for a signal; None until ``reap``."""
        return self._popen.returncode

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the leader has ended, without reaping it; False when it has not within ``timeout_s``."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.ended.wait()
        return self.ended.is_set()

    def failed(self) -> bool:
        """Whether the leader, which has ended and is not reaped, was ended by a signal or with an exit code but 0."""
        status = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)
        return status is None or status.si_status != 0

    def signal_group(self, number: int) -> None:
        """Send a signal to the whole group; nothing happens once the leader was reaped."""
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def reap(self) -> int | None:
        """Take the exit code of the leader, and close what watches it.

        Never blocks: gives None for a leader that has not ended yet, which is then reaped when it ends.
        """
        if self.ended.is_set():
            self._popen.wait()  # it is a zombie, so this returns at once
        elif self._popen.poll() is None:
            self._reap_at_exit = True
            return None
        self._close_pidfd()
        return self.returncode

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.ended.set()
        if self._reap_at_exit:
            self.reap()
        if self._on_exit is not None:
            self._on_exit()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def run_command(
    argv: Sequence[str], *, directory: str | Path, environment: Mapping[str, str], timeout_s: float, output_bytes: int
) -> CommandResult:
    """Run a program, and wait for its end at most ``timeout_s``; keeps the last ``output_bytes`` of its output.

    Whatever is left of its group is killed before this returns, also when it is cancelled.

    Raises:
        OSError: it cannot be started.
    """
    output = bytearray()

    def receive(data: bytes) -> None:
        output.extend(data)
        del output[:-output_bytes]

    pipe = OutputPipe(receive)
    child = ChildProcess(argv, directory=directory, environment=environment, stdout=pipe, stderr=pipe)
    try:
        in_time = await child.wait(timeout_s)
    finally:
        child.signal_group(signal.SIGKILL)
        try:
            await child.wait(_KILLED_S)
        finally:
            code = child.reap()
            pipe.drain()
            pipe.close()
    return CommandResult(code if in_time else None, bytes(output))
