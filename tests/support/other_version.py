"""A daemon of another version: a proxy before a real daemon, which changes what is in its replies.

It stands for what cannot be had: a version that does not exist yet, or whose records had fewer fields.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from support.stranger import HEADER, ITEM, SUCCESS

__all__ = ["OtherVersion"]


class OtherVersion:
    """Listens on a socket of its own; ``change`` gets the map of each reply and item, and returns another."""

    def __init__(self, path: Path, daemon: Path, change: Callable[[Any], Any]) -> None:
        self.sent: list[Any] = []
        """The maps that clients received, in their order."""
        self._daemon, self._change = daemon, change
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        path.chmod(0o600)
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        """Stop listening, and wait until the last client has gone."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                client, _address = self._listener.accept()
            except OSError:
                return
            with client, socket.socket(socket.AF_UNIX) as daemon, contextlib.suppress(ConnectionError):
                daemon.connect(str(self._daemon))
                self._pass_on(client, daemon)

    def _pass_on(self, client: socket.socket, daemon: socket.socket) -> None:
        received = bytearray()
        while True:
            readable, _, _ = select.select([client, daemon], [], [])
            if client in readable:
                some = client.recv(65536)
                if not some:
                    return
                daemon.sendall(some)
            if daemon in readable:
                some = daemon.recv(65536)
                if not some:
                    return
                received += some
                client.sendall(self._changed(received))

    def _changed(self, received: bytearray) -> bytes:
        """Take the whole frames out of what was received; returns them with other payloads."""
        made = b""
        while len(received) >= HEADER.size:
            magic, version, code, size, sequence, flags = HEADER.unpack_from(received)
            if len(received) < HEADER.size + size:
                break
            payload = bytes(received[HEADER.size : HEADER.size + size])
            del received[: HEADER.size + size]
            if payload and code in (SUCCESS, ITEM):
                body = self._change(msgpack.unpackb(payload))
                self.sent.append(body)
                payload = msgpack.packb(body)
            made += HEADER.pack(magic, version, code, len(payload), sequence, flags) + payload
        return made
