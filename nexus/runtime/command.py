"""Short-lived child programs, which end with the daemon and leave no process behind: each runs under a shim of its own.

Programs that outlive the daemon are started by ``Runtime``. This module knows no health check, git or plugin.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import os
import signal
import socket
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from nexus.runtime.inheritance import DESCRIPTORS
from nexus.runtime.members import end_members, end_when_possible, has_run_id, pid_namespace
from nexus.runtime.spec import ProcessSpec
from nexus.runtime.spec_encoding import encode_spec, shim_command
from nexus.runtime.status import process_start

__all__ = ["ChildProcess", "CommandResult", "OutputPipe", "run_command"]

_READ_BYTES = 16 * 1024
"""What a receiver makes of a piece must not hold up the loop."""
_DRAIN_BYTES = 64 * 1024
_DRAIN_READS = 32
"""Reads of 64 KiB that are more than a pipe can hold (1 MiB at most for an ordinary user)."""
_KILLED_S = 1.0
"""How long ``run_command`` waits for killed processes. The shim waits for those that sleep in the kernel for longer."""
_UNWATCHED_S = 1.0
_REPORT_BYTES = 256
_numbers = itertools.count(1)


class CommandResult(NamedTuple):
    """How a program ended, and the last bytes of what it wrote."""

    code: int | None
    """The exit code, negative for a signal; None when it had not ended in time."""
    output: bytes
    """Standard output and standard error together."""


class OutputPipe:
    """Reads what children write, while the loop runs, and gives it to ``receive`` in pieces of at most 16 KiB.

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
        """Read what the pipe holds now, in pieces of at most 64 KiB.

        It is bounded, since a process that still runs may write without end.
        """
        for _ in range(_DRAIN_READS):
            if not self._read(_DRAIN_BYTES):
                break

    def close(self) -> None:
        """Stop reading, and close the read end."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _read(self, size_bytes: int = _READ_BYTES) -> bool:
        """Read once; False when there is nothing to read now or ever."""
        if self._fd < 0:
            return False
        try:
            data = os.read(self._fd, size_bytes)
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
    """A program that leads a session and a process group of its own, and ends with this process.

    A shim (``nexus-shim --command``) is its parent, and that of all that it leaves behind. When the program has ended,
    at ``kill`` and ``close``, and when this process has ended, the shim kills everything that is left. If the shim is
    killed, this process does that, or the next daemon (``Runtime.end_left_behind``), by the run id in the environment:
    that of ``environment`` with an id of this child. Every child must be closed. ``on_exit`` is called on the loop when
    the program has ended.
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
        umask: int | None = None,
        stdin: int | None = None,
        on_exit: Callable[[], None] | None = None,
    ) -> None:
        """Start the shim; ``started`` waits for the program. ``descriptors`` are inherited under the same numbers.

        ``umask`` None is that of the session which started the daemon. ``stdin`` becomes its standard input, and the
        caller closes its own copy afterwards; None is /dev/null.

        Raises:
            OSError: there are no resources for it; the pipes are closed.
        """
        self.pid = 0
        """The process id of the program, and the id of its group and session; 0 until it was executed."""
        self.returncode: int | None = None
        """The exit code, negative for a signal; None until the program has ended, or where it could not be executed."""
        self.ended = asyncio.Event()
        """Set when the program has ended, or could not be started."""
        self.gone = asyncio.Event()
        """Set when everything that it left behind has ended, too."""
        self._begun = asyncio.Event()
        self._failure: OSError | None = None
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._pidfd = -1
        self._cleanup: asyncio.Task[None] | None = None
        self._program, self._directory = argv[0], str(directory)
        mark = _new_mark()
        outer = environment.get("NEXUS_RUN_ID")
        self._run_id = f"{outer}.{mark}" if outer else mark
        spec = ProcessSpec(
            argv=tuple(argv),
            directory=os.path.abspath(directory),  # noqa: PTH100 - resolves no link
            environment={**environment, "NEXUS_RUN_ID": self._run_id},
            umask=umask,
        )
        inherited: list[int] = []
        write_ends: dict[OutputPipe, int] = {}
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            self._control.setblocking(False)
            for pipe in (stdout, stderr):
                if pipe not in write_ends:
                    write_ends[pipe] = pipe.open()
            inherited.append(encode_spec(spec, DESCRIPTORS))
            standard = (stdin, write_ends[stdout], write_ends[stderr])
            self._spawn(mark, standard, (*inherited, theirs.fileno(), *descriptors))
        except BaseException:
            stdout.close()
            stderr.close()
            self._close_control()
            raise
        finally:
            theirs.close()
            for fd in (*inherited, *write_ends.values()):
                os.close(fd)

    def _spawn(self, mark: str, standard: tuple[int | None, int, int], descriptors: Sequence[int]) -> None:
        stdin, stdout, stderr = standard
        command = [*shim_command(), "--command", mark, *map(str, descriptors)]
        pid = os.posix_spawn(
            command[0],
            command,
            {},
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0)
                if stdin is None
                else (os.POSIX_SPAWN_DUP2, stdin, 0),
                (os.POSIX_SPAWN_DUP2, stdout, 1),
                (os.POSIX_SPAWN_DUP2, stderr, 2),
                *((os.POSIX_SPAWN_DUP2, fd, fd) for fd in descriptors),
            ],
            setsigmask=[],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
        )
        try:
            self._pidfd = os.pidfd_open(pid)
            self._loop.add_reader(self._pidfd, self._shim_ended)
            self._loop.add_reader(self._control, self._read_reports)
        except BaseException:
            # Without a descriptor its end cannot be awaited. With the socket closed it kills its child and ends.
            self._close_control()
            self._close_pidfd()
            _reap_soon(pid)
            raise

    async def started(self) -> None:
        """Wait until the program was executed.

        Raises:
            OSError: it cannot be; nothing is left of it.
        """
        await self._begun.wait()
        if self._failure is not None:
            await self.gone.wait()
            raise self._failure

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the program has ended; False when it has not within ``timeout_s``."""
        return await _is_set(self.ended, timeout_s)

    async def wait_gone(self, timeout_s: float | None = None) -> bool:
        """Wait until everything that it left behind has ended, too; False when it has not within ``timeout_s``."""
        return await _is_set(self.gone, timeout_s)

    def failed(self) -> bool:
        """Whether the program, which has ended, was ended by a signal or with an exit code but 0."""
        return self.returncode != 0

    def signal_group(self, number: int) -> None:
        """Send a signal to the program's group; nothing happens once it has ended."""
        if not self.ended.is_set():
            with contextlib.suppress(OSError):
                self._control.send(f"signal {int(number)}".encode())

    def kill(self) -> None:
        """Have the program and everything that it left behind killed."""
        with contextlib.suppress(OSError):
            self._control.shutdown(socket.SHUT_WR)
        self._continue_shim()

    def close(self) -> None:
        """``kill``, and take no more reports; the shim is reaped when everything has ended."""
        self._close_control()
        self._continue_shim()

    def _continue_shim(self) -> None:
        """A suspended shim would kill nothing."""
        if self._pidfd >= 0:
            with contextlib.suppress(OSError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGCONT)

    def _read_reports(self) -> None:
        while self._control.fileno() >= 0:
            try:
                words = self._control.recv(_REPORT_BYTES).decode("ascii", "replace").split()
            except BlockingIOError:
                return
            except OSError:
                words = []
            if not words:
                self._loop.remove_reader(self._control)
                return
            if words[0] == "ok":
                self.pid = int(words[1])
                self._begun.set()
            elif words[0] == "fail":
                number = int(words[2])
                path = self._directory if words[1] == "chdir" else self._program
                self._failure = OSError(number, os.strerror(number), path)
                self._set_ended(None)
            else:
                self._set_ended(int(words[1]) if words[0] == "exit" else -int(words[1]))

    def _set_ended(self, code: int | None) -> None:
        if self.ended.is_set():
            return
        self.returncode = code
        self._begun.set()
        self.ended.set()
        if self._on_exit is not None:
            self._on_exit()

    def _shim_ended(self) -> None:
        self._read_reports()
        end = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._close_pidfd()
        self._close_control()
        if end is not None and end.si_code == os.CLD_EXITED:
            self._set_gone()
        else:
            self._cleanup = asyncio.ensure_future(self._end_rest())

    async def _end_rest(self) -> None:
        """After the shim was killed, kill what it would have killed."""
        has_id = has_run_id(self._run_id)

        def belongs(pid: int, fields: list[bytes]) -> bool:
            return int(fields[3]) == self.pid > 0 or has_id(pid, fields)

        await end_when_possible(lambda: end_members(belongs), self._program)
        self._set_gone()

    def _set_gone(self) -> None:
        self._cleanup = None
        self._set_ended(-signal.SIGKILL)
        self.gone.set()

    def _close_control(self) -> None:
        if self._control.fileno() >= 0:
            self._loop.remove_reader(self._control)
            self._control.close()

    def _close_pidfd(self) -> None:
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1


async def _is_set(event: asyncio.Event, timeout_s: float | None) -> bool:
    """Wait until an event is set, for ``timeout_s`` at most; returns whether it is."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    return event.is_set()


def _reap_soon(pid: int) -> None:
    """Reap a child that is about to end; one that does not is reaped with this process."""
    until = time.monotonic() + _UNWATCHED_S
    while os.waitpid(pid, os.WNOHANG)[0] == 0 and time.monotonic() < until:
        time.sleep(0.001)


@functools.cache
def _mark_of(pid: int) -> str:
    return f"child-{pid_namespace()}-{pid}-{process_start(pid)}"


def _new_mark() -> str:
    """The id of a new child; with it ``end_left_behind`` finds a child whose daemon has ended."""
    return f"{_mark_of(os.getpid())}-{next(_numbers)}"


async def run_command(
    argv: Sequence[str],
    *,
    directory: str | Path,
    environment: Mapping[str, str],
    timeout_s: float,
    output_bytes: int,
    umask: int | None = None,
) -> CommandResult:
    """Run a program, and wait for its end at most ``timeout_s``; keeps the last ``output_bytes`` of its output.

    Whatever it has left is killed before this returns, also when it is cancelled. ``umask`` None is that of the session
    which started the daemon.

    Raises:
        OSError: it cannot be started.
    """
    output = bytearray()

    def receive(data: bytes) -> None:
        output.extend(data)
        del output[:-output_bytes]

    pipe = OutputPipe(receive)
    child = ChildProcess(argv, directory=directory, environment=environment, stdout=pipe, stderr=pipe, umask=umask)
    try:
        in_time = await child.wait(timeout_s)
        if in_time:
            await child.started()
    finally:
        child.kill()
        try:
            await child.wait_gone(_KILLED_S)
        finally:
            child.close()
            pipe.drain()
            pipe.close()
    return CommandResult(child.returncode if in_time else None, bytes(output))
