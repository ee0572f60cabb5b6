"""One run of the git program: its environment, its output and progress, and its end, also when it is cancelled.

It knows neither repositories nor credentials: ``repository`` and ``operation`` decide what is run, ``remote`` what it
may reach.
"""

from __future__ import annotations

import asyncio
import functools
import os
import re
import signal
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from nexus.git.errors import GitMissing
from nexus.runtime.command import ChildProcess, OutputPipe
from nexus.runtime.inheritance import inherited_environment

__all__ = [
    "Fields",
    "Progress",
    "Result",
    "base_environment",
    "check_version",
    "run_git",
    "finish_despite_cancel",
    "with_config",
]

T = TypeVar("T")

TERM_S = 3.0
"""From SIGTERM to SIGKILL. Git removes its locks and temporary files at SIGTERM."""

FINISH_S = 5.0
"""How long a cancelled change of the work tree may continue: a half-made change is worse than a late cancel."""

OUTPUT_BYTES = 1024 * 1024
"""How much of standard output is kept where no receiver takes it in pieces."""

FIELD_BYTES = 64 * 1024
"""How much of one field is kept."""

_DRAIN_READS = 32
"""Reads of 64 KiB that are more than a pipe can hold (1 MiB at most for an ordinary user)."""

_LINE_BYTES = 1024
_HEAD_LINES = _TAIL_LINES = 24

# One line of at most 1 KiB, from its beginning: each part can end in one place only.
_PROGRESS = re.compile(
    r"(?:remote: )?(?P<phase>[A-Z][A-Za-z ]{2,60}):[ \t]{1,8}"
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
"""The GIT_ variables that git keeps: they say how to reach a remote or who commits. The others would point git to
another repository (such as GIT_DIR), or have it write secrets into the pipes (such as GIT_TRACE)."""

_DROPPED = ("LANGUAGE", "SSH_ASKPASS")


class Progress(NamedTuple):
    """One step of git's progress, in its own counts."""

    phase: str
    """In lower case, such as ``receiving objects``."""
    percent: int | None
    done: int | None
    total: int | None
    text: str
    """The line as git wrote it."""


class Result(NamedTuple):
    """The exit code of git, and its output."""

    code: int
    """The exit code; negative for a signal."""
    output: bytes
    """Standard output, cut at 1 MiB; empty where a receiver took it in pieces."""
    lines: list[str]
    """The first and last lines of standard error, without progress."""


def base_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment of every git: without variables that point to other repositories, and without ways to prompt."""
    kept = {
        name: value
        for name, value in inherited_environment(environment).items()
        if name not in _DROPPED and (name in _KEPT or not name.startswith("GIT_"))
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
    """The environment with git settings added, which override every configuration file and are on no command line."""
    count = int(environment.get("GIT_CONFIG_COUNT", "0"))
    added = {"GIT_CONFIG_COUNT": str(count + len(settings))}
    for number, (key, value) in enumerate(settings, start=count):
        added |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return {**environment, **added}


class Fields:
    """Splits a stream of bytes at its NULs, and passes records of ``size`` fields to ``receive``.

    Each field is cut at 64 KiB.
    """

    def __init__(self, size: int, receive: Callable[[list[str]], None]) -> None:
        self._size = size
        self._receive = receive
        self._part = bytearray()
        self._record: list[str] = []

    def feed(self, data: bytes) -> None:
        """Process the next piece of the stream."""
        *ended, rest = data.split(b"\0")
        for piece in ended:
            self._add(piece)
            self._record.append(self._part.decode("utf-8", "replace"))
            self._part.clear()
            if len(self._record) == self._size:
                self._receive(self._record)
                self._record = []
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        self._part += piece[: max(0, FIELD_BYTES - len(self._part))]


class _Messages:
    """Standard error by lines: progress is passed on, and the first and last 24 of the other lines are kept."""

    def __init__(self, progress: Callable[[Progress], object] | None) -> None:
        self._progress = progress
        self._part = bytearray()
        self._head: list[str] = []
        self._tail: list[str] = []

    def feed(self, data: bytes) -> None:
        *ended, rest = data.replace(b"\r", b"\n").split(b"\n")
        for piece in ended:
            if piece or self._part:
                self._add(piece)
                self._line(_visible(self._part.decode("utf-8", "replace")).rstrip())
                self._part.clear()
        self._add(rest)

    def _add(self, piece: bytes) -> None:
        self._part += piece[: max(0, _LINE_BYTES - len(self._part))]

    def _line(self, line: str) -> None:
        match = _PROGRESS.match(line) if ":" in line else None
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
    """The line without control characters: the remote wrote parts of it, and a terminal may show it."""
    return text if text.isprintable() else "".join(c if c.isprintable() or c == "\t" else "?" for c in text)


async def finish_despite_cancel(coroutine: Coroutine[Any, Any, T]) -> T:
    """Wait for a coroutine that a cancel must not interrupt; a cancel in the meantime is raised afterwards."""
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
    umask: int | None = None,
    progress: Callable[[Progress], object] | None = None,
    receive: Callable[[bytes], None] | None = None,
    may_finish: bool = False,
) -> Result:
    """Run git in ``directory``, and wait for its end. Standard input is /dev/null; ``descriptors`` are inherited.

    ``umask`` None is that of the session which started the daemon.
    ``progress`` is called with each step that git reports, and ``receive`` with pieces of the standard output. A cancel
    ends git and all of its children: SIGTERM, 3 s later SIGKILL. With ``may_finish``, which is for changes of a work
    tree, a cancelled git first has 5 s to end by itself. What git or a hook leaves running is killed.

    Raises:
        GitMissing: there is no git on the environment's PATH.
        OSError: the directory is not there, or the system has no resources for a process.
    """
    program = _program(environment)
    if program is None:
        raise GitMissing(
            "cannot run git: the program is not on the daemon's PATH",
            hint="Install git, and restart the daemon if its PATH has changed.\nOn Debian: apt install git",
        )
    messages = _Messages(progress)
    process = _GitProcess([program, *arguments], directory, environment, descriptors, umask, receive, messages)
    try:
        code = await process.wait()
    except asyncio.CancelledError:
        await finish_despite_cancel(process.end(FINISH_S if may_finish else 0))
        raise
    except BaseException:
        # A receiver of output or progress raised.
        await finish_despite_cancel(process.end(0))
        raise
    finally:
        process.close()
    return Result(code, bytes(process.output), process.messages.lines())


def _program(environment: Mapping[str, str]) -> str | None:
    """The path of git, from the environment's PATH. (Importing ``shutil`` would cost the daemon 2 MiB.)"""
    for folder in environment.get("PATH", os.defpath).split(os.pathsep):
        candidate = Path(folder, "git")
        if folder.startswith("/") and candidate.is_file() and os.access(candidate, os.X_OK):
            return str(candidate)
    return None


async def check_version(directory: Path, environment: Mapping[str, str]) -> None:
    """Refuse a git that ignores settings in the environment: it would use and store other credentials.

    Raises:
        GitMissing: git is older than 2.31, or not there.
    """
    shown = (await run_git(["version"], directory=directory, environment=environment)).output.decode("ascii", "replace")
    match = re.search(r"(\d{1,9})\.(\d{1,9})", shown[:200])
    if match is not None and (int(match[1]), int(match[2])) < (2, 31):
        raise GitMissing(
            f"cannot reach a remote with git {match[0]}: 2.31 or newer is needed", hint="Install a newer git."
        )


class _GitProcess:
    """A running git: its output and its end."""

    def __init__(
        self,
        command: list[str],
        directory: Path,
        environment: Mapping[str, str],
        descriptors: Collection[int],
        umask: int | None,
        receive: Callable[[bytes], None] | None,
        messages: _Messages,
    ) -> None:
        self.output = bytearray()
        self.messages = messages
        self._receive = receive
        self._failure: BaseException | None = None
        self._stdout = OutputPipe(functools.partial(self._pass_on, self._add_output))
        self._stderr = OutputPipe(functools.partial(self._pass_on, messages.feed))
        self._child = ChildProcess(
            command,
            directory=directory,
            environment=environment,
            stdout=self._stdout,
            stderr=self._stderr,
            descriptors=descriptors,
            umask=umask,
        )

    async def wait(self) -> int:
        """Wait for the end of git; gives its exit code, negative for a signal.

        Raises:
            Exception: what a receiver raised.
        """
        await self._child.started()
        await self._child.wait()
        # What git left behind is killed by now, so that the pipes have all that was written.
        await self._child.wait_gone(TERM_S)
        self._stdout.drain()
        self._stderr.drain()
        if self._failure is not None:
            raise self._failure
        assert self._child.returncode is not None
        return self._child.returncode

    async def end(self, finish_s: float) -> None:
        """Wait ``finish_s`` for the end of git, then send SIGTERM, then SIGKILL, until nothing of it is left."""
        if not await self._child.wait(finish_s):
            self._child.signal_group(signal.SIGTERM)
        if not await self._child.wait(TERM_S):
            self._child.kill()
        await self._child.wait()
        await self._child.wait_gone(TERM_S)

    def close(self) -> None:
        """Close the pipes, and end what may be left."""
        self._stdout.close()
        self._stderr.close()
        self._child.close()

    def _add_output(self, data: bytes) -> None:
        if self._receive is not None:
            self._receive(data)
        else:
            self.output += data[: max(0, OUTPUT_BYTES - len(self.output))]

    def _pass_on(self, receiver: Callable[[bytes], None], data: bytes) -> None:
        if self._failure is None:
            try:
                receiver(data)
            except Exception as error:
                # An exception in a callback of the loop reaches no caller: git is ended, and ``wait`` raises it.
                self._failure = error
                self._child.signal_group(signal.SIGTERM)
