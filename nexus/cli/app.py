"""What every verb works with: where the daemon is, a client for it, and how to start it when it is not there."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar

from nexus import __version__

if TYPE_CHECKING:
    from pathlib import Path

    from nexus_protocol.command import Command

    from nexus.client.blocking import BlockingClient
    from nexus.config import Config

__all__ = ["ANSWER_WITHIN_S", "App", "start_hint", "user_manager_runs"]

R = TypeVar("R")

ANSWER_WITHIN_S = 5.0
"""How long a command that only looks waits for a daemon that is there."""


class App:
    """One run of ``nexusctl``: the global options, and what follows from them."""

    def __init__(
        self, socket: str | None, config: str | None, actor: str | None, debug: bool, timeout_s: float | None = None
    ) -> None:
        self.socket_option = socket
        self.config_option = config
        self.actor = actor
        self.debug = debug
        self.timeout_s = timeout_s
        """How long a call may take; None for as long as it takes."""
        self._client: BlockingClient | None = None
        self._config: Config | None = None

    @property
    def config(self) -> Config:
        """The configuration file's content."""
        if self._config is None:
            from nexus.config import config_path, load_config

            self._config = load_config(config_path(self.config_option), required=self.config_option is not None)
        return self._config

    def socket_path(self) -> Path:
        """Where the daemon's socket is."""
        from pathlib import Path

        return Path(self._socket())

    def _socket(self) -> str:
        from nexus.config import client_socket

        return client_socket(self.config, self.socket_option)[0]

    def database_path(self, override: str | None = None) -> Path:
        """Where the database is, for what is done to it while no daemon runs."""
        from pathlib import Path

        from nexus.config import database_path

        return Path(database_path(self.config, override))

    def connect(self) -> BlockingClient:
        """A connected client, the same one for the whole run.

        Raises:
            ConnectError: there is no daemon.
        """
        if self._client is None:
            from nexus.client.blocking import BlockingClient

            client = BlockingClient(self._socket(), actor=self.actor, name=f"nexusctl {__version__}")
            client.connect()
            self._client = client
            if self.timeout_s is not None:
                self._await_answer(client, self.timeout_s)
        return self._client

    def limit(self, timeout_s: float) -> None:
        """Wait at most so long for an answer, where the line says nothing else."""
        if self.timeout_s is None:
            self.timeout_s = timeout_s

    def _await_answer(self, client: BlockingClient, timeout_s: float) -> None:
        """Wait for the daemon's answer to who we are: a daemon that says nothing at all hangs, others take their time.

        Raises:
            NoAnswer: it says nothing.
        """
        import select

        assert client._socket is not None
        poller = select.poll()
        poller.register(client._socket, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            from nexus.cli.find_daemon import NoAnswer, daemon_pid

            self.close()
            raise NoAnswer(daemon_pid(self))

    def close(self) -> None:
        """Hang up, where somebody was called."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, command: Command[R]) -> R:
        """Send a command; its reply as a record."""
        return self.connect().call(command, timeout_s=self.timeout_s)

    def call_raw(self, command: Command[Any]) -> dict[str, Any]:
        """Send a command; its reply as the plain map that came."""
        return self.connect().call_raw(command, timeout_s=self.timeout_s)


def user_manager_runs() -> bool:
    """Whether this user has a systemd manager (sd_booted(3) asks much the same for the system)."""
    directory = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.geteuid()}"
    return os.path.exists(f"{directory}/systemd/private")


def unit_directory() -> str:
    """Where this user's own units are."""
    config = os.environ.get("XDG_CONFIG_HOME", "")
    return (config if config.startswith("/") else os.path.expanduser("~/.config")) + "/systemd/user"


def unit_installed() -> bool:
    """Whether ``nexus.service`` is where the user's manager looks for units."""
    places = (unit_directory(), "/etc/systemd/user", "/usr/local/lib/systemd/user", "/usr/lib/systemd/user")
    return any(os.path.exists(f"{place}/nexus.service") for place in places)


def start_hint() -> str:
    """The command that starts the daemon on this machine."""
    if user_manager_runs() and unit_installed():
        return "systemctl --user start nexus.service"
    return "nexusctl daemon start"
