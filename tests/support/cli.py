"""Runs ``nexusctl`` as a process, on pipes or on a real terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

__all__ = ["Cli", "Result", "Terminal"]

TIMEOUT_S = 60.0
_MODULE = [sys.executable, "-m", "nexus.cli.main"]


class Result(NamedTuple):
    """The exit code and the output of a run."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one JSON document."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """The lines of standard output."""
        return self.out.splitlines()


class Cli:
    """Runs ``nexusctl`` with its own environment variables, in ``folder`` (default: that of the tests)."""

    def __init__(self, environment: Mapping[str, str], folder: Path | None = None) -> None:
        self.folder = folder
        programs = f"{Path(sys.executable).parent}:{environment.get('PATH', '/usr/bin:/bin')}"
        self.environment = {**environment, "PATH": programs, "LC_ALL": "C.UTF-8"}
        # With this variable Python ignores partial writes to standard output.
        self.environment.pop("PYTHONUNBUFFERED", None)

    def __call__(self, *arguments: str, input: str = "", **environment: str) -> Result:
        """Run it on pipes until it ends."""
        done = subprocess.run(
            [*_MODULE, *arguments],
            cwd=self.folder,
            env=self.environment | environment,
            input=input.encode(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def ok(self, *arguments: str, **environment: str) -> Result:
        """Run it; fails the test unless it exits with 0."""
        result = self(*arguments, **environment)
        assert result.code == 0, (arguments, result)
        return result

    def shell(self, script: str, program: str = "/bin/bash") -> Result:
        """Run a shell script in which ``nexusctl`` is in the PATH."""
        done = subprocess.run(
            [program, "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start it on pipes, in its own session; the caller waits for it."""
        return subprocess.Popen(
            [*_MODULE, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )

    def terminal(self, *arguments: str, columns: int = 80, rows: int = 24, **environment: str) -> Terminal:
        """Start it on a terminal."""
        return Terminal([*_MODULE, *arguments], self.environment | environment, columns, self.folder, rows)


class Terminal:
    """A process with a pseudoterminal as its controlling terminal."""

    def __init__(
        self,
        command: list[str],
        environment: Mapping[str, str],
        columns: int,
        folder: Path | None = None,
        rows: int = 24,
    ) -> None:
        self._fd, inner = pty.openpty()
        self.resize(rows, columns)
        self._before = termios.tcgetattr(inner)
        self._seen = b""
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,
                env={**environment, "TERM": environment.get("TERM", "xterm")},
                stdin=inner,
                stdout=inner,
                stderr=inner,
                start_new_session=True,
                preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
            )
        finally:
            os.close(inner)

    @property
    def text(self) -> str:
        """Everything that the terminal has shown so far."""
        return self._seen.decode(errors="replace").replace("\r\n", "\n")

    @property
    def seen(self) -> bytes:
        """The bytes of it."""
        return self._seen

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def wait_for(self, text: str) -> None:
        """Read until ``text`` has been shown."""
        deadline = time.monotonic() + TIMEOUT_S
        while text not in self.text:
            assert self._read(deadline), f"ended without {text!r}: {self.text!r}"

    def forget(self) -> None:
        """Forget what was shown so far, so that it is waited for again."""
        self._seen = b""

    def type(self, text: str | bytes) -> None:
        """Send text to the process as if typed."""
        data = text.encode() if isinstance(text, str) else text
        while data:
            readable, writable, _ = select.select([self._fd], [self._fd], [], TIMEOUT_S)
            assert readable or writable, f"nothing more was taken in time: {self.text!r}"
            if readable:
                self._read(time.monotonic() + TIMEOUT_S)
            if writable:
                data = data[os.write(self._fd, data[:1024]) :]

    def resize(self, rows: int, columns: int) -> None:
        """Give the terminal another size; the process gets SIGWINCH."""
        fcntl.ioctl(self._fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def is_as_before(self) -> bool:
        """Whether the settings of the terminal are those that it had when the process was started."""
        return termios.tcgetattr(self._fd) == self._before

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self._process.send_signal(number)

    def interrupt(self) -> None:
        """Press Ctrl-C until the process exits.

        Python's ``input`` checks for signals before it reads: a signal that arrives between the check and the read is
        handled only with the next one, and a test is fast enough to hit that window.
        """
        for _ in range(8):
            self.type("\x03")
            try:
                self._process.wait(5)  # another Ctrl-C during the exit would interrupt it
                return
            except subprocess.TimeoutExpired:
                continue

    def finish(self) -> tuple[int, str]:
        """Read until the process exits; returns its exit code and everything that was shown."""
        deadline = time.monotonic() + TIMEOUT_S
        while self._read(deadline):
            pass
        return self._process.wait(TIMEOUT_S), self.text

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self._fd], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing more was shown in time: {self.text!r}"
        try:
            data = os.read(self._fd, 65536)
        except OSError:  # EIO: no process has the other side open any more
            return False
        self._seen += data
        return bool(data)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        os.close(self._fd)
