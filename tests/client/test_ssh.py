"""Clients of a daemon on another host: the URL, both clients over a real sshd, and how a connection fails and ends."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator

import pytest
from nexus_protocol.errors import InvalidArgument
from support.daemon import DaemonProcess
from support.hosts import RemoteHost, missing_for_ssh

from nexus.client import BlockingClient, Client, ConnectError, ConnectionLost, ConnectTimeout
from nexus.client.ssh import Host, parse_host
from nexus.client.transport import connect
from nexus.journal.commands import WatchEvents
from nexus.system.commands import GetSystemStatus, Ping
from nexus.vms.commands import CreateVm, ListVms

needs_ssh = pytest.mark.skipif(missing_for_ssh() is not None, reason=f"no sshd: {missing_for_ssh()}")


@pytest.fixture
def host(daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteHost]:
    """A host with a running daemon; ssh of this process has the configuration of the test."""
    made = RemoteHost(daemon)
    monkeypatch.setenv("PATH", f"{made.ssh.parent}:{os.environ['PATH']}")
    yield made
    made.close()


# The URL


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("ssh://web1", Host("ssh://web1", "web1")),
        ("ssh://web1/", Host("ssh://web1", "web1")),
        ("ssh://me@web1.example.org:2222", Host("ssh://me@web1.example.org:2222", "web1.example.org", "me", 2222)),
        ("ssh://web1/run/user/7/n.sock", Host("ssh://web1/run/user/7/n.sock", "web1", socket="/run/user/7/n.sock")),
        ("ssh://web1/a%20b.sock", Host("ssh://web1/a%20b.sock", "web1", socket="/a b.sock")),
        ("ssh://[::1]:22", Host("ssh://[::1]:22", "::1", None, 22)),
        ("ssh://me@[fe80::1%25eth0]", Host("ssh://me@[fe80::1%25eth0]", "fe80::1%eth0", "me")),
    ],
)
def test_url_has_user_host_port_and_the_path_of_a_socket(url: str, host: Host) -> None:
    assert parse_host(url) == host


BAD = """\
web1
http://web1
ssh:web1
ssh://
ssh://@web1
ssh://a@b@c
ssh://-oProxyCommand=x
ssh://-oProxyCommand=x/y
ssh://me@-oProxyCommand=x
ssh://-l@web1
ssh://web1:
ssh://web1:0
ssh://web1:65536
ssh://web1:000000000022
ssh://web1:-1
ssh://web1:\u0662
ssh://web 1
ssh://w\u00e9b
ssh://m;e@web1
ssh://$(id)@web1
ssh://`id`@web1
ssh://me'@web1
ssh://web1;id
ssh://me%20@web1
ssh://[::1
ssh://[web1]
ssh://[::1]22
ssh://::1
ssh://[-o:]
ssh://[::1%-;]
ssh://web1/a'b
ssh://web1/a\\b
ssh://web1/a%0ab
ssh://web1/a\tb
ssh://web1\t
ssh://web1/%ff
ssh://web1/a?b
ssh://web1/a#b
ssh://web1?a
"""


@pytest.mark.parametrize(
    "url",
    BAD.splitlines(),
)
def test_url_that_could_mean_something_else_is_refused(url: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot use host") as refused:
        BlockingClient(host=url)
    assert refused.value.details == {"path": "host"}
    with pytest.raises(InvalidArgument, match="cannot use host"):
        connect(url if url.startswith("ssh://") else f"ssh://{url} ")


@pytest.mark.parametrize("url", ["ssh://me:secret@web1", "ssh://me:a/secret@web1", "ssh://me:a@secret@web1"])
def test_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(InvalidArgument, match="cannot use host 'ssh://me:…@web1'") as refused:
        Client(host=url)
    assert "secret" not in str(refused.value)


def test_host_of_the_environment_counts_unless_a_socket_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_HOST", "ssh://web1")
    assert Client().socket_path == BlockingClient().socket_path == "ssh://web1"
    assert BlockingClient(host="ssh://web2").socket_path == "ssh://web2"
    assert BlockingClient("/some.sock").socket_path == "/some.sock"
    with pytest.raises(InvalidArgument, match="a socket path is given as well"):
        BlockingClient("/some.sock", host="ssh://web1")


def test_missing_ssh_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConnectError, match="there is no ssh here"):
        BlockingClient(host="ssh://web1").connect()


# Over a real sshd


@needs_ssh
def test_both_clients_reach_the_daemon_of_a_host(host: RemoteHost) -> None:
    with BlockingClient(host=host.url, actor="far") as nexus:
        made = nexus.call(CreateVm(name="web"), why="over ssh")
        assert nexus.call(GetSystemStatus()).pid == host.daemon.pid
        assert len(host.pids("dial-stdio")) >= 2

    async def list_names() -> list[str]:
        async with Client(host=host.url) as client:
            assert client.welcome is not None
            pages = await asyncio.gather(*(client.call(ListVms()) for _ in range(50)))
            return [vm.name for page in pages for vm in page.vms]

    assert asyncio.run(list_names()) == [made.name] * 50
    host.wait_until_nothing_is_left()


@needs_ssh
def test_path_of_the_url_is_the_socket_there(host: RemoteHost) -> None:
    host.set_there(XDG_RUNTIME_DIR=str(host.root / "here"), XDG_STATE_HOME=str(host.root / "here"))
    with pytest.raises(ConnectError) as lost:
        BlockingClient(host=host.url).connect()
    assert lost.value.not_running
    other = host.daemon.socket_path.with_name('a $x `b` "c.sock')
    host.daemon.socket_path.rename(other)
    with BlockingClient(host=f"{host.url}{str(other).replace(' ', '%20')}") as nexus:
        nexus.call(Ping())
    other.rename(host.daemon.socket_path)


@needs_ssh
def test_lost_connection_names_the_host_and_can_be_made_again(host: RemoteHost) -> None:
    lost = f"the connection to the daemon at {host.url} was lost"

    async def in_loop() -> None:
        async with Client(host=host.url) as client:
            stream = client.stream(WatchEvents())
            host.kill_dial()
            with pytest.raises(ConnectionLost, match=lost):
                await anext(aiter(stream))
            await client.connect()
            await client.call(Ping())

    asyncio.run(in_loop())
    with BlockingClient(host=host.url) as client:
        stream = client.stream(WatchEvents())
        host.kill_dial()
        with pytest.raises(ConnectionLost, match=lost):
            next(iter(stream))
        client.connect()
        client.call(Ping())
    host.wait_until_nothing_is_left()


@needs_ssh
def test_host_that_never_speaks_has_a_limit_in_both_clients(host: RemoteHost) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"ssh://127.0.0.1:{silent.getsockname()[1]}"
        blocking, other = BlockingClient(host=url), Client(host=url)
        blocking.connect_timeout_s = other.connect_timeout_s = 0.5
        with pytest.raises(ConnectTimeout, match=r"no reply within 0\.5 seconds"):
            blocking.connect()
        with pytest.raises(ConnectTimeout, match=r"no reply within 0\.5 seconds"):
            asyncio.run(other.connect())
    host.wait_until_nothing_is_left()


@needs_ssh
def test_wait_for_a_host_can_be_cancelled(host: RemoteHost) -> None:
    async def cancelled(url: str) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await Client(host=url).connect()

    with socket.create_server(("127.0.0.1", 0)) as silent:
        asyncio.run(cancelled(f"ssh://127.0.0.1:{silent.getsockname()[1]}"))
    host.wait_until_nothing_is_left()
