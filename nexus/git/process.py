"""One run of the git program: its session, its pipes, its progress, and its end, also when it is cancelled.

It knows neither repositories nor credentials; ``repository`` says what is run, ``remote`` what it may reach.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nexus.git.errors import GitMissing

__all__ = ["Fields", "Progress", "Result", "base_environment", "check_version", "run_git", "to_its_end", "with_config"]

T = TypeVar("T")

TERM_S = 3.0
"""From SIGTERM to SIGKILL. Git removes its locks and temporary files at SIGTERM."""

FINISH_S = 5.0
"""How long a cancelled change of the work tree may go on: half of it would be worse than a late cancel."""

OUTPUT_BYTES = 1024 * 1024
"""What is kept of the standard output where nobody takes it in pieces."""

FIELD_BYTES = 64 * 1024
"""What is kept of one field of a list."""

_DRAIN_READS = 32
"""Reads of 64 KiB that are more than a pipe can hold (1 MiB at most for an ordinary user)."""

_LINE_BYTES = 1024
_HEAD_LINES = _TAIL_LINES = 24

_PROGRESS = re.compile(
    r"(?:remote: )?(?P<phase>[A-Z][A-Za-z ]{2,60}):\s+"
    r"(?:(?P<percent>\d{1,3})% \((?P<done>\d{1,18})/(?P<total>\d{1,18})\)|(?P<count>\d{1,18}))(?:[,. ].*)?$"
)

_KEPT = frozenset(
    {
        "GIT_AUTHOR_EMAIL",
        "GIT_AUTHOR_NAME",
        "GIT_COMMITTER_EMAIL",
        "GIT_COMMITTER_NAME",
        "GIT_CONFIG_GLOBAL",
        "GIT_CONFIG_NOSYSTEM",
        "GIT_CONFIG_SYSTEM",
        "GIT_EXEC_PATH",
        "GIT_PROXY_COMMAND",
        "GIT_SSH",
        "GIT_SSH_COMMAND",
        "GIT_SSH_VARIANT",
        "GIT_SSL_CAINFO",
        "GIT_SSL_CAPATH",
        "GIT_TEMPLATE_DIR",
    }
)
"""Of the variables that begin with GIT_, those that say how to reach a remote or who commits. The others point to a
repository (GIT_DIR and its kin), or would write into our pipes what is to stay secret (GIT_TRACE and its kin)."""

_DROPPED = ("LANGUAGE", "SSH_ASKPASS", "NOTIFY_SOCKET", "INVOCATION_ID", "JOURNAL_STREAM")
_DROPPED_PREFIXES = ("LISTEN_", "WATCHDOG_")


class Progress(NamedTuple):
    """How far git is, in its own counts."""

    phase: str
    """In lower case, such as ``receiving objects``."""
    percent: int | None
    done: int | None
    total: int | None
    text: str
    """The line as git wrote it."""


class Result(NamedTuple):
    """How git ended, and what it wrote."""

    code: int
    """The exit code; negative for a signal."""
    output: bytes
    """Standard output, cut at 1 MiB; empty where it was taken in pieces."""
    lines: list[str]
    """The first and last lines of standard error, without progress."""


def base_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """What every git gets: the daemon's environment without what points elsewhere, and never anything to ask with."""
    kept = {
        name: value
        for name, value in environment.items()
        if name not in _DROPPED
        and not name.startswith(_DROPPED_PREFIXES)
        and (name in _KEPT or not name.startswith("GIT_"))
    }
    return kept | {
        "LC_ALL": "C",
        "GIT_ASKPASS": "",
        "GIT_EDITOR": ":",
        "GIT_MERGE_AUTOEDIT": "no",
        "GIT_PAGER": "cat",
        "GIT_PROGRESS_DELAY": "0",
        "GIT_SEQUENCE_EDITOR": ":",
        "GIT_TERMINAL_PROMPT": "0",
        "SSH_ASKPASS_REQUIRE": "never",
    }


def with_config(environment: Mapping[str, str], settings: Sequence[tuple[str, str]]) -> dict[str, str]:
    """The environment with git settings that win over every file, and that no command line shows."""
    count = int(environment.get("GIT_CONFIG_COUNT", "0"))
    added = {"GIT_CONFIG_COUNT": str(count + len(settings))}
    for number, (key, value) in enumerate(settings, start=count):
        added |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return {**environment, **added}


class Fields:
    """Cuts a stream of bytes into the fields between its NULs, and gives them on in records of ``size`` fields.

    What goes beyond 64 KiB in one field is left out.
    """

    def __init__(self, size: int, take: Callable[[list[str]], None]) -> None:
        self._size = size
        self._take = take
        self._part = bytearray()
        self._record: list[str] = []

    def feed(self, data: bytes) -> None:
        """Take the next piece of the stream."""
        *ended, rest = data.split(b"\0")
        for piece in ended:
            self._add(piece)
            self._record.append(self._part.decode("utf-8", "replace"))
            self._part.clear()
            if len(self._record) == self._size:
                self._take(self._record)
                self._record = []
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        self._part += piece[: max(0, FIELD_BYTES - len(self._part))]


class _Messages:
    """Standard error, line by line: progress goes to whom it concerns, the first and last other lines are kept."""

    def __init__(self, progress: Callable[[Progress], object] | None) -> None:
        self._progress = progress
        self._part = bytearray()
        self._head: list[str] = []
        self._tail: list[str] = []

    def feed(self, data: bytes) -> None:
        *ended, rest = data.replace(b"\r", b"\n").split(b"\n")
        for piece in ended:
            self._add(piece)
            self._line(_visible(self._part.decode("utf-8", "replace")).rstrip())
            self._part.clear()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        self._part += piece[: max(0, _LINE_BYTES - len(self._part))]

    def _line(self, line: str) -> None:
        match = _PROGRESS.match(line)
        if match is None:
            if line and len(self._head) < _HEAD_LINES:
                self._head.append(line)
            elif line:
                self._tail = [*self._tail[-_TAIL_LINES + 1 :], line]
        elif self._progress is not None:
            percent, total = match["percent"], match["total"]
            self._progress(
                Progress(
                    match["phase"].lower(),
                    min(int(percent), 100) if percent else None,
                    int(match["done"] or match["count"]),
                    int(total) if total else None,
                    line,
                )
            )

    def lines(self) -> list[str]:
        if self._part:
            self.feed(b"\n")
        return self._head + self._tail


def _visible(text: str) -> str:
    """A line without what would move a terminal's cursor; the other end wrote some of it."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


async def to_its_end(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait for something that a cancel must not break off; a cancel that came meanwhile is raised afterwards."""
    task = asyncio.ensure_future(coroutine)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        task.exception()
        raise cancelled
    return task.result()


async def run_git(
    arguments: Sequence[str],
    *,
    directory: Path,
    environment: Mapping[str, str],
    descriptors: Collection[int] = (),
    progress: Callable[[Progress], object] | None = None,
    take: Callable[[bytes], None] | None = None,
    finishes: bool = False,
) -> Result:
    """Run git in ``directory`` to its end, in a session of its own and with nothing to read.

    Gives ``progress`` each step that git tells, and ``take`` the standard output in pieces. A cancel ends git and all
    of its children: SIGTERM, 3 s later SIGKILL. With ``finishes``, which is for changes of a work tree, git first has
    5 s to come to its own end. ``descriptors`` are inherited.

    Raises:
        GitMissing: there is no git on the environment's PATH.
        OSError: the directory is not there, or the machine has no room for a process.
    """
    program = _program(environment)
    if program is None:
        raise GitMissing(
            "cannot run git: the program is not on the daemon's PATH",
            hint="Install git (Debian: apt install git), and restart the daemon if its PATH has changed.",
        )
    process = _Process([program, *arguments], directory, environment, descriptors, take, _Messages(progress))
    try:
        await process.ended.wait()
        process.drain()
    except asyncio.CancelledError:
        await to_its_end(process.end(FINISH_S if finishes else 0))
        raise
    except BaseException:
        # A broken receiver of output or progress.
        await to_its_end(process.end(0))
        raise
    finally:
        process.close()
    return Result(process.returncode, bytes(process.output), process.messages.lines())


def _program(environment: Mapping[str, str]) -> str | None:
    """Where git is. (``shutil`` would bring 2 MiB of compressors into the daemon.)"""
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        candidate = Path(folder, "git")
        if folder.startswith("/") and candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    return None


async def check_version(directory: Path, environment: Mapping[str, str]) -> None:
    """Refuse a git that would not see its settings in the environment, and so would use and keep other credentials.

    Raises:
        GitMissing: git is older than 2.31, or not there.
    """
    shown = (await run_git(["version"], directory=directory, environment=environment)).output.decode("ascii", "replace")
    match = re.search(r"(\d+)\.(\d+)", shown)
    if match is not None and (int(match[1]), int(match[2])) < (2, 31):
        raise GitMissing(
            f"cannot reach a remote with git {match[0]}: 2.31 or newer is needed", hint="Install a newer git."
        )


class _Process:
    """A git process, the leader of its group, which is reaped only after the group was dealt with."""

    def __init__(
        self,
        command: list[str],
        directory: Path,
        environment: Mapping[str, str],
        descriptors: Collection[int],
        take: Callable[[bytes], None] | None,
        messages: _Messages,
    ) -> None:
        self.output = bytearray()
        self.messages = messages
        self.ended = asyncio.Event()
        self.silent = asyncio.Event()
        """Set when nobody has the pipes open any more."""
        self._take = take
        self._failure: BaseException | None = None
        self._loop = asyncio.get_running_loop()
        self._popen = subprocess.Popen(
            command,
            cwd=directory,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=tuple(descriptors),
        )
        self._pidfd = -1
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._open: dict[int, Callable[[bytes], None]] = {
            self._popen.stdout.fileno(): self._take_output,
            self._popen.stderr.fileno(): self.messages.feed,
        }
        try:
            self._pidfd = os.pidfd_open(self._popen.pid)
            self._loop.add_reader(self._pidfd, self._exited)
            for fd in self._open:
                os.set_blocking(fd, False)
                self._loop.add_reader(fd, self._read, fd)
        except BaseException:
            self._signal(signal.SIGKILL)
            self.close()
            raise

    @property
    def returncode(self) -> int:
        return self._popen.returncode

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        self.ended.set()

    def _take_output(self, data: bytes) -> None:
        if self._take is not None:
            self._take(data)
        else:
            self.output += data[: max(0, OUTPUT_BYTES - len(self.output))]

    def _read(self, fd: int) -> bool:
        """Read once; False when there is nothing to read now or ever."""
        try:
            data = os.read(fd, 64 * 1024)
        except BlockingIOError:
            return False
        if not data:
            self._loop.remove_reader(fd)
            del self._open[fd]
            if not self._open:
                self.silent.set()
            return False
        if self._failure is None:
            try:
                self._open[fd](data)
            except Exception as error:
                # In a callback of the loop nobody would hear of it: git ends, and the caller raises it.
                self._failure = error
                self._signal(signal.SIGTERM)
        return True

    def drain(self) -> None:
        """Take what git left in its pipes. Somebody whom it started may hold them open for ever, so no end is awaited.

        Raises:
            Exception: what a receiver raised.
        """
        for fd in list(self._open):
            for _ in range(_DRAIN_READS):
                if fd not in self._open or not self._read(fd):
                    break
        if self._failure is not None:
            raise self._failure

    async def end(self, finish_s: float) -> None:
        """Have nothing of git left: wait ``finish_s``, then SIGTERM, then SIGKILL."""
        for wait_s, signal_number in ((finish_s, signal.SIGTERM), (TERM_S, signal.SIGKILL)):
            if not await self._within(self.ended, wait_s):
                self._signal(signal_number)
        await self.ended.wait()
        if not finish_s or self.ended_badly():
            self._signal(signal.SIGKILL)
            await self._within(self.silent, TERM_S)

    def ended_badly(self) -> bool:
        """Whether git, which has ended and is not reaped, was ended by a signal or failed."""
        status = os.waitid(os.P_PID, self._popen.pid, os.WEXITED | os.WNOWAIT)
        return status is None or status.si_status != 0

    @staticmethod
    async def _within(event: asyncio.Event, wait_s: float) -> bool:
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(event.wait(), wait_s)
        return event.is_set()

    def _signal(self, number: int) -> None:
        # The leader is not reaped yet, so that the number is still the group's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, number)

    def close(self) -> None:
        """Let go of the pipes, and reap git, which has ended or was killed."""
        for fd in self._open:
            self._loop.remove_reader(fd)
        self._open.clear()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
        assert self._popen.stdout is not None
        assert self._popen.stderr is not None
        self._popen.stdout.close()
        self._popen.stderr.close()
        self._popen.wait()
