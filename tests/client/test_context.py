"""Both clients: why and key of a request, with a daemon that knows contexts and with an older one that does not."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import DeadlineExceeded, FrameDecoder, InvalidArgument, decode_map
from support.contexts import OlderDaemon, RecordingDaemon
from support.daemon import DaemonProcess, short_directory
from support.toy import Count, Hold, Produce, ToyServer

from nexus.client import BlockingClient, Client, ConnectError, ConnectionLost, DaemonTooOld
from nexus.journal.commands import WatchEvents
from nexus.system.commands import Hello, ListSettings, Ping, SetSetting
from nexus.vms.commands import CreateVm, GetVm, ListVms


def started(kind: type[DaemonProcess]) -> Iterator[Any]:
    root = short_directory()
    daemon = kind(root)
    try:
        yield daemon.start()
        assert daemon.stop() == 0
    finally:
        daemon.close()
        shutil.rmtree(root)


@pytest.fixture(scope="module")
def recording() -> Iterator[RecordingDaemon]:
    """A daemon that writes down each context."""
    yield from started(RecordingDaemon)


@pytest.fixture(scope="module")
def older() -> Iterator[OlderDaemon]:
    """A daemon that closes the connection at a context."""
    yield from started(OlderDaemon)


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run a test's coroutine with a timeout."""

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await work

    asyncio.run(bounded())


def test_blocking_client_sends_why_and_key(recording: RecordingDaemon) -> None:
    with BlockingClient(recording.socket_path) as client:
        client.call(CreateVm(name="a"), key="k1", why="w1")
        client.call_raw(CreateVm(name="b"), key="k2")
        client.request(Ping.info.code, why="w2")
        client.batch([SetSetting("c", 1)], key="k3", why="w3")
        client.call(GetVm("a"))
        with client.stream(WatchEvents(follow=False), why="w4") as events:
            assert len([event for event in events if event.kind]) >= 3
        outcomes = dict(client.calls([SetSetting("d", 1), SetSetting("e", 1)], keys=["k5", "k6"], why="w5"))
        assert {index: outcome["key"] for index, outcome in outcomes.items()} == {0: "d", 1: "e"}  # type: ignore[index]
    assert recording.take() == [
        ("CreateVm", "k1", "w1"),
        ("CreateVm", "k2", None),
        ("Ping", None, "w2"),
        ("Batch", "k3", "w3"),
        ("WatchEvents", None, "w4"),
        ("SetSetting", "k5", "w5"),
        ("SetSetting", "k6", "w5"),
    ]


def test_async_client_sends_why_and_key(recording: RecordingDaemon) -> None:
    async def main() -> None:
        async with Client(recording.socket_path) as client:
            assert client.welcome is not None
            assert client.welcome.features == ["context"]
            await client.call(CreateVm(name="async-a"), key="a1", why="w1")
            await client.request(Ping.info.code, why="w2")
            await client.batch([SetSetting("c", 1)], key="a3", why="w3")
            await client.call(GetVm("async-a"))
            async with client.stream(WatchEvents(follow=False), why="w4") as events:
                assert len([event async for event in events]) >= 2

    run(main())
    assert recording.take() == [
        ("CreateVm", "a1", "w1"),
        ("Ping", None, "w2"),
        ("Batch", "a3", "w3"),
        ("WatchEvents", None, "w4"),
    ]


def test_why_of_a_client_is_that_of_every_request_without_another(recording: RecordingDaemon) -> None:
    async def main() -> None:
        async with Client(recording.socket_path, why="all") as client:
            await client.call(Ping())
            await client.call(Ping(), why="own")
            await client.call(SetSetting("c", 1), key="own-a")

    run(main())
    with BlockingClient(recording.socket_path, why="all") as blocking:
        blocking.call(Ping())
        blocking.call(Ping(), why="own")
        blocking.call(SetSetting("c", 1), key="own-b")
    pings = [("Ping", None, "all"), ("Ping", None, "own")]
    assert recording.take() == [*pings, ("SetSetting", "own-a", "all"), *pings, ("SetSetting", "own-b", "all")]


def test_why_of_a_blocking_client_holds_after_a_reconnect(recording: RecordingDaemon) -> None:
    client = BlockingClient(recording.socket_path, why="all")
    for _ in range(2):
        client.connect()
        client.call(Ping())
    client.close()
    assert recording.take() == [("Ping", None, "all")] * 2


@pytest.mark.parametrize("fields", [{"why": ""}, {"why": "é" * 251}, {"why": "a\n"}, {"key": ""}, {"key": "k" * 65}])
def test_clients_refuse_what_the_daemon_would_before_sending(
    recording: RecordingDaemon, fields: dict[str, str]
) -> None:
    (path,) = fields

    async def main() -> None:
        async with Client(recording.socket_path) as client:
            with pytest.raises(InvalidArgument) as caught:
                await client.call(SetSetting("c", 1), **fields)
            assert caught.value.details == {"path": path}

    run(main())
    with BlockingClient(recording.socket_path) as blocking:
        with pytest.raises(InvalidArgument) as caught:
            blocking.call(SetSetting("c", 1), **fields)  # type: ignore[arg-type]
        assert caught.value.details == {"path": path}
    if path == "why":
        for kind in (Client, BlockingClient):
            with pytest.raises(InvalidArgument):
                kind(recording.socket_path, why=fields["why"])
    assert recording.take() == []


def test_calls_send_nothing_if_one_key_is_invalid_or_missing(recording: RecordingDaemon) -> None:
    commands = [SetSetting("unset", 1), SetSetting("unset", 2)]
    with BlockingClient(recording.socket_path) as client:
        with pytest.raises(InvalidArgument):
            list(client.calls(commands, keys=["k", ""]))
        with pytest.raises(ValueError, match="shorter"):
            list(client.calls(commands, keys=["k"]))
        assert "unset" not in {setting.key for setting in client.call(ListSettings()).settings}
    assert recording.take() == []


def test_error_of_a_key_without_effect_comes_from_the_daemon(recording: RecordingDaemon) -> None:
    with BlockingClient(recording.socket_path) as client, pytest.raises(InvalidArgument, match="takes no key"):
        client.call(ListVms(), key="k")


def test_requests_with_and_without_a_context_share_a_connection_with_a_stream(recording: RecordingDaemon) -> None:
    with BlockingClient(recording.socket_path) as client, client.stream(WatchEvents(subject="shared")) as events:
        seen = iter(events)
        for number in range(40):
            client.call(SetSetting("shared", number), why="w" if number % 2 else None)
            while not (event := next(seen)).kind:
                pass
            assert event.subject_id == "shared"
    assert recording.take() == [("SetSetting", None, "w")] * 20


# An older daemon


def test_older_daemon_serves_clients_without_a_context(older: OlderDaemon) -> None:
    async def main() -> None:
        async with Client(older.socket_path, actor="agent") as client:
            assert client.welcome is not None
            assert client.welcome.features == []
            await client.call(Ping())

    run(main())
    with BlockingClient(older.socket_path, actor="agent") as blocking:
        blocking.call(CreateVm(name="plain"))


def test_older_daemon_is_an_error_that_says_what_to_do_and_the_connection_stays(older: OlderDaemon) -> None:
    async def main() -> None:
        async with Client(older.socket_path) as client:
            for fields in ({"why": "w"}, {"key": "k"}):
                with pytest.raises(DaemonTooOld, match="older") as caught:
                    await client.call(SetSetting("never", 1), **fields)
                assert "nexusctl daemon restart" in (caught.value.hint or "")
            with pytest.raises(DaemonTooOld):
                client.stream(WatchEvents(), why="w")
            assert (await client.call(Ping(b"on"))).payload == b"on"

    run(main())
    with BlockingClient(older.socket_path) as blocking:
        attempts: list[Callable[[], object]] = [
            lambda: blocking.call(SetSetting("never", 1), why="w"),
            lambda: blocking.call_raw(SetSetting("never", 1), key="k"),
            lambda: blocking.batch([SetSetting("never", 1)], key="k"),
            lambda: blocking.stream(WatchEvents(), why="w"),
            lambda: list(blocking.calls([SetSetting("never", 1)], keys=["k"])),
        ]
        for attempt in attempts:
            with pytest.raises(DaemonTooOld, match="older") as caught:
                attempt()
            assert "nexusctl daemon restart" in (caught.value.hint or "")
            assert caught.value.feature == "context"
        assert blocking.call(Ping(b"on")).payload == b"on"


def test_client_with_a_why_connects_to_an_older_daemon_and_fails_at_its_first_request(older: OlderDaemon) -> None:
    async def main() -> None:
        async with Client(older.socket_path, why="all") as client:
            with pytest.raises(DaemonTooOld):
                await client.call(Ping())

    run(main())
    with BlockingClient(older.socket_path, why="all") as blocking, pytest.raises(DaemonTooOld):
        blocking.call(Ping())


# The reply to Hello


def test_missing_connection_is_reported_before_the_context(root: Path) -> None:
    with pytest.raises(ConnectError, match="not connected"):
        BlockingClient(root / "none.sock").call(Ping(), why="w")

    async def main() -> None:
        with pytest.raises(ConnectError, match="not connected"):
            await Client(root / "none.sock").call(Ping(), why="w")

    run(main())


def test_first_frame_of_a_client_is_a_hello_that_any_daemon_accepts(root: Path) -> None:
    async def main() -> None:
        with contextlib.suppress(ConnectionLost):
            await Client(root / "first.sock", actor="agent", why="w").connect()

    def blocking() -> None:
        with BlockingClient(root / "first.sock", actor="agent", why="w"):
            pass

    for connect in (blocking, lambda: run(main())):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            (root / "first.sock").unlink(missing_ok=True)
            listener.bind(str(root / "first.sock"))
            listener.listen()
            received: list[bytes] = []

            def read_and_close(listener: socket.socket = listener, received: list[bytes] = received) -> None:
                peer, _ = listener.accept()
                with peer:
                    received.append(peer.recv(65536))

            thread = threading.Thread(target=read_and_close)
            thread.start()
            connect()
            thread.join()
        frames, violation = FrameDecoder(lambda _command: 65536).feed(received[0])
        assert violation is None
        ((command, _, payload, flags),) = frames
        assert (command, flags) == (Hello.info.code, 0)
        assert decode_map(payload).keys() == {"client", "actor"}


def test_deadline_includes_the_wait_for_the_reply_to_hello(root: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as silent:
        silent.bind(str(root / "silent.sock"))
        silent.listen()
        with BlockingClient(root / "silent.sock") as client:
            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds"):
                client.call(Ping(), why="w", timeout_s=0.05)
            with pytest.raises(DeadlineExceeded, match=r"within 0\.05 seconds"):
                list(client.calls([Ping()], why="w", timeout_s=0.05))


def test_rejected_hello_fails_the_request_with_a_context(daemon: DaemonProcess) -> None:
    client = BlockingClient(daemon.socket_path)
    client.actor = "x" * 500  # which a client of another version may not check
    client.connect()
    with pytest.raises(InvalidArgument) as caught:
        client.call(Ping(), why="w")
    assert caught.value.details == {"path": "actor"}


def test_first_request_with_a_context_may_follow_others(toy: ToyServer) -> None:
    toy.release()
    with BlockingClient(toy.path) as client:
        client.call(Produce(1))
        client.call(Count(), key="k")
        outcomes = dict(client.calls([Hold(), Count(), Hold()], why="w"))
        assert len(outcomes) == 3
    assert [(context.key, context.why) for context in toy.contexts].count((None, "w")) == 3


def test_context_of_decides_for_each_command_that_has_none(recording: RecordingDaemon) -> None:
    asked: list[str] = []

    def context_of(info: Any) -> tuple[str | None, str | None]:
        asked.append(info.name)
        return ("w", f"k{len(asked)}") if info.name == "SetSetting" else (None, None)

    with BlockingClient(recording.socket_path) as client:
        client.context_of = context_of
        client.call(Ping())
        list(client.calls([Ping(), SetSetting("c", 1), SetSetting("c", 2)]))
        client.call(SetSetting("c", 3), key="own")
    assert asked == ["Ping", "Ping", "SetSetting", "SetSetting"]
    assert recording.take() == [
        ("SetSetting", "k3", "w"),
        ("SetSetting", "k4", "w"),
        ("SetSetting", "own", None),
    ]
