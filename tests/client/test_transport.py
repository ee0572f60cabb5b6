"""The transport: connected sockets for both clients, its errors, and that no other module knows kinds of addresses."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus.client.errors import ConnectError
from nexus.client.transport import connect, connect_async

Connect = Callable[[str], socket.socket]


def connect_blocking(address: str) -> socket.socket:
    return connect(address, 1.5)


def connect_in_loop(address: str) -> socket.socket:
    return asyncio.run(connect_async(address, 1.5))


BOTH = pytest.mark.parametrize("function", [connect_blocking, connect_in_loop])


@BOTH
def test_connect_returns_a_connected_socket_without_a_timeout(root: Path, function: Connect) -> None:
    path = str(root / "some.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        with function(path) as ours:
            peer, _ = listener.accept()
            with peer:
                assert ours.getpeername() == path
                assert not os.get_inheritable(ours.fileno())
                assert ours.getblocking() is (function is connect_blocking)
                assert ours.getsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, 16) == bytes(16)


@BOTH
def test_connect_error_says_whether_a_start_of_the_daemon_would_help(root: Path, function: Connect) -> None:
    with pytest.raises(ConnectError) as missing:
        function(str(root / "none.sock"))
    assert missing.value.not_running
    with pytest.raises(ConnectError, match="too long") as too_long:
        function("/" + "x" * 200)
    assert not too_long.value.not_running


def test_only_the_transport_opens_sockets_of_a_family() -> None:
    package = Path(__file__).parents[2] / "nexus"
    files = [*(package / "client").glob("*.py"), *(package / "cli").rglob("*.py")]
    naming = {path.relative_to(package).as_posix() for path in files if "AF_UNIX" in path.read_text(encoding="utf-8")}
    # nexusctl daemon start listens for the daemon's READY=1, which is no address of the daemon.
    assert naming == {"client/transport.py", "cli/daemon.py"}
