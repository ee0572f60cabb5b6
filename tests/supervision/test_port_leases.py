"""Port leases: one owner a port, one port an owner and purpose, in the transaction of the record."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.stores import make_store, running

from nexus.store import Reader, StoreConflict, Transaction
from nexus.supervision.port_leases import PortLeases
from nexus.supervision.store import LeaseOwner, lease, lease_of_port, leased_ports, release, release_all

WEB = LeaseOwner("service", "web", "run")
DB = LeaseOwner("service", "db", "run")
DB_TUNNEL = LeaseOwner("service", "db", "tunnel")


def test_a_port_has_one_owner_and_an_owner_one_port(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            await store.write(lambda tx: lease(tx, WEB, 4000))
            await store.write(lambda tx: lease(tx, WEB, 4000))
            with pytest.raises(StoreConflict):
                await store.write(lambda tx: lease(tx, DB, 4000))
            await store.write(lambda tx: lease(tx, WEB, 4001))
            assert store.read(lambda reader: lease_of_port(reader, 4000)) is None
            assert store.read(lambda reader: lease_of_port(reader, 4001)) == WEB
            await store.write(lambda tx: lease(tx, DB, 4000))
            await store.write(lambda tx: lease(tx, DB_TUNNEL, 4002))
            assert store.read(lambda reader: leased_ports(reader, WEB)) == {4000, 4002}
            await store.write(lambda tx: release_all(tx, "service", "db"))
            assert store.read(lambda reader: leased_ports(reader, WEB)) == set()

    asyncio.run(scenario())


def test_a_refused_lease_leaves_the_owners_own_as_it_was(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            await store.write(lambda tx: lease(tx, WEB, 4000))
            await store.write(lambda tx: lease(tx, DB, 4001))
            with pytest.raises(StoreConflict):
                await store.write(lambda tx: lease(tx, DB, 4000))
            assert store.read(lambda reader: lease_of_port(reader, 4001)) == DB

    asyncio.run(scenario())


steps = st.lists(st.tuples(st.sampled_from([WEB, DB, DB_TUNNEL]), st.integers(1, 3) | st.none()), max_size=20)


@given(steps)
def test_leases_are_what_a_table_by_owner_without_duplicates_says(steps: list[tuple[LeaseOwner, int | None]]) -> None:
    import sqlite3
    import tempfile

    from nexus.store.sqlite import SqliteStore
    from nexus.store.writer import Numbers, SqliteTransaction

    with tempfile.TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder) / "nexus.db", Path(folder) / "backups")
        store.init()
        store.close_now()
        connection = sqlite3.connect(Path(folder) / "nexus.db")
        tx: Any = SqliteTransaction(connection, 1, Numbers(b"k" * 32))
        expected: dict[LeaseOwner, int] = {}
        for owner, port in steps:
            if port is None:
                release(tx, owner)
                expected.pop(owner, None)
            elif port in {other for each, other in expected.items() if each != owner}:
                with pytest.raises(StoreConflict):
                    lease(tx, owner, port)
            else:
                lease(tx, owner, port)
                expected[owner] = port
            assert {each: lease_of_port(tx, at) for each, at in expected.items()} == {each: each for each in expected}
            assert leased_ports(tx, LeaseOwner("", "", "")) == set(expected.values())
        connection.close()


def test_a_free_port_is_neither_leased_declared_avoided_nor_listened_on(root: Path) -> None:
    async def scenario() -> None:
        async with running(make_store(root)) as store:
            ports = PortLeases(store)
            free = await ports.find_free(WEB, None)
            assert await ports.find_free(WEB, free) == free
            assert await ports.find_free(WEB, free, {free}) != free

            def hold(tx: Transaction) -> None:
                lease(tx, DB, free)

            await store.write(hold)
            assert await ports.find_free(DB, free) == free, "its own lease is no obstacle"
            assert await ports.find_free(WEB, free) != free
            await store.write(lambda tx: release(tx, DB))

            def declared(_reader: Reader, owner: LeaseOwner) -> set[int]:
                return set() if owner == DB else {free}

            ports.avoid_declared(declared)
            assert await ports.find_free(DB, free) == free
            assert await ports.find_free(WEB, free) != free
            with socket.create_server(("127.0.0.1", free)):
                assert await ports.find_free(DB, free) != free

    asyncio.run(scenario())
