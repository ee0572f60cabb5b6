"""``App``: what every verb works with. The global options, the daemon's address, and the connection to the daemon."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from nexus import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from nexus_protocol.command import Command, CommandInfo
    from nexus_protocol.context import HeldLease, ProjectRoot
    from nexus_protocol.errors import NexusError

    from nexus.cli.result import Result
    from nexus.client.blocking import BlockingClient
    from nexus.config import Config
    from nexus.projects.commands import Project

__all__ = ["ANSWER_WITHIN_S", "MAX_KEY", "App"]

R = TypeVar("R")

ANSWER_WITHIN_S = 5.0
"""How long a verb that only inspects waits for a running daemon to reply."""
MAX_KEY = 58
"""Characters of ``--key``: with the place of a request, such as ``.99999``, they are the 64 that the daemon takes."""


class App:
    """One run of ``nexusctl``."""

    def __init__(
        self,
        socket: str | None,
        config: str | None,
        actor: str | None,
        debug: bool,
        timeout_s: float | None = None,
        *,
        why: str | None = None,
        lease: str | None = None,
        key: str | None = None,
        project: str | None = None,
        all_projects: bool = False,
        in_project: bool = True,
        host: str | None = None,
    ) -> None:
        self.socket_option = socket
        self.host = host
        """The URL of the host whose daemon is meant; None is this machine. The folder here is then no project there."""
        self.may_ask = True
        """Whether ssh may ask on the terminal."""
        self._connect_timeout_s = timeout_s if host is not None else None
        self.config_option = config
        self.actor = actor
        self.actor_option: str | None = None
        """The actor that the command line names; the environment may name one, too."""
        self.debug = debug
        self.timeout_s = timeout_s
        """The deadline of each call; None for no deadline."""
        self.why = why
        self._lease = lease
        """The lease that the requests of this run are made under, as ``ID:EPOCH``."""
        self.key = key
        self.project_option = project
        """The project that the option or ``NEXUS_PROJECT`` names."""
        self.all_projects = all_projects
        self._in_project = in_project and host is None
        self._entered: str | None = None
        """The id of the project that ``enter`` was called with."""
        self._root: str | None = None
        self._looked_for_root = False
        self._check_context()
        self.cause: int | None = None
        """The operation that the requests of this run which change something are a part of."""
        self._place = 0
        """The place among the requests of the command line that the next request with a key has."""
        self._client: BlockingClient | None = None
        self._config: Config | None = None
        self._elsewhere: str | None = None
        """Where the daemon listens, if not where it was looked for first."""

    @property
    def config(self) -> Config:
        """The content of the configuration file.

        Raises:
            ConfigError: the file is invalid.
        """
        if self._config is None:
            from nexus.config import config_path, load_config

            self._config = load_config(config_path(self.config_option), required=self.config_option is not None)
        return self._config

    def socket_path(self) -> Path:
        """The path of the daemon's socket."""
        from pathlib import Path

        return Path(self._socket())

    def address(self) -> str:
        """Where the daemon is: the URL of the host, else the path of the socket."""
        return self.host or self._socket()

    def _socket(self) -> str:
        if self._elsewhere is not None:
            return self._elsewhere
        from nexus.config import client_socket

        return client_socket(self.config, self.socket_option)

    def look_elsewhere(self) -> bool:
        """After no daemon was found: whether the daemon of the database listens at another place, which is used now."""
        from nexus.config import other_socket

        there = other_socket(self.config, self.socket_option, self._socket())
        if there is not None:
            self._elsewhere = there
        return there is not None

    def database_path(self, override: str | None = None) -> Path:
        """The path of the configured database, for work on the file while no daemon runs."""
        from pathlib import Path

        from nexus.config import database_path

        return Path(database_path(self.config, override))

    def daemon_pid(self) -> int | None:
        """The pid of the running daemon, found without connecting to it; None when none runs."""
        from nexus.cli.find_daemon import find_daemon_pid

        pid = find_daemon_pid(self.socket_path(), self.database_path())
        if pid is None and self.look_elsewhere():
            pid = find_daemon_pid(self.socket_path(), self.database_path())
        return pid

    def daemon_database(self) -> Path | None:
        """The database that the running daemon reports; None when no daemon runs or it does not reply."""
        from pathlib import Path

        from nexus_protocol.errors import NexusError

        from nexus.client.errors import ConnectionFailure
        from nexus.system.commands import Health

        if self.daemon_pid() is None:
            return None  # connecting would be no test: with systemd it starts the daemon
        given = self.timeout_s
        self.limit(ANSWER_WITHIN_S)
        try:
            database = self.call(Health()).database
        except (ConnectionFailure, NexusError):
            return None
        finally:
            self.timeout_s = given
        return Path(database.path) if database else None

    def connect(self) -> BlockingClient:
        """Return the run's only client, connected.

        Raises:
            ConnectError: there is no daemon.
            NoAnswer: the daemon does not reply in time.
        """
        if self._client is None:
            self._client = client = self._connected()
            if self.timeout_s is not None:
                self._await_answer(client, self.timeout_s)
        return self._client

    def connect_again(self) -> BlockingClient:
        """Return another client, connected, for what is followed while the first one asks."""
        return self._connected()

    def _connected(self) -> BlockingClient:
        from nexus.client.blocking import BlockingClient
        from nexus.client.errors import ConnectError

        client = BlockingClient(self.address(), actor=self.actor, name=f"nexusctl {__version__}")
        client.connect_timeout_s, client.may_ask = self._connect_timeout_s, self.may_ask
        if self.why is not None or self.key is not None:
            client.context_of = self._context_of
        client.project, client.project_of, client.cause_of = None, self._project_of, self._cause_of
        client.lease = self.lease()
        try:
            client.connect()
        except ConnectError as error:
            if not error.not_running or self.host is not None or not self.look_elsewhere():
                raise
            client.socket_path = self._socket()
            client.connect()
        return client

    def _check_context(self) -> None:
        """Check ``--why``, ``--lease``, ``--key`` and ``--project`` before anything is done.

        Raises:
            InvalidArgument: one of them is not valid.
        """
        self.lease()
        if self.why is None and self.key is None and self.project_option is None:
            return
        from nexus_protocol.context import check_key, check_project, check_why
        from nexus_protocol.errors import InvalidArgument

        if self.project_option is not None:
            check_project(self.project_option)

        if self.why is not None:
            check_why(self.why)
        if self.key is not None and len(check_key(self.key)) > MAX_KEY:
            raise InvalidArgument(f"cannot accept key: expected at most {MAX_KEY} characters", details={"path": "key"})

    def lease(self) -> HeldLease | None:
        """The lease that ``--lease`` or ``NEXUS_LEASE`` names.

        Raises:
            InvalidArgument: it is not valid.
        """
        if self._lease is None:
            return None
        from nexus_protocol.context import HeldLease, check_lease
        from nexus_protocol.errors import InvalidArgument

        id_, _, epoch = self._lease.partition(":")
        if not (epoch.isascii() and epoch.isdigit() and len(epoch) < 20):
            raise InvalidArgument(
                "cannot accept lease: expected ID:EPOCH, as the claim printed it", details={"path": "lease"}
            )
        return check_lease(HeldLease(id_.lower(), int(epoch)))

    def project(self) -> str | ProjectRoot | None:
        """The project that requests name: an option or the variable, else a folder; None for ``default``.

        Raises:
            UsageError: the path of the folder is not UTF-8, or the working directory was deleted.
        """
        if self._entered is not None:
            return self._entered
        if self.project_option is not None or not self._in_project:
            return self.project_option
        root = self.root()
        if root is None:
            return None
        from nexus_protocol.context import ProjectRoot

        return ProjectRoot(root)

    def enter(self, project_id: str) -> None:
        """Make all further requests of this run name this project, whatever its option and its folder are."""
        self._entered = project_id

    def root(self) -> str | None:
        """The folder of the ``nexus.toml`` that this run is in, also where an option names a project."""
        if not self._looked_for_root:
            self._looked_for_root = True
            from nexus.cli.place import find_root

            try:
                self._root = find_root()
            except OSError as error:
                import click

                raise click.UsageError(
                    f"cannot tell the project of the working directory: {error.strerror}; name a project with -p"
                ) from None
            if self._root is not None and not self._root.isprintable():
                import click

                try:
                    self._root.encode()
                except UnicodeEncodeError:
                    raise click.UsageError(
                        f"cannot use the project of {self._root!r}: its path is not UTF-8; name a project with -p"
                    ) from None
        return self._root

    def _project_of(self, info: CommandInfo) -> str | ProjectRoot | None:
        return "*" if self.all_projects and info.all_projects else self.project()

    def _cause_of(self, info: CommandInfo) -> int | None:
        return None if info.effect == "read" or info.item is not None else self.cause

    def _context_of(self, info: CommandInfo) -> tuple[str | None, str | None]:
        """The why and the key of a request: both only for a request that changes something and is no stream.

        The first such request has the key itself, the second ``KEY.2``, the third ``KEY.3``.
        """
        if info.effect == "read" or info.item is not None:
            return None, None
        self._place += 1
        return self.why, None if self.key is None else self.key_at(self._place - 1)

    def project_record(self) -> Project:
        """The project that this run speaks in.

        Raises:
            NotFound: there is none.
        """
        from nexus.projects.commands import GetProject

        return self.call(GetProject())

    def hint_missing_project(self) -> None:
        """After a list came out empty: say so if that is because the folder has no project yet."""
        from nexus_protocol.context import ProjectRoot
        from nexus_protocol.errors import NotFound

        from nexus.cli.output import hint
        from nexus.projects.commands import GetProject

        if self.all_projects or not isinstance(self.project(), ProjectRoot):
            return
        try:
            self.call(GetProject())
        except NotFound as error:
            hint(f"No project has the folder {self.root()}.\n{error.hint}")

    def key_at(self, place: int) -> str:
        """The key of the request at ``place``, from 0, on the command line, which has one."""
        assert self.key is not None
        return self.key if place == 0 else f"{self.key}.{place + 1}"

    def next_place(self, place: int) -> None:
        """Give the next request the key of ``place``, from 0, on the command line.

        For a verb that may leave out or repeat some of its requests: each keeps its key when the line is repeated.
        """
        self._place = place

    def limit(self, timeout_s: float) -> None:
        """Set the deadline of each call, unless the command line sets one."""
        if self.timeout_s is None:
            self.timeout_s = timeout_s

    def _await_answer(self, client: BlockingClient, timeout_s: float) -> None:
        """Wait for the reply to ``Hello``, to tell a daemon that hangs from a request that takes long.

        Raises:
            NoAnswer: nothing was received.
        """
        import select

        assert client._socket is not None
        poller = select.poll()
        poller.register(client._socket, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            from nexus.cli.find_daemon import NoAnswer

            self.close()
            raise NoAnswer(self.daemon_pid())

    def close(self) -> None:
        """Close the connection, if there is one. The daemon is looked for again afterwards."""
        self._elsewhere = None
        if self._client is not None:
            self._client.close()
            self._client = None

    def call(self, command: Command[R], *, project: str | ProjectRoot | None = None) -> R:
        """Send a command, by default in the project of this run; returns its reply."""
        return self.connect().call(command, timeout_s=self.timeout_s, project=project)

    def fetch(self, command: Command[R], *, project: str | ProjectRoot | None = None) -> Result[R]:
        """Like ``call``; returns the reply to print it."""
        from nexus.cli.result import received

        return received(command, self.connect().call_raw(command, timeout_s=self.timeout_s, project=project))

    def fetch_all(
        self, commands: Sequence[Command[R]], *, why: str | None = None, keys: Sequence[str] | None = None
    ) -> Iterator[tuple[int, Result[R] | NexusError]]:
        """Send several commands concurrently; yields the place and the outcome of each, in the order of completion.

        ``keys`` has the key of each.
        """
        from nexus_protocol.errors import NexusError

        from nexus.cli.result import received

        for place, reply in self.connect().calls(commands, timeout_s=self.timeout_s, why=why, keys=keys):
            yield place, reply if isinstance(reply, NexusError) else received(commands[place], reply)

    def frame_bytes(self) -> int:
        """The largest payload of a request that the daemon takes, whatever limit its command has."""
        from nexus_protocol.frame import MAX_PAYLOAD

        return min(MAX_PAYLOAD, self.connect().limit("max_frame_payload_bytes", MAX_PAYLOAD))

    def fetch_batch(self, commands: Sequence[Command[R]]) -> list[Result[R]]:
        """Carry out several changes in one transaction, all or none; returns the reply of each."""
        from nexus.cli.result import received

        replies = self.connect().batch_raw(commands, timeout_s=self.timeout_s)
        return [received(command, reply) for command, reply in zip(commands, replies, strict=True)]
