"""A host that jobs run on: an sshd of the tests' own on loopback with stock settings, and folders of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

from nexus.jobs.records import Job
from nexus.nodes.commands import AddNode, CheckNode, GetNode, Node, NodeChecked
from support.accounts import Account
from support.daemon import DaemonProcess
from support.git import SshServer
from support.jobs import Jobs
from support.raw import wait_until

__all__ = ["NodeHost", "Remote", "environment_with_ssh"]

NAME = "there"


class NodeHost:
    """The host: ``server`` is its sshd, ``state`` what is kept there."""

    def __init__(
        self, root: Path, account: Account | None, *, kernel: str | None = None, busybox: Path | None = None
    ) -> None:
        """``kernel`` is what ``uname -s`` says there, where it is not the truth.

        With ``busybox`` that is the only program there, under its many names.

        Jobs run there as ``account``, or as the user of this process.
        """
        self.root = root
        root.mkdir()
        self.home = root / "home"
        """A folder in which jobs may write."""
        self.home.mkdir()
        if account is not None:
            root.parent.chmod(0o711)
            os.chown(self.home, account.pw_uid, account.pw_gid)
        self.state = self.home / "there"
        self.boot = root / "boot_id"
        self.reboot(kill=False)
        programs = self.programs = root / "programs"
        """Programs that come before all others there."""
        programs.mkdir()
        self.path = f"{programs}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        if busybox is not None:
            self.path = str(programs)
            for name in subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split():
                (programs / name).symlink_to(busybox)
        if kernel is not None:
            uname = programs / "uname"
            uname.unlink(missing_ok=True)
            uname.write_text(f'#!/bin/sh\n[ "$1" = -s ] && echo {kernel} || exec /usr/bin/uname "$@"\n')
            uname.chmod(0o755)
        more = (
            "LogLevel VERBOSE\n"
            f'SetEnv "HOME={self.home}" "XDG_STATE_HOME={self.state}" "NEXUS_BOOT_ID_FILE={self.boot}" '
            f'"PATH={self.path}"\n'
        )
        self.server = SshServer(root, listens=True, more=more, user=None if account is None else account.pw_name)
        self.server.client(known=self.server.host_key.with_suffix(".pub"))
        self.settings = root / "ssh_config"
        self.use_key(self.server.user_key)
        self.ssh = root / "bin" / "ssh"
        self.ssh.parent.mkdir()
        self.ssh.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.settings} "$@"\n')
        self.ssh.chmod(0o755)

    def use_key(self, key: Path) -> None:
        """Have the client offer this key alone."""
        kept = [line for line in self.settings.read_text().splitlines() if "Identit" not in line]
        self.settings.write_text("\n".join([*kept, f"IdentityFile {key}", "IdentitiesOnly yes", ""]))

    def reboot(self, *, kill: bool = True) -> None:
        """Have another boot: all that runs there is killed, and the kernel has another id."""
        if kill:
            for pid in self.runners() + self.members():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.boot.write_text(os.urandom(16).hex() + "\n")

    def runs(self) -> list[str]:
        """The runs that have a folder there."""
        return sorted(folder.name for folder in self._folders() if folder.parent.name.startswith("node-"))

    def _folders(self) -> list[Path]:
        """All folders there; one may go meanwhile."""
        return [Path(folder) for folder, _, _ in os.walk(self.state)]

    def left(self) -> list[str]:
        """All that is kept there."""
        return sorted(
            str(Path(folder, name)) for folder, folders, files in os.walk(self.state) for name in (*folders, *files)
        )

    def runners(self) -> list[int]:
        """The pids of the shims, or scripts, that run jobs there."""
        labels = {f"node/{run_id}".encode() for run_id in self.runs()}
        scripts = {str(path).encode() for path in self.state.glob("nexus/node-*/runner-*")}
        return [pid for pid, words in _processes() if words[1:2] and words[1] in labels | scripts]

    def members(self) -> list[int]:
        """The pids of what has the environment of a job of this host."""
        return self._having(f"ON={self.root}")

    def _having(self, variable: str) -> list[int]:
        found = []
        for pid, _ in _processes():
            with contextlib.suppress(OSError):
                if variable.encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                    found.append(pid)
        return found

    def sessions(self) -> int:
        """How many sessions the sshd has begun."""
        return self.server.log.read_text().count("Starting session:")

    def close(self) -> None:
        """End the sshd, and what runs there; returns once nothing there changes a file."""
        self.server.close()
        self.reboot()
        wait_until(lambda: not self._having(f"XDG_STATE_HOME={self.state}"), "the end of all that ran there")


def _processes() -> list[tuple[int, list[bytes]]]:
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found.append((int(entry.name), Path(entry.path, "cmdline").read_bytes().split(b"\0")))
    return found


def environment_with_ssh(host: NodeHost) -> dict[str, str]:
    """The environment of a daemon whose ssh has the host's configuration."""
    return {"PATH": f"{host.ssh.parent}:{os.environ['PATH']}", "SECRET_OF_THE_DAEMON": "never-there"}


class Remote(Jobs):
    """The jobs of a daemon, with one host added as a node."""

    def __init__(self, daemon: DaemonProcess, host: NodeHost) -> None:
        super().__init__(daemon)
        self.host = host

    def add(self, name: str = NAME, **fields: Any) -> Node:
        """Add the host as a node."""
        return self.client.call(
            AddNode(
                name,
                **{"hostname": "127.0.0.1", "port": self.host.server.port, "user": self.host.server.user, **fields},
            )
        )

    def node(self, name: str = NAME) -> Node:
        """The node's record."""
        return self.client.call(GetNode(name))

    def check(self, name: str = NAME) -> NodeChecked:
        """Check the node."""
        return self.client.call(CheckNode(name))

    def there(self, command: str | list[str] = "true", **fields: Any) -> Job:
        """Submit a job for the node."""
        environment = {"ON": str(self.host.root), **fields.pop("environment", {})}
        return self.submit(command, node=NAME, environment=environment, **fields)

    def held(self, **fields: Any) -> Job:
        """Submit a job for the node that runs until ``let_go``."""
        environment = {"ON": str(self.host.root), **fields.pop("environment", {})}
        return self.hold(node=NAME, environment=environment, **fields)

    def wait_gone(self) -> None:
        """Wait until no run, process or file is left there."""
        wait_until(lambda: not self.host.left(), "an empty folder there")
        assert self.host.members() == []
