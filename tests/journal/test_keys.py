"""Requests under keys that meet while they are at work, and acts that end without a durable write of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from nexus_protocol import Empty
from nexus_protocol.command import Repeat
from support.operations import TESTER
from support.stores import contents, make_store, running

import nexus.journal.commands  # noqa: F401 - it declares the kinds of events
from nexus.journal.keys import OpenRequests, RequestKeyReused, RequestOutcomeUnknown, under_key
from nexus.journal.operation import Operation, RequestKey
from nexus.journal.rows import Subject, record
from nexus.store import Transaction
from nexus.store.sqlite import SqliteStore

ACT, CHANGE = b"an act", b"a change"


def keyed(content: bytes) -> Operation:
    """An operation of a request under the key of all requests here."""
    return Operation(TESTER, "Test", key=RequestKey("k", lambda _reader: content))


async def change(store: SqliteStore, requests: OpenRequests) -> Any:
    """Carry out a change that changes nothing."""
    operation = keyed(CHANGE)
    with requests.change(operation.key):
        return (await store.write(lambda tx: under_key(tx, operation, Empty)))[0]


async def act(store: SqliteStore, requests: OpenRequests, repeat: Repeat, does: Callable[[], Awaitable[Any]]) -> Any:
    """Carry out an act."""
    return await requests.act(store, keyed(ACT), repeat, does)


async def nothing() -> Empty:
    return Empty()


@pytest.mark.parametrize("repeat", Repeat)
def test_change_and_act_do_not_share_a_key(root: Path, repeat: Repeat) -> None:
    """Whichever is at work refuses the other, also before its first durable write."""

    async def scenario() -> None:
        async with running(make_store(root)) as store:
            requests = OpenRequests()

            async def meanwhile() -> Empty:
                with pytest.raises(RequestKeyReused):
                    await change(store, requests)
                return Empty()

            assert await act(store, requests, repeat, meanwhile) == Empty()
            with pytest.raises(RequestKeyReused):
                await change(store, requests)

        async with running(make_store(root / "other")) as store:
            requests = OpenRequests()
            changing = asyncio.create_task(change(store, requests))
            await asyncio.sleep(0)
            with pytest.raises(RequestKeyReused):
                await act(store, requests, repeat, nothing)
            assert await changing == Empty()
            with pytest.raises(RequestKeyReused):
                await act(store, requests, repeat, nothing)

    asyncio.run(scenario())


def test_act_that_is_not_repeated_has_its_key_before_it_acts(root: Path) -> None:
    """An act that writes nothing itself, such as a backup or a command of a plugin, is not carried out twice either."""

    async def scenario() -> None:
        async with running(make_store(root)) as store:
            begins = asyncio.Event()

            async def for_ever() -> None:
                begins.set()
                await asyncio.Event().wait()

            for number in range(2):
                begun = asyncio.create_task(act(store, OpenRequests(), Repeat.REFUSE, for_ever))
                if number:
                    with pytest.raises(RequestOutcomeUnknown) as raised:
                        await begun
                else:
                    await begins.wait()
                    assert [row["state"] for row in contents(store.path)["request_key"]] == ["open"]
                    begun.cancel()
                    with pytest.raises(asyncio.CancelledError):
                        await begun
        assert [row["id"] for row in contents(store.path)["operation"]] == [raised.value.details["operation"]]

    asyncio.run(scenario())


@pytest.mark.parametrize("repeat", Repeat)
def test_act_that_failed_leaves_an_operation_only_if_it_had_an_effect(root: Path, repeat: Repeat) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            operation = keyed(ACT)

            def effect(tx: Transaction) -> None:
                record(tx, operation, "database.restored", Subject("database", "test", None, None), {})

            async def refused() -> None:
                raise ValueError("refused")

            async def half() -> None:
                await store.write(effect)
                raise ValueError("refused")

            for does, operations in ((refused, 0), (half, 1)):
                with pytest.raises(ValueError, match="refused"):
                    await OpenRequests().act(store, operation, repeat, does)
                found = contents(store.path)
                assert (len(found["operation"]), found["request_key"]) == (operations, [])
                await store.write(effect)
                found = contents(store.path)
                assert [row["id"] for row in found["operation"]] == [operation.id]
                assert {row["operation_id"] for row in found["journal"]} == {operation.id}
                assert found["request_key"] == [], "what goes on after the failure does not open the key again"
                operation = keyed(ACT)
                await store.write(lambda tx: [tx.execute(f"DELETE FROM {name}") for name in ("journal", "operation")])

    asyncio.run(scenario())
