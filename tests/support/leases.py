"""Leases that a test grants itself, in the database of a daemon that does not run: no command grants one alone."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from nexus_protocol import Effect
from nexus_protocol.context import HeldLease
from nexus_protocol.events import declared_cause
from nexus_protocol.frame import HEADER_SIZE

from nexus.caller import Caller
from nexus.client import BlockingClient
from nexus.journal.operation import Operation
from nexus.ledger.leases.records import Lease
from nexus.ledger.leases.store import grant
from nexus.ledger.states import OnLost
from nexus.records.scope import DEFAULT_ID
from nexus.store import Transaction
from nexus.store.sqlite import SqliteStore
from nexus.system.commands import Describe
from support.stores import running

__all__ = ["TASK", "changing_requests", "granted", "held", "operation", "written"]

T = TypeVar("T")

TASK = "11111111-1111-4111-8111-111111111111"
"""The id of what the leases are on."""
_VECTORS = Path(__file__).parents[2] / "protocol" / "vectors" / "good.json"


def changing_requests(client: BlockingClient) -> list[tuple[str, int, bytes]]:
    """For each command of a daemon that changes something, its name, its code, and a payload of the vectors."""
    found: dict[int, bytes] = {}
    for vector in json.loads(_VECTORS.read_text()):
        frame = bytes.fromhex(vector["hex"]) if vector.get("kind") == "request" and "hex" in vector else b""
        if frame[HEADER_SIZE - 2 : HEADER_SIZE] == b"\0\0":
            found.setdefault(vector["code"], frame[HEADER_SIZE:])
    commands = client.call(Describe()).commands
    return [(each.name, each.code, found[each.code]) for each in commands if each.effect is not Effect.READ]


def operation() -> Operation:
    """An operation of the test."""
    return Operation(Caller(os.getuid(), os.getpid(), "test"), declared_cause("lease.expired"))


def written(database: Path, change: Callable[[Transaction], T]) -> T:
    """Carry out a write in a database that no daemon uses."""

    async def write() -> T:
        async with running(SqliteStore(database, database.parent / "backups")) as store:
            return await store.write(change)

    return asyncio.run(write())


def granted(database: Path, **fields: Any) -> Lease:
    """Grant a lease in a database that no daemon uses."""
    given = {
        "kind": "test",
        "resource_id": TASK,
        "project_id": DEFAULT_ID,
        "holder": str(uuid.uuid4()),
        "ttl_ms": 120_000,
        "on_lost": OnLost.STOP,
        **fields,
    }
    return written(database, lambda tx: grant(tx, operation(), **given))


def held(lease: Lease) -> HeldLease:
    """The lease as its holder presents it."""
    return HeldLease(lease.id, lease.epoch)
