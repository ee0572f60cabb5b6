"""``nexusctl dial-stdio``: carries the protocol between the standard streams and the daemon, for ``--host``.

ssh runs it on the host. It passes bytes on and does not look at them.
"""

from __future__ import annotations

import os
import select
import socket
from typing import TYPE_CHECKING

import click
from nexus_protocol.errors import NexusError

from nexus.client.errors import ConnectError
from nexus.client.transport import connect

if TYPE_CHECKING:
    from nexus.cli.app import App

__all__ = ["dial_stdio"]

_BUFFER_BYTES = 256 * 1024
"""What is read in one direction before the other side has taken it."""
_NOT_RUNNING, _REFUSED = 3, 1


@click.command(name="dial-stdio")
@click.pass_obj
def dial_stdio(app: App) -> int:
    """Carry the protocol between standard input and output and the daemon of this machine.

    It is what ssh runs on the host that --host names. It starts the daemon by its socket unit, if there is one, and
    exits with 3 if no daemon runs. It ends when either side has closed the connection.
    """
    try:
        daemon = _connected(app)
    except ConnectError as error:
        click.echo(error.message, err=True)
        return _NOT_RUNNING if error.not_running else _REFUSED
    except NexusError as error:  # the socket unit cannot be started
        click.echo(error.message, err=True)
        return _REFUSED
    with daemon:
        carry(daemon, 0, 1)
    return 0


def _connected(app: App) -> socket.socket:
    """A connection to the daemon of this machine; its socket unit is started if it is not."""
    try:
        return connect(str(app.socket_path()))
    except ConnectError as error:
        if not error.not_running:
            raise
        if app.look_elsewhere():
            return connect(str(app.socket_path()))
        from nexus.cli.daemon import start_socket_unit

        if not start_socket_unit(app):
            raise
        return connect(str(app.socket_path()))


class _Pipe:
    """One direction: what was read from a descriptor and not yet written to another."""

    def __init__(self, source: int, target: int) -> None:
        self.source, self.target = source, target
        self.waiting = bytearray()
        self.has_ended = False
        """Whether all of it was read."""

    def read(self) -> None:
        try:
            data = os.read(self.source, _BUFFER_BYTES - len(self.waiting))
        except BlockingIOError:
            return
        except OSError:  # the peer is gone
            data = b""
        self.waiting += data
        self.has_ended = not data

    def write(self) -> bool:
        """Write what waits; whether anything still reads it."""
        try:
            del self.waiting[: os.write(self.target, self.waiting)]
        except BlockingIOError:
            pass
        except OSError:
            return False
        return True


def carry(daemon: socket.socket, source: int, target: int) -> None:
    """Carry bytes both ways until the daemon has closed its side, or nothing reads the target any more.

    The end of the source is passed on to the daemon, which still answers what it was asked.
    """
    up, down = _Pipe(source, daemon.fileno()), _Pipe(daemon.fileno(), target)
    blocking = {descriptor: os.get_blocking(descriptor) for descriptor in (source, target)}
    for descriptor in (source, target, daemon.fileno()):
        os.set_blocking(descriptor, False)
    try:
        is_shut = False
        while not (down.has_ended and not down.waiting):
            if up.has_ended and not up.waiting and not is_shut:
                is_shut = True
                try:
                    daemon.shutdown(socket.SHUT_WR)
                except OSError:
                    return
            ready = _wait(up, down)
            if ready.get(target, 0) & (select.POLLERR | select.POLLHUP | select.POLLNVAL):
                return
            if ready.get(target, 0) & select.POLLOUT and not down.write():
                return
            if ready.get(daemon.fileno(), 0) & select.POLLOUT and up.waiting and not up.write():
                up.waiting.clear()  # what the daemon has sent before it closed is still passed on
                up.has_ended = is_shut = True
            if ready.get(source, 0) and not up.has_ended and len(up.waiting) < _BUFFER_BYTES:
                up.read()
            readable = select.POLLIN | select.POLLHUP | select.POLLERR
            if ready.get(daemon.fileno(), 0) & readable and len(down.waiting) < _BUFFER_BYTES:
                down.read()
    finally:
        for descriptor, was in blocking.items():
            os.set_blocking(descriptor, was)  # a terminal is shared with the shell


def _wait(up: _Pipe, down: _Pipe) -> dict[int, int]:
    """Wait until something can be read or written; returns the events of each descriptor.

    The target is watched also while nothing is to be written: its reader may be gone.
    """
    wanted = {down.target: select.POLLOUT if down.waiting else 0}
    if not up.has_ended and len(up.waiting) < _BUFFER_BYTES:
        wanted[up.source] = wanted.get(up.source, 0) | select.POLLIN
    socket_events = (select.POLLOUT if up.waiting else 0) | (
        select.POLLIN if not down.has_ended and len(down.waiting) < _BUFFER_BYTES else 0
    )
    if socket_events:
        wanted[up.target] = socket_events
    poller = select.poll()
    for descriptor, events in wanted.items():
        poller.register(descriptor, events)
    return dict(poller.poll())
