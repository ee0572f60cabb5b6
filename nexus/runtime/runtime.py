"""The process room: starts runs, takes them back after a restart of the daemon, and keeps their folders.

It knows no service, machine or job: an owner is a name for the folder that keeps a log over all runs, and a run id is
made, and written down, by whoever asks.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import logging
import os
import re
import resource
import shutil
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from nexus.runtime.logs import Log
from nexus.runtime.orphans import Orphans, end_orphans, find_orphans
from nexus.runtime.process import Process, lost, reap
from nexus.runtime.scope import Scopes
from nexus.runtime.spec import Exit, LimitUnavailable, ProcessSpec, RunHeld, StartFailed
from nexus.runtime.spec_encoding import make_orders
from nexus.runtime.start_errors import explain
from nexus.runtime.status import STATUS_BYTES, Status, boot_id, is_locked, open_process, read_status
from nexus.runtime.tree import end_cgroup, end_session

__all__ = ["Runtime", "shim_command"]

_log = logging.getLogger(__name__)

_SAFE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SCOPE_TIMEOUT_S = 5.0
_SHIM_TIMEOUT_S = 30.0
_LOOK_AGAIN_S = 0.01
_LOOKS = 300
_LOOKS_FOR_THE_LOG = 100

_DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
"""The soft limit that this process was started with: the daemon raises its own later, and no child should get that."""


def shim_command() -> list[str]:
    """The words that start the shim: the compiled one, or the one in Python where there was no compiler.

    ``NEXUS_RUNTIME_SHIM`` (``native`` or ``python``) picks one.
    """
    wanted = os.environ.get("NEXUS_RUNTIME_SHIM")
    native = Path(__file__).parent / "native" / "nexus-shim"
    if wanted == "native" or (wanted != "python" and os.access(native, os.X_OK)):
        return [str(native)]
    return [sys.executable, "-I", "-S", str(Path(__file__).parent / "shim.py")]


@dataclass
class _Start:
    """What a start holds open until the shim has it."""

    owner: str
    run_id: str
    folder: Path
    spec: ProcessSpec
    descriptors: list[int] = field(default_factory=list)
    report: int = -1

    def close(self) -> None:
        for fd in self.descriptors:
            os.close(fd)
        self.descriptors.clear()

    def close_all(self) -> None:
        self.close()
        if self.report >= 0:
            os.close(self.report)
            self.report = -1


class Runtime:
    """All runs below one directory, which is made when it is needed; it is the daemon's alone.

    ``scopes=False`` does without the user manager, as where there is none. ``descriptors`` is the soft limit of open
    files that children get: the one that this process was started with, unless told otherwise.
    """

    def __init__(self, directory: Path, *, scopes: bool = True, descriptors: int | None = None) -> None:
        self.directory = directory
        self._scopes = Scopes(enabled=scopes)
        self._descriptors = _DESCRIPTORS if descriptors is None else descriptors
        self._warned = False

    def check(self, spec: ProcessSpec) -> None:
        """See whether the limits can be held here, as far as that is cheap to tell.

        Raises:
            LimitUnavailable: they cannot.
        """
        self._scopes.check(spec)

    def log(self, owner: str) -> Log:
        """The log of an owner over all its runs; it may be empty yet."""
        return Log(self._owner_folder(owner) / "log")

    async def start(self, owner: str, run_id: str, spec: ProcessSpec) -> Process:
        """Start a program; returns when it runs, that is, when it was executed.

        Raises:
            StartFailed: it could not be; nothing of the run is left.
            LimitUnavailable: its limits cannot be held here; nothing is left either.
        """
        self.check(spec)
        folder = self._run_folder(owner, run_id)
        start = _Start(owner, run_id, folder, spec)
        try:
            if self._scopes.available():
                process = await self._start_in_scope(start)
                if process is not None:
                    return process
            await self._take(start)
            return await self._spawn(start, [], {}, _SHIM_TIMEOUT_S)
        except BaseException as error:
            start.close_all()
            if not (isinstance(error, StartFailed) and error.errno in (errno.EEXIST, errno.EBUSY)):
                shutil.rmtree(folder, ignore_errors=True)
            raise

    async def adopt(self, owner: str, run_id: str) -> Process | Exit | None:
        """Take a run back that another daemon started.

        Gives the process where it still runs, how it ended where it does not, and None where it never started.
        """
        folder = self._run_folder(owner, run_id)
        for _ in range(_LOOKS):
            held = is_locked(folder / "lock")
            # Read after the look at the lock: what a shim wrote before it ended is there.
            status = read_status(folder / "status")
            if status is None or (status.failed and not held):
                return None
            if not held:
                return await self._ended(folder, run_id, status)
            if status.run is not None and status.run.boot == boot_id():
                shim = open_process(status.run.shim_pid, status.run.shim_start)
                if shim is not None and is_locked(folder / "lock"):
                    return Process(
                        owner, run_id, folder, status.run, shim, self._scopes.folder(status.run.shim_pid, run_id)
                    )
                if shim is not None:
                    os.close(shim)
            # It is just starting, or just ending.
            await asyncio.sleep(_LOOK_AGAIN_S)
        return lost("somebody else holds its lock")

    async def find_orphans(self, owners: Mapping[str, str]) -> dict[str, Orphans]:
        """What lives of runs that ``adopt`` has no trace of, by their ids: somebody deleted their files.

        ``owners`` has the owner of each. None of them is watched: all that can be done with them is to end them.
        """
        return await asyncio.to_thread(find_orphans, owners) if owners else {}

    async def end_orphans(self, orphans: Orphans, number: int, grace_ms: int) -> None:
        """End what is left of a run, with a signal and after the grace time with SIGKILL, and wait for that."""
        await end_orphans(orphans, number, grace_ms)

    async def _ended(self, folder: Path, run_id: str, status: Status) -> Exit | None:
        if status.run is None:
            return None
        if status.exit is not None and (status.done or status.run.boot != boot_id()):
            return status.exit
        if status.run.boot != boot_id():
            return lost("the machine was restarted")
        for cgroup in self._cgroups(folder, run_id):
            end_cgroup(cgroup)
        await asyncio.to_thread(end_session, status.run, watched=False)
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
        """Delete the files of a run that is over, but not what it logged; nothing happens when there are none.

        Raises:
            RunHeld: it is not over.
        """
        folder = self._run_folder(owner, run_id)
        if is_locked(folder / "lock"):
            raise RunHeld(f"cannot forget run {run_id}: it still runs", "Stop it first.")
        shutil.rmtree(folder, ignore_errors=True)

    async def remove(self, owner: str) -> None:
        """Delete everything of an owner, its log too; nothing happens when there is nothing.

        Raises:
            RunHeld: a run of it is not over.
            OSError: the files cannot be deleted.
        """
        folder = self._owner_folder(owner)
        if is_locked(folder / "log") or any(is_locked(lock) for lock in folder.glob("*/lock")):
            raise RunHeld(f"cannot remove the files of {owner}: it still runs", "Stop it first.")
        with contextlib.suppress(FileNotFoundError):
            await asyncio.to_thread(shutil.rmtree, folder)

    def _owner_folder(self, owner: str) -> Path:
        if not _SAFE.fullmatch(owner):
            raise ValueError(f"{owner!r} is no name of an owner")
        return self.directory / owner

    def _run_folder(self, owner: str, run_id: str) -> Path:
        if not _SAFE.fullmatch(run_id) or run_id == "log":
            raise ValueError(f"{run_id!r} is no id of a run")
        return self._owner_folder(owner) / run_id

    async def _take(self, start: _Start) -> None:
        """``_prepare`` once the log is free: who was killed on its way to a program holds it for a moment yet."""
        for looks in range(_LOOKS_FOR_THE_LOG, -1, -1):
            try:
                self._prepare(start)
                return
            except StartFailed as error:
                start.close_all()
                if error.errno != errno.EBUSY or not looks:
                    raise
            await asyncio.sleep(_LOOK_AGAIN_S)

    def _prepare(self, start: _Start) -> None:
        """Make the files of a run, and take its locks.

        Raises:
            StartFailed: there is no room, no right, or another run of the owner still holds the log.
        """
        spec, folder = start.spec, start.folder
        name = spec.program
        try:
            logs = folder.parent / "log"
            logs.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700)
            start.descriptors.append(make_orders(spec, self._descriptors))
            start.report, writing = os.pipe2(os.O_CLOEXEC)
            start.descriptors.append(writing)
            start.descriptors.append(os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            start.descriptors.append(os.open(logs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
            fcntl.flock(start.descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            start.descriptors.append(os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
            fcntl.flock(start.descriptors[-1], fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.mkfifo(folder / "control", 0o600)
            # The trace of the run comes last, and takes its room now: a full disk loses no exit code.
            status = os.open(folder / "status", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                _write(status, b" " * STATUS_BYTES)
            finally:
                os.close(status)
        except BlockingIOError:
            shutil.rmtree(folder, ignore_errors=True)
            raise StartFailed(
                name, "what it started before is still ending", errno.EBUSY, "Try again in a moment.", stage="files"
            ) from None
        except FileExistsError:
            raise StartFailed(name, f"run {start.run_id} was started before", errno.EEXIST, stage="files") from None
        except OSError as error:
            number = error.errno or 0
            raise explain(spec, "files", number, str(self.directory)) from None

    async def _start_in_scope(self, start: _Start) -> Process | None:
        """Start in a scope; None where the user manager failed and nobody needs it."""
        spec = start.spec
        await self._take(start)
        errors = os.memfd_create("errors", os.MFD_CLOEXEC)
        try:
            prefix = self._scopes.command(start.run_id, spec)
            process = await self._spawn(start, prefix, self._scopes.environment, _SCOPE_TIMEOUT_S, errors)
        except _ScopeFailed as failure:
            os.lseek(errors, 0, os.SEEK_SET)
            said = os.read(errors, 1000).decode(errors="replace").strip().partition("\n")[0]
            reason = f"{failure}: {said}" if said else str(failure)
            shutil.rmtree(start.folder, ignore_errors=True)
            if spec.limited:
                raise LimitUnavailable(
                    f"cannot limit {spec.program}: {reason}",
                    "See what `systemctl --user status` says, or run it without limits.",
                ) from None
            if not self._warned:
                self._warned = True
                _log.warning("processes are started without scopes: %s", reason)
            return None
        finally:
            os.close(errors)
        cgroup = self._scopes.folder(process.shim_pid, start.run_id)
        try:
            self._scopes.verify(cgroup, spec)
        except LimitUnavailable:
            await asyncio.shield(process.stop(signal.SIGKILL, 0))
            raise
        process.in_cgroup(cgroup)
        with contextlib.suppress(OSError):
            (start.folder / "cgroup").write_text(str(cgroup or ""))
        return process

    async def _spawn(
        self, start: _Start, prefix: list[str], environment: dict[str, str], timeout_s: float, errors: int | None = None
    ) -> Process:
        """Start the shim and wait for its report; a cancelled wait ends it again."""
        label = f"{start.owner}/{start.run_id}"
        command = [*prefix, *shim_command(), label, *map(str, start.descriptors)]
        plain = [(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in range(3)]
        said = [] if errors is None else [(os.POSIX_SPAWN_DUP2, errors, 2)]
        passed = [(os.POSIX_SPAWN_DUP2, fd, fd) for fd in start.descriptors]
        try:
            pid = os.posix_spawn(  # noqa: ASYNC221 - returns as soon as the shim, which is small, is executed
                command[0],
                command,
                environment,
                file_actions=[*plain, *said, *passed],
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
            os.kill(pid, signal.SIGKILL)  # nobody has reaped it, so this is no other's pid
            os.waitpid(pid, 0)  # noqa: ASYNC222 - it is killed, and small
            raise explain(start.spec, "shim", error.errno or 0) from None
        start.close()
        try:
            said_so = await asyncio.wait_for(_line(start.report), timeout_s)
            status = read_status(start.folder / "status")
            if said_so == ["ok"] and status is not None and status.run is not None:
                process = Process(start.owner, start.run_id, start.folder, status.run, shim)
                shim = -1
                return process
            if said_so[:1] == ["fail"] and len(said_so) == 3:
                raise explain(start.spec, said_so[1], int(said_so[2]))
            if prefix:
                raise _ScopeFailed("systemd-run failed")
            raise StartFailed(start.spec.program, "its supervisor ended at once", stage="shim")
        except TimeoutError:
            if prefix:
                raise _ScopeFailed(f"systemd-run did not answer within {timeout_s:g} seconds") from None
            raise StartFailed(
                start.spec.program,
                f"nothing happened within {timeout_s:g} seconds",
                errno.ETIMEDOUT,
                "See whether the disks of the program and of its directory answer.",
                stage="shim",
            ) from None
        except OSError as error:
            raise explain(start.spec, "shim", error.errno or 0) from None
        finally:
            os.close(start.report)
            start.report = -1
            if shim >= 0:
                await asyncio.shield(_end(shim, start.folder / "lock"))

    def _cgroups(self, folder: Path, run_id: str) -> list[Path]:
        """The control group that a run was in; its name holds the run's id, so it is nobody else's."""
        with contextlib.suppress(OSError, ValueError):
            path = Path((folder / "cgroup").read_text())
            if path.name == f"nexus-{run_id}.scope":
                return [path]
        return []


class _ScopeFailed(Exception):
    """The user manager gave no scope."""


def _write(fd: int, data: bytes) -> None:
    while data:
        data = data[os.write(fd, data) :]


async def _line(fd: int) -> list[str]:
    """The words of the one line that comes from a pipe; none when it ends without."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    os.set_blocking(fd, False)
    loop.add_reader(fd, readable.set)
    try:
        await readable.wait()
        return os.read(fd, 256).decode("ascii", "replace").split()
    finally:
        loop.remove_reader(fd)


async def _end(pidfd: int, lock: Path) -> None:
    """Kill a shim of ours that is of no use, and reap it.

    What it had forked and was not yet the program dies with it, a moment later, and has the lock until then.
    """
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    loop.add_reader(pidfd, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(pidfd)
        reap(pidfd)
        os.close(pidfd)
    for _ in range(_LOOKS):
        if not is_locked(lock):
            return
        await asyncio.sleep(_LOOK_AGAIN_S)
