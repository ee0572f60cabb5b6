"""The tunnel process: its arguments, exit codes, descriptors and choice; with the native and the Python program."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from support.raw import WAIT_S, wait_until
from support.tunnels import Target, Tunnel, echo, run_in_namespace

from nexus.runtime import tunnel as tunnel_module
from nexus.runtime.tunnel import find_tunnel_command


def test_port_in_use_is_reported_with_its_own_exit_code(tunnel_command: list[str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        result = subprocess.run(
            [*tunnel_command, "127.0.0.1", str(port), tmp_path / "target"],
            capture_output=True,
            text=True,
            timeout=WAIT_S,
        )
    assert result.returncode == 98
    assert result.stdout == ""
    assert (
        result.stderr
        == f"nexus-tunnel: cannot listen on 127.0.0.1 port {port}: the port is in use by another process\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["127.0.0.1", "0"],
        ["127.0.0.1", "0", "file", "1", "2"],
        ["127.0.0.1", "0", "file", "soon"],
        ["127.0.0.1", "0", "file", "-1"],
        ["0.0.0.0", "0", "file"],
        ["192.0.2.1", "0", "file"],
        ["::", "0", "file"],
        ["nowhere", "0", "file"],
        ["127.0.0.1", "65536", "file"],
        ["127.0.0.1", "", "file"],
        ["127.0.0.1", "http", "file"],
    ],
)
def test_wrong_arguments_give_a_one_line_error_and_exit_code_2(tunnel_command: list[str], arguments: list[str]) -> None:
    result = subprocess.run([*tunnel_command, *arguments], capture_output=True, text=True, timeout=WAIT_S)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("nexus-tunnel: cannot ")
    assert result.stderr.count("\n") == 1


def test_sigterm_ends_the_tunnel_at_once_and_frees_its_port(tunnel: Tunnel) -> None:
    with Target(echo) as target:
        tunnel.point(target)
        tunnel.start()
        with tunnel.connect() as client, tunnel.connect():
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            assert tunnel.stop() == -signal.SIGTERM
            tunnel.start()
            assert tunnel.exchange(b"again") == b"again"


def test_clients_beyond_the_descriptor_limit_wait_in_the_queue(tunnel: Tunnel) -> None:
    with Target(echo) as target, contextlib.ExitStack() as stack:
        tunnel.point(target)
        tunnel.start(descriptors=32)
        clients = [tunnel.connect() for _ in range(30)]
        for client in clients:
            stack.enter_context(client)
            client.sendall(b"x")
        wait_until(lambda: target.accepted == 8, "as many connections as there are descriptors for")
        wait_until(tunnel.is_idle, "the tunnel to be idle")
        assert target.accepted == 8
        for client in clients:
            assert client.recv(1) == b"x"
            client.close()
        assert tunnel.exchange(b"y") == b"y"


def test_tunnel_without_free_descriptors_does_not_busy_loop(tunnel: Tunnel) -> None:
    with Target(echo) as target, tunnel.start().connect() as first:
        tunnel.point(target)
        first.sendall(b"x")
        assert first.recv(1) == b"x"
        before = tunnel.descriptors()
        limits = resource.prlimit(tunnel.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(tunnel.pid, resource.RLIMIT_NOFILE, (before + 1, limits[1]))
        # One of them is accepted and has no descriptor for its target; the other is not even accepted.
        with tunnel.connect() as second, tunnel.connect() as third:
            second.sendall(b"y")
            third.sendall(b"z")
            wait_until(lambda: tunnel.descriptors() == before + 1, "all descriptors in use")
            assert count_awake(tunnel.pid, 40) < 20
            first.sendall(b"still")
            assert first.recv(5) == b"still"
            resource.prlimit(tunnel.pid, resource.RLIMIT_NOFILE, limits)
            assert second.recv(1) == b"y"
            assert third.recv(1) == b"z"


def count_awake(pid: int, samples: int) -> int:
    """In how many samples a process is not asleep; a busy loop is awake in all of them."""
    states: list[str] = []

    def take_sample() -> bool:
        states.append(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
        return len(states) == samples

    wait_until(take_sample, "samples")
    return sum(state != "S" for state in states)


def test_tunnel_never_connects_to_itself(tunnel_command: list[str], tmp_path: Path) -> None:
    """A held client would otherwise get back its own data."""
    (tmp_path / "target").write_text("127.0.0.1 40000\n")
    output = run_in_namespace(
        """
tunnel = subprocess.Popen([*sys.argv[1:], "300"], stdout=subprocess.PIPE)
port = int(tunnel.stdout.readline().rpartition(b":")[2])
try:
    with socket.create_connection(("127.0.0.1", port), 30) as client:
        client.sendall(b"mine")
        try:
            print("heard", client.recv(100))
        except ConnectionResetError:
            print("reset")
    socket.create_server(("127.0.0.1", 40000)).close()  # the tunnel does not hold the port
finally:
    tunnel.kill()
    tunnel.wait()
""",
        *tunnel_command,
        "127.0.0.1",
        "30000",
        str(tmp_path / "target"),
    )
    assert output == "reset\n"


# The choice of the program


def test_tunnel_command_follows_the_environment_else_prefers_the_native_program(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tunnel_module, "__file__", str(tmp_path / "tunnel.py"))
    fallback = [sys.executable, "-I", "-S", str(tmp_path / "tunnel.py")]
    native = tmp_path / "native" / "nexus-tunnel"
    monkeypatch.delenv("NEXUS_RUNTIME_SHIM", raising=False)
    assert find_tunnel_command() == fallback
    monkeypatch.setenv("NEXUS_RUNTIME_SHIM", "native")
    with pytest.raises(FileNotFoundError, match="cannot run the native tunnel"):
        find_tunnel_command()
    native.parent.mkdir()
    native.touch(0o755)
    assert find_tunnel_command() == [str(native)]
    monkeypatch.setenv("NEXUS_RUNTIME_SHIM", "python")
    assert find_tunnel_command() == fallback
    monkeypatch.delenv("NEXUS_RUNTIME_SHIM")
    assert find_tunnel_command() == [str(native)]


def test_found_tunnel_command_works(tmp_path: Path) -> None:
    tunnel = Tunnel(find_tunnel_command(), tmp_path)
    try:
        with Target(echo) as target:
            tunnel.point(target)
            assert tunnel.start(hold_ms=None).exchange(b"it works") == b"it works"
        assert tunnel.stop() == -signal.SIGTERM
    finally:
        tunnel.close()
