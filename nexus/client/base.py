"""What both clients have in common: where the daemon is, and on whose behalf they ask. It opens no connection."""

from __future__ import annotations

import os

from nexus.client.errors import check_actor

__all__ = ["BaseClient"]


class BaseClient:
    """Whom to call, and who calls; by default the daemon that ``nexusctl`` would talk to.

    Raises:
        InvalidArgument: the daemon would not take the actor.
        PathError, ConfigError: no ``socket_path`` is given, and the environment or the configuration is wrong.
    """

    def __init__(self, socket_path: str | os.PathLike[str] | None, actor: str | None) -> None:
        if socket_path is None:
            from nexus.config import client_socket, config_path, load_config

            socket_path, _warning = client_socket(load_config(config_path()))
        self.socket_path = os.fspath(socket_path)
        self.actor = check_actor(actor)
