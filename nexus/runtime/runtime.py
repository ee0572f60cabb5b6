"""The process runtime: starts runs, adopts them after a restart of the daemon, and manages their folders.

It knows no service, machine or job: an owner is the name of the folder that holds the log of all its runs, and the
caller creates and records the run ids.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import shutil
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nexus.runtime.attachment import Attachment, attach
from nexus.runtime.inheritance import DESCRIPTORS
from nexus.runtime.logs import Log
from nexus.runtime.members import end_left_behind, end_run, end_when_possible, strings_of
from nexus.runtime.orphans import Orphans, end_orphans, find_orphans, has_folder, stop_shims
from nexus.runtime.process import Process, lost, reap
from nexus.runtime.scope import Scopes
from nexus.runtime.spec import Exit, LimitUnavailable, ProcessSpec, RunHeld, RunUnreadable, StartFailed
from nexus.runtime.spec_encoding import encode_spec, shim_command
from nexus.runtime.start_errors import explain
from nexus.runtime.status import (
    STATUS_BYTES,
    RunRecord,
    Status,
    boot_id,
    is_exhaustion,
    is_locked,
    open_process,
    read_status,
)
from nexus.runtime.tree import end_cgroup

__all__ = ["Runtime"]

_log = logging.getLogger(__name__)

_SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SCOPE_TIMEOUT_S = 5.0
_SHIM_TIMEOUT_S = 30.0
_POLL_S = 0.01
_SPARE_DESCRIPTORS = 8
_MAX_POLLS = 300
_MAX_LOG_LOCK_POLLS = 100


@dataclass
class _Start:
    """The descriptors that a start holds open until the shim has inherited them."""

    owner: str
    run_id: str
    folder: Path
    spec: ProcessSpec
    stdin: int | None
    descriptors: list[int] = field(default_factory=list)
    report_fd: int = -1

    def close_inherited(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors.clear()

    def close_all(self) -> None:
        self.close_inherited()
        if self.report_fd >= 0:
            os.close(self.report_fd)
            self.report_fd = -1


class Runtime:
    """All runs below one directory, which is created when needed and used by one daemon only.

    ``scopes=False`` does not use the systemd user manager. ``descriptors`` is the soft limit of open files that
    children get; the default is the limit that this process was started with.
    """

    def __init__(self, directory: Path, *, scopes: bool = True, descriptors: int | None = None) -> None:
        self.directory = directory
        self._scopes = Scopes(enabled=scopes)
        self._descriptor_limit = DESCRIPTORS if descriptors is None else descriptors
        self._warned_of_scopes = False

    def check(self, spec: ProcessSpec) -> None:
        """Check whether limits can be enforced here, as far as that is cheap to tell.

        Raises:
            LimitUnavailable: they cannot.
        """
        self._scopes.check(spec)

    def log(self, owner: str) -> Log:
        """The log of an owner over all its runs; it may not exist yet."""
        return Log(self._owner_folder(owner) / "log")

    async def start(self, owner: str, run_id: str, spec: ProcessSpec, *, stdin: int | None = None) -> Process:
        """Start a program; returns once the program has been executed.

        ``stdin`` is a descriptor, of a file, a memfd or the read end of a pipe, which becomes the program's standard
        input with the offset that it has; the caller closes its own copy afterwards. None is /dev/null.

        Raises:
            StartFailed: it could not be executed; no process or file of the run is left.
            LimitUnavailable: its limits cannot be enforced here; no process or file is left either.
        """
        if stdin is not None and spec.attachable:
            raise ValueError("a program with a terminal or an open standard input takes no descriptor for it")
        self.check(spec)
        folder = self._run_folder(owner, run_id)
        start = _Start(owner, run_id, folder, spec, stdin)
        try:
            if self._scopes.available():
                process = await self._start_in_scope(start)
                if process is not None:
                    return process
            await self._prepare_with_retry(start)
            return await self._spawn(start, [], {}, _SHIM_TIMEOUT_S)
        except BaseException as error:
            start.close_all()
            if not (isinstance(error, StartFailed) and error.errno in (errno.EEXIST, errno.EBUSY)):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    async def adopt(self, owner: str, run_id: str) -> Process | Exit | None:
        """Adopt a run that an earlier daemon started.

        Returns the process if it is still running, its exit if it has ended, and None if it never started.

        Raises:
            RunUnreadable: it is running, and its status file cannot be understood.
            OSError: it cannot be looked at; that is no proof that it has ended.
        """
        folder = self._run_folder(owner, run_id)
        status: Status | None = None
        _require_spare_descriptors()
        for _ in range(_MAX_POLLS):
            locked = is_locked(folder / "lock")
            # Read after the lock was checked: if the shim has ended, everything that it wrote is visible.
            status = read_status(folder / "status")
            if status is None or (status.failed and not locked):
                return None
            if status.run is not None:
                shim = _open_shim(status.run)
                if shim is not None:
                    try:
                        words = strings_of(status.run.shim_pid, "cmdline")
                        if f"{owner}/{run_id}".encode() in words:
                            # It lives, also if its lock file was deleted or replaced.
                            cgroup = self._scopes.folder(status.run.shim_pid, run_id)
                            process = Process(owner, run_id, folder, status.run, shim, cgroup)
                            shim = None
                            return process
                        if any(words):  # a zombie has none
                            status = status._replace(run=None)  # the file is another run's
                    finally:
                        if shim is not None:
                            os.close(shim)
            if not locked:
                return await self._find_exit(folder, run_id, status)
            # The run is just starting, or just ending.
            await asyncio.sleep(_POLL_S)
        # The status file names no shim that lives.
        orphans = (await self.find_orphans({run_id: owner})).get(run_id)
        held = orphans is not None and any(has_folder(pid, folder) for pid in orphans.shims)
        if status is not None and status.run is not None and not held:
            # Its shim has ended, so the lock is held by a process that is none of ours.
            await self._find_exit(folder, run_id, status)
            return status.exit or lost("another process holds its lock")
        raise RunUnreadable(
            f"cannot look at run {run_id} of {owner}: its lock is held, and its status file names no process of it",
            f"Look at the files in {folder}.",
        )

    async def attach(
        self,
        owner: str,
        run_id: str,
        *,
        size: tuple[int, int] | None = None,
        output: bool = True,
        replay: bool = True,
    ) -> Attachment:
        """Attach a client to the terminal or the open standard input of a run, whichever daemon started it.

        ``size`` is the rows and columns of the client's terminal, where it has one. With ``output`` it receives what
        the program writes from now on; with ``replay`` the last 64 KiB first, or as much as there is.

        Raises:
            NotAttachable: the run has no terminal and no open standard input.
            RunEnded: it has ended, or never started.
            TooManyAttached: 16 clients are attached to it.
            OSError: this process lacks descriptors or memory.
        """
        folder = self._run_folder(owner, run_id)
        return await attach(folder, run_id, size=size, output=output, replay=replay)

    async def stop_unreadable(self, owner: str, run_id: str) -> None:
        """Tell the shim of a run that cannot be adopted to stop it; does not wait. Needs no file of the run.

        Raises:
            OSError: this process lacks descriptors or memory.
        """
        orphans = (await self.find_orphans({run_id: owner})).get(run_id)
        if orphans is not None:
            await asyncio.to_thread(stop_shims, orphans)

    async def find_orphans(self, owners: Mapping[str, str]) -> dict[str, Orphans]:
        """Find surviving processes of runs whose files were deleted, so that ``adopt`` returns None; by run id.

        ``owners`` maps run ids to owners. Orphans are not watched; they can only be ended, with ``end_orphans``.
        """
        return await asyncio.to_thread(find_orphans, owners) if owners else {}

    async def end_orphans(self, orphans: Orphans, number: int, grace_ms: int) -> None:
        """End the processes of a run, with a signal and after the grace time with SIGKILL, and wait until they end."""
        await end_orphans(orphans, number, grace_ms)

    async def end_left_behind(self) -> None:
        """End the short-lived children of an earlier daemon, of this user and namespace, that still run.

        Their shims end them with their daemon; these are left where a shim was killed as well.
        """
        await asyncio.to_thread(end_left_behind)

    async def _find_exit(self, folder: Path, run_id: str, status: Status) -> Exit | None:
        if status.run is None:
            return None
        if status.exit is not None and (status.done or status.run.boot != boot_id()):
            return status.exit
        if status.run.boot != boot_id():
            return lost("the machine was restarted")
        for cgroup in self._cgroups(folder, run_id):
            end_cgroup(cgroup)
        await asyncio.to_thread(end_run, status.run, run_id, watched=False)
        return status.exit or lost("its supervisor was killed")

    def owners(self) -> list[str]:
        """The names of all owners that have a folder here. Blocks."""
        with contextlib.suppress(OSError):
            return sorted(path.name for path in self.directory.iterdir() if path.is_dir())
        return []

    def runs(self, owner: str) -> list[str]:
        """The ids of all runs of an owner that have files. Blocks."""
        with contextlib.suppress(OSError):
            return [path.name for path in self._owner_folder(owner).iterdir() if path.name != "log"]
        return []

    def forget(self, owner: str, run_id: str) -> None:
        """Delete the files of a finished run, but not its log; does nothing if there are none.

        Raises:
            RunHeld: the run is still running.
        """
        folder = self._run_folder(owner, run_id)
        if is_locked(folder / "lock"):
            raise RunHeld(f"cannot delete the files of run {run_id}: it is still running", "Stop it first.")
        if folder.is_dir() and not folder.is_symlink():
            shutil.rmtree(folder, ignore_errors=True)
        else:
            folder.unlink(missing_ok=True)

    async def remove(self, owner: str) -> None:
        """Delete all files of an owner including its log; does nothing if there are none.

        Raises:
            RunHeld: one of its runs is still running.
            OSError: the files cannot be deleted.
        """
        folder = self._owner_folder(owner)
        if is_locked(folder / "log") or any(is_locked(lock) for lock in folder.glob("*/lock")):
            raise RunHeld(f"cannot delete the files of {owner}: it is still running", "Stop it first.")
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, folder)

    def _owner_folder(self, owner: str) -> Path:
        if not _SAFE_NAME.fullmatch(owner):
            raise ValueError(f"{owner!r} is not a valid owner name")
        return self.directory / owner

    def _run_folder(self, owner: str, run_id: str) -> Path:
        if not _SAFE_NAME.fullmatch(run_id) or run_id == "log":
            raise ValueError(f"{run_id!r} is not a valid run id")
        return self._owner_folder(owner) / run_id

    async def _prepare_with_retry(self, start: _Start) -> None:
        """``_prepare``, repeated while the log is locked: a child that was killed before its exec may still hold it."""
        for polls_left in range(_MAX_LOG_LOCK_POLLS, -1, -1):
            try:
                self._prepare(start)
                return
            except StartFailed as error:
                start.close_all()
                if error.errno != errno.EBUSY or not polls_left:
                    raise
            await asyncio.sleep(_POLL_S)

    def _prepare(self, start: _Start) -> None:
        """Create the files of a run and lock them; the order of the descriptors is that of the shim's arguments.

        Raises:
            StartFailed: no space, no permission, or another run of the owner still holds the log.
        """
        spec, folder = start.spec, start.folder
        name = spec.program
        try:
            log_folder = folder.parent / "log"
            log_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            start.descriptors.append(encode_spec(spec, self._descriptor_limit))
            start.report_fd, report_writer = os.pipe2(os.O_CLOEXEC)
            start.descriptors.append(report_writer)
            start.descriptors.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            start.descriptors.append(os.open(log_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fcntl.flock(start.descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            start.descriptors.append(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            fcntl.flock(start.descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            if start.stdin is not None:
                # A copy: a descriptor below 3 would be taken for the shim's own standard input, output or error.
                start.descriptors.append(fcntl.fcntl(start.stdin, fcntl.F_DUPFD_CLOEXEC, 3))
            os.mkfifo(folder / "control", 0o600)
            # The status file is created last, since adopt() takes it as the sign that the run was started. Its space is
            # allocated now, so that a disk that fills up later loses no exit code.
            status = os.open(folder / "status", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write_all(status, b" " * STATUS_BYTES)
            finally:
                os.close(status)
        except BlockingIOError:
            shutil.rmtree(folder, ignore_errors=True)
            raise StartFailed(
                name, "its previous run is still ending", errno.EBUSY, "Try again in a moment.", step="files"
            ) from None
        except FileExistsError:
            raise StartFailed(name, f"run {start.run_id} was already started", errno.EEXIST, step="files") from None
        except OSError as error:
            raise explain(spec, "files", error.errno or 0, str(self.directory)) from None

    async def _start_in_scope(self, start: _Start) -> Process | None:
        """Start in a scope; None where the user manager failed and the spec has no limits."""
        spec = start.spec
        await self._prepare_with_retry(start)
        errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        try:
            prefix = self._scopes.command(start.run_id, spec)
            process = await self._spawn(start, prefix, self._scopes.environment, _SCOPE_TIMEOUT_S, errors)
        except _ScopeFailed as failure:
            os.lseek(errors, 0, os.SEEK_SET)
            first_line = os.read(errors, 1000).decode(errors="replace").strip().partition("\n")[0]
            reason = f"{failure}: {first_line}" if first_line else str(failure)
            shutil.rmtree(start.folder, ignore_errors=True)
            if spec.limited:
                raise LimitUnavailable(
                    f"cannot limit {spec.program}: {reason}",
                    "Check `systemctl --user status`, or run it without limits.",
                ) from None
            if not self._warned_of_scopes:
                self._warned_of_scopes = True
                _log.warning("starting processes without scopes: %s", reason)
            return None
        finally:
            os.close(errors)
        cgroup = self._scopes.folder(process.shim_pid, start.run_id)
        try:
            self._scopes.verify(cgroup, spec)
        except LimitUnavailable:
            await asyncio.shield(process.stop(signal.SIGKILL, 0))
            raise
        process.set_cgroup(cgroup)
        with contextlib.suppress(OSError):
            (start.folder / "cgroup").write_text(str(cgroup or ""))
        return process

    async def _spawn(
        self, start: _Start, prefix: list[str], environment: dict[str, str], timeout_s: float, errors: int | None = None
    ) -> Process:
        """Start the shim and wait for its report; kills the shim again if the wait is cancelled.

        ``prefix`` is the ``systemd-run`` command for a scope, or empty; ``errors`` receives its standard error.
        """
        label = f"{start.owner}/{start.run_id}"
        command = [*prefix, *shim_command(), label, *map(str, start.descriptors)]
        standard = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
        standard_error = [] if errors is None else [(os.POSIX_SPAWN_DUP2, errors, 2)]
        inherited = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in start.descriptors]
        try:
            pid = os.posix_spawn(  # noqa: ASYNC221 - returns as soon as the shim, which is small, is executed
                command[0],
                command,
                environment,
                file_actions=[*standard, *standard_error, *inherited],
                setsigmask=[],
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            if prefix:
                raise _ScopeFailed(f"{prefix[0]} cannot be run ({error.strerror})") from None
            raise explain(start.spec, "shim", error.errno or 0, command[0]) from None
        try:
            shim = os.pidfd_open(pid)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)  # it has not been reaped, so the pid cannot have been reused
            os.waitpid(pid, 0)  # noqa: ASYNC222 - a killed small process ends at once
            raise explain(start.spec, "shim", error.errno or 0) from None
        start.close_inherited()
        try:
            # Not asyncio.wait_for, which in Python 3.11 loses a cancellation that comes with the result.
            async with asyncio.timeout(timeout_s):
                report = await _read_report(start.report_fd)
            status = read_status(start.folder / "status")
            if report == ["ok"] and status is not None and status.run is not None:
                process = Process(start.owner, start.run_id, start.folder, status.run, shim)
                shim = -1
                return process
            if report[:1] == ["fail"] and len(report) == 3:
                raise explain(start.spec, report[1], int(report[2]))
            if prefix:
                raise _ScopeFailed("systemd-run failed")
            raise StartFailed(start.spec.program, "its supervisor exited before the program was executed", step="shim")
        except TimeoutError:
            if prefix:
                raise _ScopeFailed(f"systemd-run did not answer within {timeout_s:g} seconds") from None
            raise StartFailed(
                start.spec.program,
                f"it was not executed within {timeout_s:g} seconds",
                errno.ETIMEDOUT,
                "Check whether the disks of the program and its directory respond.",
                step="shim",
            ) from None
        except OSError as error:
            raise explain(start.spec, "shim", error.errno or 0) from None
        finally:
            os.close(start.report_fd)
            start.report_fd = -1
            if shim >= 0:
                await asyncio.shield(_end_start(shim, start.folder, start.run_id))

    def _cgroups(self, folder: Path, run_id: str) -> list[Path]:
        """The recorded control group of a run, if any; its name has the run's id, so it contains no other run."""
        with contextlib.suppress(OSError, ValueError):
            path = Path((folder / "cgroup").read_text())
            if path.name == f"nexus-{run_id}.scope":
                return [path]
        return []


async def _end_start(shim: int, folder: Path, run_id: str) -> None:
    """Kill the shim of a start that was given up, and the program that it may have executed already."""
    await _kill_shim(shim, folder / "lock")

    def end() -> bool:
        status = read_status(folder / "status")
        return status is None or status.run is None or end_run(status.run, run_id, watched=True)

    await end_when_possible(end, f"run {run_id}, whose start was given up")


def _open_shim(run: RunRecord) -> int | None:
    """A pidfd of the process that a status file names as the shim; None where it has ended."""
    return open_process(run.shim_pid, run.shim_start) if run.boot == boot_id() else None


def _require_spare_descriptors() -> None:
    """Return if a few descriptors are left for clients, who may want to stop something.

    Raises:
        OSError: they are not.
    """
    spare: list[int] = []
    try:
        for _ in range(_SPARE_DESCRIPTORS):
            spare.append(os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for fd in spare:
            os.close(fd)


class _ScopeFailed(Exception):
    """The systemd user manager did not start the scope."""


def _write_all(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def _read_report(fd: int) -> list[str]:
    """Read the shim's one-line report from a pipe, split at blanks; empty if the pipe is closed without one."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    os.set_blocking(fd, False)
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
        return os.read(fd, 256).decode("ascii", "replace").split()
    finally:
        loop.remove_reader(fd)


async def _kill_shim(pidfd: int, lock: Path) -> None:
    """Kill and reap a shim whose start was given up, and wait until its lock is free.

    A child that it has forked but that has not executed the program dies a moment later, and holds the lock until then.
    """
    loop = asyncio.get_running_loop()
    exited = asyncio.Event()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    loop.add_reader(pidfd, exited.set)
    try:
        await exited.wait()
    finally:
        loop.remove_reader(pidfd)
        reap(pidfd)
        os.close(pidfd)
    for _ in range(_MAX_POLLS):
        try:
            if not is_locked(lock):
                return
        except OSError as error:
            if not is_exhaustion(error):
                raise
        await asyncio.sleep(_POLL_S)
