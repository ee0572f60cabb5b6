"""The budgets as objects: accounts of several connections without any socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from nexus_protocol import ResourceExhausted

from nexus.config import Limits
from nexus.daemon.budgets import Budgets, ReceiveAccount

KIB, MIB = 1024, 1024 * 1024
FREE = 64 * KIB


class _Rechecks:
    """Counts the calls of ``on_receive_room``."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs only when the test says so."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


@pytest.fixture
def rechecks() -> _Rechecks:
    """The ``on_receive_room`` of ``budgets``."""
    return _Rechecks()


@pytest.fixture
def budgets(loop: asyncio.AbstractEventLoop, rechecks: _Rechecks) -> Budgets:
    """Budgets of 1 MiB each way."""
    return Budgets(Limits(receive_budget_bytes=MIB, send_budget_bytes=MIB), loop, rechecks)


def _turn(loop: asyncio.AbstractEventLoop) -> None:
    loop.run_until_complete(asyncio.sleep(0))


def test_send_budget_is_spent_only_above_the_limit_and_follows_a_changed_limit(budgets: Budgets) -> None:
    budgets.unsent_bytes = MIB
    assert not budgets.send_budget_spent()
    budgets.unsent_bytes += 1
    assert budgets.send_budget_spent()
    budgets.limits = Limits(send_budget_bytes=2 * MIB)
    assert not budgets.send_budget_spent()


def test_recheck_wakes_present_waiters_and_not_later_ones(budgets: Budgets, loop: asyncio.AbstractEventLoop) -> None:
    tasks = [loop.create_task(budgets.wait_for_recheck()) for _ in range(3)]
    _turn(loop)
    budgets.recheck()
    _turn(loop)
    _turn(loop)
    assert all(task.done() for task in tasks)
    late = loop.create_task(budgets.wait_for_recheck())
    _turn(loop)
    _turn(loop)
    assert not late.done()
    budgets.recheck()
    loop.run_until_complete(late)


def test_large_replies_are_produced_four_at_a_time(budgets: Budgets, loop: asyncio.AbstractEventLoop) -> None:
    for _ in range(4):
        loop.run_until_complete(budgets.large_replies.acquire())
    assert budgets.large_replies.locked()


def test_account_adds_up_to_the_received_bytes_of_all_connections(budgets: Budgets) -> None:
    first, second = ReceiveAccount(budgets), ReceiveAccount(budgets)
    first.set_received(1000)
    second.set_received(500)
    first.set_received(200)
    second.add_input(50)
    assert (budgets.received_bytes, budgets.input_bytes) == (750, 50)
    assert (first.received_bytes, second.received_bytes, second.input_bytes) == (200, 500, 50)
    first.set_received(0)
    second.set_received(0)
    second.add_input(-50)
    assert (budgets.received_bytes, budgets.input_bytes) == (0, 0)


def test_account_with_free_bytes_alone_may_always_receive(budgets: Budgets) -> None:
    hog, small = ReceiveAccount(budgets), ReceiveAccount(budgets)
    hog.set_received(2 * MIB)
    assert budgets.receive_budget_spent()
    small.set_received(FREE)
    assert small.may_receive()


def test_account_above_the_free_bytes_may_receive_until_the_budget_is_spent(budgets: Budgets) -> None:
    account = ReceiveAccount(budgets)
    account.set_received(MIB)
    assert account.may_receive()
    other = ReceiveAccount(budgets)
    other.set_received(FREE + 1)
    assert other.may_receive(), "one of them is exempt"
    assert not account.may_receive()


def test_exemption_is_for_one_connection_until_it_holds_only_free_bytes(
    budgets: Budgets, loop: asyncio.AbstractEventLoop, rechecks: _Rechecks
) -> None:
    accounts = [ReceiveAccount(budgets) for _ in range(3)]
    for account in accounts:
        account.set_received(MIB)
    assert [account.may_receive() for account in accounts] == [True, False, False]
    accounts[0].set_received(3 * MIB)
    assert [account.may_receive() for account in accounts] == [True, False, False]
    accounts[1].set_received(0)
    _turn(loop)
    assert rechecks.count == 0, "another connection has no exemption to end"
    accounts[0].set_received(FREE)
    assert rechecks.count == 0
    _turn(loop)
    assert rechecks.count == 1, "in a later turn of the loop"
    accounts[0].set_received(2 * MIB)
    assert [account.may_receive() for account in reversed(accounts)] == [True, True, False]


def test_input_within_the_free_bytes_is_taken_even_if_the_budget_is_spent(budgets: Budgets) -> None:
    hog, small = ReceiveAccount(budgets), ReceiveAccount(budgets)
    hog.add_input(MIB)
    small.check_input(FREE)
    small.add_input(FREE)
    with pytest.raises(ResourceExhausted) as caught:
        small.check_input(1)
    assert caught.value.details == {"limit": MIB}
    hog.add_input(-MIB)
    small.check_input(MIB - FREE)


def test_input_counts_in_the_receive_budget_and_does_not_stop_the_reading_of_its_connection(budgets: Budgets) -> None:
    account, other = ReceiveAccount(budgets), ReceiveAccount(budgets)
    account.add_input(MIB)
    other.set_received(FREE + 1)
    assert budgets.receive_budget_spent()
    assert account.may_receive()
