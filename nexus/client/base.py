"""What both clients share: the daemon's address, the actor, and the context of requests. It opens no connection."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from nexus_protocol.errors import InvalidArgument

from nexus.client.errors import ConnectError, check_actor

if TYPE_CHECKING:
    from nexus_protocol.context import HeldLease, ProjectRoot

    from nexus.config import Config

__all__ = ["BaseClient"]


class BaseClient:
    """The daemon's address, and what requests say that say nothing else; without ``socket_path``, that of ``nexusctl``.

    That is the one of the host that ``NEXUS_HOST`` names, else one at the default path, else the running daemon of the
    default database, wherever it listens. Without a ``project``, that of the variable ``NEXUS_PROJECT``.

    Raises:
        InvalidArgument: the daemon would not accept the actor, the why, the project or the lease; the host is not
            valid, or ``socket_path`` is given as well.
        PathError, ConfigError: no ``socket_path`` is given, and the environment or the configuration is wrong.
    """

    def __init__(
        self,
        socket_path: str | os.PathLike[str] | None,
        actor: str | None,
        why: str | None,
        project: str | ProjectRoot | None,
        host: str | None = None,
        lease: HeldLease | None = None,
    ) -> None:
        self._config: Config | None = None
        """Set if neither ``socket_path`` nor a host was given."""
        self.connect_timeout_s: float | None = None
        """How long a connect may take; None for the limit of the kind of address."""
        self.may_ask = True
        """Whether ssh may ask on the terminal, for a passphrase for example."""
        if socket_path is None:
            socket_path = _checked(host or os.environ.get("NEXUS_HOST"))
        elif host is not None:
            raise InvalidArgument("cannot use host: a socket path is given as well", details={"path": "host"})
        if socket_path is None:
            from nexus.config import client_socket, config_path, load_config

            self._config = load_config(config_path())
            socket_path = client_socket(self._config)
        self.socket_path = os.fspath(socket_path)
        """The daemon's address: the path of its socket, or the URL of its host."""
        self.actor = check_actor(actor)
        self.why = why
        """Why requests are made that say nothing else."""
        if why is not None:
            from nexus_protocol.context import check_why

            check_why(why)
        self.lease = lease
        """The lease that requests are made under that name no other."""
        if lease is not None:
            from nexus_protocol.context import check_lease

            check_lease(lease)
        self.project = project or os.environ.get("NEXUS_PROJECT") or None
        """In whose names requests speak that say nothing else; None is ``default``."""
        if isinstance(self.project, str):
            from nexus_protocol.context import check_project

            check_project(self.project, "project" if project else "NEXUS_PROJECT")

    def _context(
        self,
        why: str | None,
        key: str | None,
        project: str | ProjectRoot | None,
        cause: int | None = None,
        lease: HeldLease | None = None,
    ) -> bytes:
        """Encode the context of a request; no bytes if it has none.

        Raises:
            InvalidArgument: the daemon would not accept the why, the key, the project, the cause or the lease.
        """
        why = self.why if why is None else why
        project = self.project if project is None else project
        lease = self.lease if lease is None else lease
        if why is None and key is None and project is None and cause is None and lease is None:
            return b""
        from nexus_protocol.context import encode_context

        return encode_context(key=key, why=why, project=project, cause=cause, lease=lease)

    def _look_elsewhere(self, error: ConnectError) -> None:
        """Set ``socket_path`` to where the daemon listens, after a failed connect to the default path.

        Raises:
            ConnectError: ``error``, if there is nowhere else to look.
        """
        if self._config is None or not error.not_running:
            raise error
        from nexus.config import other_socket

        there = other_socket(self._config, None, self.socket_path)
        if there is None:
            raise error
        self.socket_path = there


def _checked(host: str | None) -> str | None:
    if not host:
        return None
    from nexus.client.ssh import parse_host

    return parse_host(host).url
