"""A real ``systemd --user`` for tests: in namespaces and a cgroup of its own, whatever runs as PID 1 outside.

Everything that it mounts and starts is inside, and goes with it. It needs systemd and unshare, and either root or
user namespaces with a cgroup that may be divided.
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

# PID 1 of the namespace. /run is empty but for what sd_booted(3) and the manager look for; /sys/fs/cgroup shows the
# part of the tree that the manager may divide. The shell waits, so it also reaps whatever is orphaned.
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
    """Where a cgroup may be made: the top of the unified tree, else below our own."""
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
            # A process of ours must be allowed to move there, too.
            if os.access(cgroup / "cgroup.procs", os.W_OK) and os.access(parent / "cgroup.procs", os.W_OK):
                return cgroup
            cgroup.rmdir()
    return None


def _remove_cgroup(cgroup: Path) -> None:
    """Remove the cgroup with everything below it; its processes have been killed."""
    wait_until(lambda: "populated 0" in (cgroup / "cgroup.events").read_text(), "the cgroup is empty")
    for directory, _names, _files in os.walk(cgroup, topdown=False):
        Path(directory).rmdir()


def _namespaces(cgroup: Path) -> list[str]:
    """The command prefix that enters the cgroup and makes the namespaces."""
    identity = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    enter = 'echo 0 > "$0" && exec "$@"'
    unshare = ["unshare", *identity, "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--cgroup"]
    return ["/bin/sh", "-c", enter, str(cgroup / "cgroup.procs"), *unshare, "--propagation", "private"]


def missing_for_systemd() -> str | None:
    """Why a user manager cannot be had here; None if it can."""
    if _manager_program() is None:
        return "systemd is not installed"
    for program in ("unshare", "nsenter", "systemctl", "systemd-analyze"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    cgroup = _make_cgroup()
    if cgroup is None:
        return "no cgroup can be made: it takes root, or a cgroup of the unified tree that is delegated to this user"
    try:
        script = "mount -t tmpfs none /run && mount -t cgroup2 none /sys/fs/cgroup"
        tried = subprocess.run([*_namespaces(cgroup), "/bin/sh", "-ec", script], capture_output=True, check=False)
        return f"no namespaces: {tried.stderr.decode().strip()}" if tried.returncode else None
    finally:
        _remove_cgroup(cgroup)


class UserManager:
    """A running user manager. Its home is ``root / "home"``; its runtime directory exists inside only."""

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
            wait_until(self._answers, "the user manager answers")
        except BaseException:
            self.close()
            raise

    def _answers(self) -> bool:
        assert self._process.poll() is None, self.log()
        if not (self._inside() and Path(f"/proc/{self._inside()}/root{_RUNTIME}/systemd/private").exists()):
            return False
        return self.run("systemctl", "--user", "is-system-running", "--wait", check=False).stdout.strip() == "running"

    def _inside(self) -> int | None:
        """The pid, as seen from here, of the namespace's first process."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return int(children[0]) if children else None

    @property
    def socket_path(self) -> Path:
        """The daemon's socket, by a way that leads there from outside."""
        return Path(f"/proc/{self._inside()}/root{_RUNTIME}/nexus/nexus.sock")

    def command(self, *words: str) -> list[str]:
        """The command line that runs ``words`` inside."""
        pid = str(self._inside())
        user = [] if os.geteuid() == 0 else ["--user", "--preserve-credentials"]
        return ["nsenter", "--target", pid, *user, "--mount", "--pid", "--cgroup", "--", *words]

    def run(
        self, *words: str, check: bool = True, input: str | None = None, timeout: float = 60.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command inside; with ``check`` it must succeed."""
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
        """``systemctl --user``; what it printed."""
        return self.run("systemctl", "--user", *words, check=check).stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """A property of a unit."""
        return self.systemctl("show", "--property", name, "--value", unit)

    def drop_in(self, unit: str, text: str) -> None:
        """Change a unit by a drop-in; it takes effect when the unit is next started."""
        directory = self.units / f"{unit}.d"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "test.conf").write_text(text)
        self.systemctl("daemon-reload")

    def log(self) -> str:
        """Everything that the manager and its services have printed."""
        return self._log.read_text(errors="replace")

    def close(self) -> None:
        """Kill everything inside; mounts go with it, and the cgroups are removed."""
        inside = self._inside() if self._process.poll() is None else None
        if inside is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(inside, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        _remove_cgroup(self.cgroup)


@contextlib.contextmanager
def user_manager() -> Iterator[UserManager]:
    """A running user manager with a folder of its own; where none can be had, the test is skipped and says why."""
    missing = missing_for_systemd()
    if missing is not None:
        pytest.skip(f"a systemd user manager cannot be had here: {missing}")
    root = short_directory()
    try:
        manager = UserManager(root)
        try:
            yield manager
        finally:
            manager.close()
    finally:
        shutil.rmtree(root)
