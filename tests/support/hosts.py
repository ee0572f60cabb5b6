"""A host that is reached by ssh: an sshd of the tests' own with stock settings, and an environment of its own there."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

from support.cli import Cli
from support.daemon import DaemonProcess, isolated_environment
from support.git import SshServer, missing_for_ssh
from support.raw import wait_until

__all__ = ["RemoteHost", "missing_for_ssh"]

_PROGRAM = f'#!/bin/sh\nexec {sys.executable} -m nexus.cli.main "$@"\n'


class RemoteHost:
    """The machine of the tests as another host, on which a daemon may run, and ``cli``, the ``nexusctl`` on this side.

    Over ssh, ``nexusctl`` has the environment of the daemon, and is in a folder of the ``PATH`` there. On this side
    every folder is another one, and ``ssh`` is a script that gives the real one a configuration of the test's own.
    """

    def __init__(self, daemon: DaemonProcess) -> None:
        self.root = daemon.root / "ssh"
        for name in ("here", "programs", "there"):
            (self.root / name).mkdir(parents=True)
        self.daemon = daemon
        self.server = SshServer(self.root)
        self.programs = self.root / "there"
        """The folder of the ``PATH`` there that has ``nexusctl``."""
        self.program(self.programs / "nexusctl", _PROGRAM)
        names = ("HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME")
        self._there = {name: daemon.environment[name] for name in names}
        self.set_there(PATH=f"{self.programs}:/usr/bin:/bin")
        self.know(Path(f"{self.server.host_key}.pub"))
        environment = isolated_environment(self.root / "here")
        self.cli = Cli(environment)
        self.ssh = self.root / "programs" / "ssh"
        self.program(self.ssh, f'#!/bin/sh\nexec /usr/bin/ssh -F {self.root}/ssh_config "$@"\n')
        self.cli.environment["PATH"] = f"{self.root}/programs:{self.cli.environment['PATH']}"
        self.url = f"ssh://{self.server.user}@127.0.0.1:{self.server.port}"

    def program(self, path: Path, text: str) -> None:
        """Write a program."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)

    def set_there(self, **environment: str) -> None:
        """Set variables of the commands of ssh, beside those of the daemon."""
        self._there |= environment
        settings = self.root / "sshd_config"
        kept = [line for line in settings.read_text().splitlines() if not line.startswith("SetEnv ")]
        # sshd reads its configuration for each connection; of several lines the first one counts.
        kept.append("SetEnv " + " ".join(f'{name}="{value}"' for name, value in self._there.items()))
        settings.write_text("\n".join(kept) + "\n")

    def know(self, public: Path | None, *, key: Path | None = None, **options: str) -> None:
        """Write the configuration of ssh: the known key of the host, or none, and the user's ``key``."""
        self.server.client(known=public)
        settings = self.root / "ssh_config"
        lines = [line for line in settings.read_text().splitlines() if not line.startswith("IdentityFile")]
        lines += [f"IdentityFile {key or self.server.user_key}", "IdentitiesOnly yes"]
        settings.write_text("\n".join(lines + [f"{name} {value}" for name, value in options.items()]) + "\n")

    def processes(self) -> list[str]:
        """The processes of connections: ssh, what watches it, its sessions there, and dial-stdio."""
        found = []
        for entry in os.scandir("/proc"):
            if not entry.name.isdigit():
                continue
            with contextlib.suppress(OSError):
                words = Path(entry.path, "cmdline").read_bytes().split(b"\0")
                mine = str(self.root).encode() in Path(entry.path, "environ").read_bytes()
                if mine and any(b"dial-stdio" in word for word in words) and not self._is_nexusctl(words):
                    found.append(f"{entry.name} {b' '.join(words).decode()}")
        sessions = [f"{process.pid} sshd" for process in self.server.sessions() if process.poll() is None]
        return found + sessions

    def _is_nexusctl(self, words: list[bytes]) -> bool:
        return b"--host" in words

    def pids(self, what: str) -> list[int]:
        """The processes of connections whose command line contains a text."""
        return [int(line.split()[0]) for line in self.processes() if what in line]

    def kill_dial(self) -> None:
        """Kill the other end of every connection, on the host."""
        for pid in self.pids("-m nexus.cli.main"):
            os.kill(pid, signal.SIGKILL)

    def wait_until_nothing_is_left(self) -> None:
        """Wait until no process of a connection is left on either side."""
        wait_until(lambda: not self.processes(), "the end of all processes of connections")

    def close(self) -> None:
        """End the sshd."""
        self.server.close()
