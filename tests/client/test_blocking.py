"""``BlockingClient``: calls, errors, streams, deadlines, Ctrl-C, and lost connections."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from nexus_protocol import (
    Conflict,
    DeadlineExceeded,
    FailedPrecondition,
    FrameTooLarge,
    Internal,
    InvalidArgument,
    NexusError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    UnknownCommand,
)
from support.daemon import DaemonProcess
from support.raw import wait_until
from support.toy import Break, Deaf, Echo, Hold, Produce, Swallow, ToyServer

from nexus.client import BlockingClient, Client, ConnectError, ConnectionFailure, ConnectionLost, Interrupted
from nexus.journal.commands import JournalAhead, WatchEvents
from nexus.system.commands import BackupDatabase, GetSetting, GetSystemStatus, Ping, SetSetting, SettingNotFound
from nexus.vms.commands import CreateVm, GetVm, ListVms, Vm, VmNameTaken, VmNotFound


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A connected client."""
    with BlockingClient(daemon.socket_path) as connected:
        yield connected


@pytest.fixture
def toys(toy: ToyServer) -> Iterator[BlockingClient]:
    """A client of the toy server."""
    with BlockingClient(toy.path) as connected:
        yield connected


@contextmanager
def interrupted_once(condition: Callable[[], object]) -> Iterator[None]:
    """Send SIGINT to this process as soon as the condition holds."""

    def press() -> None:
        wait_until(condition, "the condition to interrupt at")
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=press)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_call_returns_the_record(client: BlockingClient) -> None:
    vm = client.call(CreateVm(name="web"))
    assert isinstance(vm, Vm)
    assert (vm.name, vm.cid, vm.state.value) == ("web", 3, "created")
    assert client.call(GetVm("web")) == vm
    assert client.call(ListVms()).vms == [vm]
    assert client.call_raw(GetVm("web"))["name"] == "web"
    assert client.call(Ping(b"x")).payload == b"x"


@pytest.mark.parametrize(
    ("command", "kinds"),
    [
        (GetVm("none"), (VmNotFound, NotFound)),
        (CreateVm(name="taken"), (VmNameTaken, Conflict)),
        (CreateVm(name="not a name"), (InvalidArgument,)),
        (GetSetting("none"), (SettingNotFound, NotFound)),
        (BackupDatabase(path="relative"), (InvalidArgument,)),
    ],
)
def test_errors_are_raised_as_their_own_class(
    client: BlockingClient, command: object, kinds: tuple[type[NexusError], ...]
) -> None:
    client.call(CreateVm(name="taken"))
    with pytest.raises(kinds[0]) as caught:
        client.call(command)  # type: ignore[arg-type]
    assert all(isinstance(caught.value, kind) for kind in kinds)
    assert caught.value.code == kinds[-1].code
    assert client.call(Ping()).payload == b""  # the connection is still open


def test_unexpected_error_is_internal_without_its_message(toys: BlockingClient) -> None:
    with pytest.raises(Internal) as caught:
        toys.call(Break())
    assert "words for the log" not in str(caught.value)
    with pytest.raises(UnknownCommand):
        toys.request(0xEFFF)


def test_stream_error_is_raised_while_iterating(client: BlockingClient) -> None:
    with client.stream(WatchEvents(after=99)) as events, pytest.raises(JournalAhead) as caught:
        next(iter(events))
    assert isinstance(caught.value, FailedPrecondition)
    assert caught.value.details["newest_seq"] == 0
    assert client.call(Ping(b"on")).payload == b"on"


def test_stream_ends_with_its_result(client: BlockingClient) -> None:
    for name in ("a", "b"):
        client.call(CreateVm(name=name))
    with client.stream(WatchEvents(follow=False)) as events:
        with pytest.raises(RuntimeError, match="has not ended"):
            _ = events.result
        assert [event.subject_name for event in events if event.kind] == ["a", "b"]
        assert events.result.seq == 2


def test_calls_work_while_a_stream_is_open(client: BlockingClient) -> None:
    with client.stream(WatchEvents()) as events:
        seen = iter(events)
        for number in range(1, 20):
            client.call(CreateVm(name=f"vm-{number}"))
            assert next(seen).seq == number


def test_closing_a_stream_cancels_it_in_the_daemon(client: BlockingClient) -> None:
    before = client.call(GetSystemStatus()).open_requests
    with client.stream(WatchEvents()):
        assert client.call(GetSystemStatus()).open_requests == before + 1
    assert client.call(GetSystemStatus()).open_requests == before


def test_wrong_kind_of_command_is_a_type_error(client: BlockingClient) -> None:
    with pytest.raises(TypeError, match="use stream"):
        client.call(WatchEvents())
    with pytest.raises(TypeError, match="use call"):
        client.stream(Ping())  # type: ignore[arg-type]


def test_stream_input_is_echoed(toys: BlockingClient) -> None:
    data = os.urandom(1 << 20)  # more than the credit
    back: list[bytes] = []
    with toys.stream(Echo()) as echo:
        for start in range(0, len(data), 100_000):
            echo.send(data[start : start + 100_000])
        echo.send(control={"rows": 24})
        echo.send(eof=True)
        for item in echo:
            if item.data is not None:
                back.append(item.data)
            else:
                assert item.control == {"rows": 24}
        assert echo.result.size_bytes == len(data)
    assert b"".join(back) == data


def test_deadline_cancels_the_request(toy: ToyServer, toys: BlockingClient) -> None:
    with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds"):
        toys.call(Hold(), timeout_s=0.05)
    assert (toy.holding, toy.cancelled) == (0, 1)
    assert toys.call(Produce(3), timeout_s=30).data == bytes(3)  # the connection is still usable


def test_ctrl_c_cancels_the_request_and_reports_its_outcome(toy: ToyServer, toys: BlockingClient) -> None:
    with pytest.raises(Interrupted) as caught, interrupted_once(lambda: toy.holding):
        toys.call(Hold())
    assert isinstance(caught.value, KeyboardInterrupt)
    assert isinstance(caught.value.outcome, NexusError)
    assert caught.value.outcome.code == "cancelled"
    assert toy.cancelled == 1
    assert toys.call(Produce(1)).data == bytes(1)


def test_missing_daemon_raises_connect_error(root: Path) -> None:
    client = BlockingClient(root / "none.sock")
    with pytest.raises(ConnectError, match="cannot connect to Nexus daemon at") as caught:
        client.connect()
    assert caught.value.hint == "The daemon does not appear to be running."
    assert isinstance(caught.value, ConnectionError)
    with pytest.raises(ConnectError, match="not connected"):
        client.call(Ping())
    with pytest.raises(ConnectError, match="too long"):
        BlockingClient("/" + "x" * 200).connect()
    with pytest.raises(ConnectError):
        BlockingClient(root).connect()


def test_killed_daemon_fails_the_pending_call(daemon: DaemonProcess, client: BlockingClient) -> None:
    client.call(Ping())
    daemon.signal(signal.SIGSTOP)
    killer = threading.Thread(target=daemon.kill)
    killer.start()
    with pytest.raises(ConnectionLost, match="was lost") as caught:
        client.call(ListVms())
    killer.join()
    assert "nexusctl daemon status" in (caught.value.hint or "")
    with pytest.raises(ConnectionFailure):
        client.call(Ping())
    # The client does not reconnect on its own.
    daemon.start()
    with pytest.raises(ConnectionFailure):
        client.call(Ping())
    client.connect()
    assert client.call(Ping(b"again")).payload == b"again"


def test_killed_daemon_fails_the_open_stream(daemon: DaemonProcess, client: BlockingClient) -> None:
    client.call(CreateVm(name="a"))
    with client.stream(WatchEvents()) as events:
        seen = iter(events)
        assert next(seen).seq == 1
        daemon.kill()
        with pytest.raises(ConnectionLost):
            next(seen)


def test_stopping_daemon_says_where_a_stream_resumes(daemon: DaemonProcess, client: BlockingClient) -> None:
    client.call(CreateVm(name="a"))
    with client.stream(WatchEvents()) as events:
        seen = iter(events)
        next(seen)
        daemon.signal(signal.SIGTERM)
        with pytest.raises(Unavailable) as caught:
            next(seen)
    assert caught.value.details["resume_after"] == 1


def test_error_frame_before_close_is_raised(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(connections=1)
    with BlockingClient(toy.path) as first:
        first.call(Produce(1))
        second = BlockingClient(toy.path)
        second.connect()
        with pytest.raises(ResourceExhausted, match="more than 1 connections"):
            second.call(Produce(1))
        with pytest.raises(ResourceExhausted):
            second.call(Produce(1))  # the reason is kept
        first.close()
        wait_until(lambda: toy.server.connections() == 0, "the connection to be closed")
        second.connect()
        assert second.call(Produce(2)).data == bytes(2)
        second.close()


def test_error_frame_is_read_after_epipe(make_toy: Callable[..., ToyServer]) -> None:
    toy = make_toy(max_frame_payload_bytes=64 * 1024)
    with BlockingClient(toy.path) as client, pytest.raises(FrameTooLarge):
        client.call(Swallow(bytes(8 << 20)))  # refused when its header is read, with megabytes still to be written


def test_large_requests_and_replies_fit(toys: BlockingClient) -> None:
    assert toys.call(Swallow(bytes(4 << 20))).size_bytes == 4 << 20
    assert len(toys.call(Produce(8 << 20)).data) == 8 << 20


def test_unread_stream_does_not_block_other_clients(toy: ToyServer, toys: BlockingClient) -> None:
    with toys.stream(Deaf()), BlockingClient(toy.path) as other:
        assert other.call(Produce(5)).data == bytes(5)


def test_actor_is_recorded_in_the_journal(daemon: DaemonProcess) -> None:
    with BlockingClient(daemon.socket_path, actor="agent-7") as client:
        client.call(CreateVm(name="a"))
        client.call(SetSetting("k", 1))
        with client.stream(WatchEvents(follow=False)) as events:
            assert {event.actor for event in events if event.kind} == {"agent-7"}


def test_closed_client_leaves_no_descriptor(daemon: DaemonProcess) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(50):
        with BlockingClient(daemon.socket_path) as client:
            client.call(Ping())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_default_socket_is_the_one_of_nexusctl(daemon: DaemonProcess) -> None:
    script = "from nexus.client import BlockingClient; print(BlockingClient().socket_path)"
    done = subprocess.run(
        [sys.executable, "-c", script], env=daemon.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{daemon.socket_path}\n"
    other = subprocess.run(
        [sys.executable, "-c", script],
        env=daemon.environment | {"NEXUS_SOCKET": "/tmp/other.sock"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert other.stdout == "/tmp/other.sock\n"


def test_server_of_another_protocol_is_detected(root: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(root / "web.sock"))
    listener.listen()

    def answer() -> None:
        peer, _ = listener.accept()
        with peer:
            peer.recv(65536)
            peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        with BlockingClient(root / "web.sock") as client, pytest.raises((NexusError, ConnectionFailure)):
            client.call(Ping())
    finally:
        thread.join()
        listener.close()


def test_full_accept_queue_is_waited_for_and_then_reported(root: Path) -> None:
    blocking, other = BlockingClient(root / "full.sock"), Client(root / "full.sock")
    blocking.connect_timeout_s, other.connect_timeout_s = 1.0, 0.1
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(root / "full.sock"))
        listener.listen(0)
        first.connect(str(root / "full.sock"))
        with pytest.raises(ConnectError, match="too many clients"):
            blocking.connect()
        with pytest.raises(ConnectError, match="too many clients"):
            asyncio.run(other.connect())
