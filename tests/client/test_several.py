"""``BlockingClient`` with several concurrent requests or streams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from nexus_protocol import DeadlineExceeded, NexusError
from support.daemon import DaemonProcess
from support.toy import Hold, Produce, ToyServer

from nexus.client import BlockingClient
from nexus.journal.commands import WatchEvents
from nexus.vms.commands import CreateVm, GetVm


@pytest.fixture
def client(daemon: DaemonProcess) -> Iterator[BlockingClient]:
    """A connected client."""
    with BlockingClient(daemon.socket_path) as connected:
        yield connected


def test_concurrent_calls_each_have_their_own_outcome(client: BlockingClient) -> None:
    made = dict(client.calls([CreateVm(f"vm-{number}") for number in range(100)]))
    assert sorted(made) == list(range(100))
    assert all(isinstance(vm, dict) and vm["name"] == f"vm-{place}" for place, vm in made.items())
    found = dict(client.calls([GetVm("vm-1"), GetVm("gone"), GetVm("vm-2")]))
    assert isinstance(found[1], NexusError)
    assert found[1].type == "vm.not_found"
    assert [vm["name"] for place, vm in sorted(found.items()) if isinstance(vm, dict)] == ["vm-1", "vm-2"]
    assert list(client.calls([])) == []


def test_timed_out_calls_are_cancelled_and_the_connection_survives(toy: ToyServer) -> None:
    with BlockingClient(toy.path) as client:
        with pytest.raises(DeadlineExceeded):
            list(client.calls([Hold(timeout_ms=60_000), Hold(timeout_ms=60_000), Produce(1)], timeout_s=0.1))
        assert toy.cancelled == 2
        assert client.call(Produce(1)).data == bytes(1)


def test_command_with_a_time_limit_of_its_own_gets_that_of_the_calls_and_each_has_its_answer(toy: ToyServer) -> None:
    with BlockingClient(toy.path) as client:
        outcomes = dict(client.calls([Hold(), Hold(), Produce(1)], timeout_s=0.1))
        assert isinstance(outcomes[0], DeadlineExceeded)
        assert isinstance(outcomes[1], DeadlineExceeded)
        assert isinstance(outcomes[2], dict)


def test_merge_yields_until_all_streams_have_ended(client: BlockingClient) -> None:
    client.call(CreateVm("a"))
    with (
        client.stream(WatchEvents(follow=False)) as everything,
        client.stream(WatchEvents(follow=False, kinds=["vm.*"])) as vms,
    ):
        kinds: dict[int, list[str | None]] = {0: [], 1: []}
        for place, event in client.merge([everything, vms]):
            kinds[place].append(event.kind)
    assert "vm.created" in kinds[0]
    assert [kind for kind in kinds[1] if kind] == ["vm.created"]
