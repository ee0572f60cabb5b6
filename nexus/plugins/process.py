"""The plugins' process: reads the daemon's messages, calls the plugins one after the other, and sends the replies.

Its shim (``nexus.runtime.command``) ends it with the daemon. The daemon does not import this module.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import sys

import msgspec

from nexus.plugins.hooks import PluginError, PluginVeto
from nexus.plugins.messages import (
    PREFIX_BYTES,
    Call,
    Entered,
    Failed,
    Load,
    Loaded,
    Reply,
    Result,
    Vetoed,
    decode_request,
    framed,
)
from nexus.plugins.registry import Registry

__all__ = ["main"]


def main() -> None:
    """Serve the daemon until it closes the socket. Arguments: the socket's descriptor, memory MiB."""
    descriptor, memory_mib = (int(argument) for argument in sys.argv[1:3])
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    size = memory_mib * 1024 * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    channel = socket.socket(fileno=descriptor)
    channel.set_inheritable(False)
    with contextlib.suppress(ConnectionError):  # the daemon has ended
        _serve(channel)
    # Skips a plugin's threads and atexit functions.
    os._exit(0)


def _serve(channel: socket.socket) -> None:
    own_pid = os.getpid()

    def send(reply: Reply) -> None:
        if os.getpid() != own_pid:  # a plugin has forked; only the original process may reply
            os._exit(0)
        channel.sendall(framed(reply))

    registry = Registry(lambda plugin: send(Entered(plugin)))
    while (size := _receive(channel, PREFIX_BYTES)) and (
        data := _receive(channel, int.from_bytes(size, "big"))
    ) is not None:
        send(_reply_to(registry, decode_request(data)))


def _reply_to(registry: Registry, request: Load | Call) -> Reply:
    if isinstance(request, Load):
        return Loaded(registry.load(request))
    try:
        return Result(msgspec.Raw(registry.call(request.hook, request.arguments)))
    except PluginVeto as veto:
        return Vetoed(veto.plugin, veto.reason)
    except PluginError as error:
        return Failed(error.plugin, error.reason, error.unusable)


def _receive(channel: socket.socket, size: int) -> bytes | None:
    """Read exactly ``size`` bytes; None when the daemon has closed the socket."""
    parts = []
    while size:
        data = channel.recv(size)
        if not data:
            return None
        parts.append(data)
        size -= len(data)
    return b"".join(parts)


if __name__ == "__main__":
    main()
