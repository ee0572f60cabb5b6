"""A real daemon process in a private folder. Tests start it, kill it and read its files."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from nexus.runtime import Process, Runtime

__all__ = ["DaemonProcess", "end_processes", "isolated_environment", "made_directories", "running", "short_directory"]

START_TIMEOUT_S = 60.0


made_directories: list[Path] = []
"""The folders that ``short_directory`` made in this process; its callers remove them."""


def short_directory() -> Path:
    """A new private folder with a path short enough for sockets below it."""
    made_directories.append(Path(tempfile.mkdtemp(prefix="nx-")))
    return made_directories[-1]


def isolated_environment(root: Path, **extra: str) -> dict[str, str]:
    """The environment of a user without any files of Nexus: fresh XDG folders under ``root``."""
    removed = (
        *("NEXUS_", "XDG_", "LISTEN_", "NOTIFY_", "WATCHDOG_", "DBUS_", "JOURNAL_"),
        *("COLUMNS", "LINES"),  # they would override the size of the tests' own terminals
        "PYTHONDONTWRITEBYTECODE",  # with it every process compiles the whole tree again
    )
    environment = {key: value for key, value in os.environ.items() if not key.startswith(removed)}
    for name in ("run", "state", "config", "data", "home"):
        (root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
    environment |= {
        "HOME": str(root / "home"),
        "XDG_RUNTIME_DIR": str(root / "run"),
        "XDG_STATE_HOME": str(root / "state"),
        "XDG_CONFIG_HOME": str(root / "config"),
        "XDG_DATA_HOME": str(root / "data"),
        "PYTHONWARNINGS": "error",
    }
    return environment | extra


async def end_processes(directory: Path) -> None:
    """Stop every process that the process runtime left under a directory: children outlive their daemon by design."""
    runtime = Runtime(directory)
    for folder in await asyncio.to_thread(lambda: list(directory.glob("*/*/"))):
        if folder.name != "log":
            found = await runtime.adopt(folder.parent.name, folder.name)
            if isinstance(found, Process):
                await found.stop(grace_ms=0)
                found.close()


class DaemonProcess:
    """``nexusd`` as a process. ``start`` returns when the daemon has notified READY=1, never after a fixed time."""

    def __init__(self, root: Path, *arguments: str, config: str = "", environment: Mapping[str, str] | None = None):
        self.root = root
        self.arguments = list(arguments)
        self.environment = isolated_environment(root, **dict(environment or {}))
        self.socket_path = root / "run" / "nexus" / "nexus.sock"
        self.state = root / "state" / "nexus"
        self.database = self.state / "nexus.db"
        self.log_path = root / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None
        self.descriptors: int | None = None
        """The limit of open files, soft and hard, that the next start gets; None is that of the tests."""
        if config:
            self.write_config(config)

    @property
    def pid(self) -> int:
        """The process id of the running daemon."""
        assert self.process is not None, "the daemon was not started"
        return self.process.pid

    def write_config(self, text: str) -> None:
        """Write ``text`` to config.toml."""
        directory = self.root / "config" / "nexus"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.toml").write_text(text)

    def command(self) -> list[str]:
        """The command line of the daemon."""
        return [sys.executable, "-m", "nexus.daemon.main", *self.arguments]

    def _limited(self) -> list[str]:
        """The beginning of a command line that sets the limit of open files."""
        return [] if self.descriptors is None else ["/bin/sh", "-c", f'ulimit -n {self.descriptors}; exec "$@"', "sh"]

    def start(self) -> DaemonProcess:
        """Start the daemon and wait until it is ready. If it ends instead, fail with its log."""
        notify = self.root / "notify.sock"
        notify.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ready:
            ready.bind(str(notify))
            ready.settimeout(START_TIMEOUT_S)
            with self.log_path.open("ab") as log:
                self.process = subprocess.Popen(
                    [*self._limited(), *self.command()],
                    env=self.environment | {"NOTIFY_SOCKET": str(notify)},
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            while True:
                message = ready.recv(4096).decode()
                if "READY=1" in message:
                    return self
                if "ERRNO=" in message:
                    code = self.process.wait(START_TIMEOUT_S)
                    raise AssertionError(f"nexusd ended with {code}:\n{self.log()}")

    def run_to_failure(self) -> tuple[int, str]:
        """Run a daemon that is expected to fail at its start; return its exit code and its output."""
        result = subprocess.run(
            self.command(),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=START_TIMEOUT_S,
            check=False,
        )
        return result.returncode, result.stdout.decode()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> int:
        """Send SIGTERM and wait; return the exit code."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(START_TIMEOUT_S)

    def kill(self) -> None:
        """Send SIGKILL and wait."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(START_TIMEOUT_S)

    def close(self) -> None:
        """Kill the daemon if it runs, and stop every process that it started."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait(START_TIMEOUT_S)
        for folder in (self.state / "processes", *self.root.glob("**/*.db.d/processes")):
            asyncio.run(end_processes(folder))

    def log(self) -> str:
        """The log of all starts so far."""
        return self.log_path.read_text() if self.log_path.exists() else ""

    def rss_bytes(self) -> int:
        """Current resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def connect(self, timeout: float = START_TIMEOUT_S) -> socket.socket:
        """A connected socket."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.connect(str(self.socket_path))  # without a timeout: with one, a full accept queue is EAGAIN at once
        sock.settimeout(timeout)
        return sock


def running(daemon: DaemonProcess, use: Callable[[Path], None]) -> Callable[[Path], None]:
    """A scenario for ``on_small_disk``: start the daemon there, run ``use`` with the disk, and close the daemon."""

    def scenario(disk: Path) -> None:
        try:
            daemon.start()
            use(disk)
        finally:
            daemon.close()

    return scenario
