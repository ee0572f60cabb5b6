"""What both clients share: the daemon's address and the actor. It opens no connection."""

from __future__ import annotations

import os

from nexus.client.errors import check_actor

__all__ = ["BaseClient"]


class BaseClient:
    """The daemon's address and the actor; without ``socket_path``, the daemon that ``nexusctl`` would use.

    Raises:
        InvalidArgument: the daemon would not accept the actor.
        PathError, ConfigError: no ``socket_path`` is given, and the environment or the configuration is wrong.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None, actor: str | None) -> None:
        if socket_path is None:
            from nexus.config import client_socket, config_path, load_config

            socket_path, _warning = client_socket(load_config(config_path()))
        self.socket_path = os.fspath(socket_path)
        self.actor = check_actor(actor)
