"""A real ``systemd --user`` for tests, in its own namespaces and cgroup, independent of PID 1 of the machine.

Its mounts and processes end with it. It needs systemd and unshare, and either root or user namespaces with a delegated
cgroup.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.daemon import isolated_environment, short_directory
from support.raw import wait_until

__all__ = ["UserManager", "missing_for_systemd", "user_manager"]

_RUNTIME = "/run/user/0"
_MANAGERS = ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")

# PID 1 of the namespace. /run has only the directories that sd_booted(3) and the manager need; /sys/fs/cgroup shows the
# delegated part of the tree. The shell waits, so it also reaps orphaned processes.
_INIT = f"""
set -e
mount -t tmpfs -o mode=755 none /run
mkdir -p /run/systemd/system {_RUNTIME}
chmod 700 {_RUNTIME}
mount -t tmpfs none /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
"$0" --user --log-target=console --log-level=info &
wait
"""


def _manager_program() -> str | None:
    return next((path for path in _MANAGERS if os.access(path, os.X_OK)), None)


def _cgroup_parents() -> list[Path]:
    """Candidate parents for a new cgroup: the root of the unified tree, then the cgroup of this process."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    top = next((Path(fields[1]) for fields in mounts if fields[2] == "cgroup2"), None)
    if top is None:
        return []
    own = [line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::")]
    return [top, *(top / path.lstrip("/") for path in own)]


def _make_cgroup() -> Path | None:
    for parent in _cgroup_parents():
        cgroup = parent / f"nexus-tests-{uuid.uuid4().hex[:8]}"
        with contextlib.suppress(OSError):
            cgroup.mkdir()
            # Moving a process there needs write access to both files.
            if os.access(cgroup / "cgroup.procs", os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK):
                return cgroup
            cgroup.rmdir()
    return None


def _remove_cgroup(cgroup: Path) -> None:
    """Remove the cgroup and all cgroups below it. Its processes have to be killed before."""
    wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), "the cgroup to be empty")
    for directory, _names, _files in os.walk(cgroup, topdown=False):
        Path(directory).rmdir()


def _namespaces(cgroup: Path) -> list[str]:
    """The command prefix that enters the cgroup and creates the namespaces."""
    identity = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    enter = 'echo 0 > "$0" && exec "$@"'
    unshare = ["unshare", *identity, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup"]
    return ["/bin/sh", "-c", enter, str(cgroup / "cgroup.procs"), *unshare, "--propagation", "private"]


def missing_for_systemd() -> str | None:
    """Why a user manager cannot run here; None if it can."""
    if _manager_program() is None:
        return "systemd is not installed"
    for program in ("unshare", "nsenter", "systemctl", "systemd-analyze"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    cgroup = _make_cgroup()
    if cgroup is None:
        return "cannot create a cgroup: this needs root, or a cgroup of the unified tree that is delegated to this user"
    try:
        script = "mount -t tmpfs none /run && mount -t cgroup2 none /sys/fs/cgroup"
        tried = subprocess.run([*_namespaces(cgroup), "/bin/sh", "-ec", script], capture_output=True, check=False)
        return f"cannot create namespaces: {tried.stderr.decode().strip()}" if tried.returncode else None
    finally:
        _remove_cgroup(cgroup)


class UserManager:
    """A running user manager. Its home is ``root / "home"``; its runtime directory exists only in its namespace."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **{k: v for k, v in isolated_environment(root).items() if k != "XDG_CONFIG_HOME"},
            "XDG_RUNTIME_DIR": _RUNTIME,
            "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '/usr/bin:/bin')}",
            "LC_ALL": "C.UTF-8",
            "SYSTEMD_COLORS": "0",
        }
        self.units = root / "home" / ".config" / "systemd" / "user"
        self._log = root / "manager.log"
        cgroup = _make_cgroup()
        assert cgroup is not None
        self.cgroup = cgroup
        program = _manager_program()
        assert program is not None
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*_namespaces(self.cgroup), "/bin/sh", "-c", _INIT, program],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            wait_until(self._answers, "the user manager to be running")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        if not (self._inside() and Path(f"/proc/{self._inside()}/root{_RUNTIME}/systemd/private").exists()):
            return False
        return self.run("systemctl", "--user", "is-system-running", "--wait", check=False).stdout.strip() == "running"

    def _inside(self) -> int | None:
        """The pid of the namespace's first process, in the pid namespace of the test."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    @property
    def socket_path(self) -> Path:
        """A path of the daemon's socket that is valid outside the namespace."""
        return Path(f"/proc/{self._inside()}/root{_RUNTIME}/nexus/nexus.sock")

    def command(self, *words: str) -> list[str]:
        """The command line that runs a command inside the namespaces."""
        pid = str(self._inside())
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", pid, *user, "--mount", "--pid", "--cgroup", "--", *words]

    def run(
        self, *words: str, check: bool = True, input: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside the namespaces; with ``check`` it must succeed."""
        done = subprocess.run(
            self.command(*words),
            env=self.environment,
            cwd=self.root,
            input=input if input is not None else "",
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert not check or done.returncode == 0, (words, done.stdout, done.stderr, self.log())
        return done

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run ``systemctl --user``; return its output."""
        return self.run("systemctl", "--user", *words, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """The value of a unit's property."""
        return self.systemctl("show", "--property", name, "--value", unit)

    def drop_in(self, unit: str, text: str) -> None:
        """Add a drop-in to a unit; it takes effect at the next start of the unit."""
        directory = self.units / f"{unit}.d"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def log(self) -> str:
        """The output of the manager and its services."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """Kill all processes of the namespaces, which ends the mounts, and remove the cgroups."""
        inside = self._inside() if self._process.poll() is None else None
        if inside is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inside, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        _remove_cgroup(self.cgroup)


@contextlib.contextmanager
def user_manager() -> Iterator[UserManager]:
    """A running user manager with a private folder. Where none can run, the test is skipped with the reason."""
    missing = missing_for_systemd()
    if missing is not None:
        pytest.skip(f"cannot run a systemd user manager: {missing}")
    root = short_directory()
    try:
        manager = UserManager(root)
        try:
            yield manager
        finally:
            manager.close()
    finally:
        shutil.rmtree(root)
