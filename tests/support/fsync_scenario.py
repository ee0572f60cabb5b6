"""A process whose disk fails to sync the write-ahead log, on command: run as ``python -m support.fsync_scenario``.

It says on standard output what became of each write, and ends by kill -9 with whatever its files hold at that moment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from nexus.store import StoreError, Transaction
from support.raw import wait_until
from support.stores import behind, make_store, put, running, value_of


def say(what: str, outcome: object) -> None:
    """One line of the report."""
    print(f"{what}: {type(outcome).__name__ if isinstance(outcome, StoreError) else outcome}", flush=True)


async def scenario(root: Path, mode: str) -> None:
    """Write before, while and after syncing fails."""
    control = Path(os.environ["FAIL_FSYNC"])
    runs = 0

    def counted(tx: Transaction) -> str:
        nonlocal runs
        runs += 1
        return str(put("first")(tx))

    async with running(make_store(root)) as store:
        say("before", await store.write(put("before")))
        control.write_text(mode)  # noqa: ASYNC240
        first, second = await behind(store, [counted, put("second")])
        say("first", first)
        say("second", second)
        say("runs", runs)
        if mode == "always":
            say("problem", store.problem())
            try:
                await store.write(put("third"))
            except StoreError as error:
                say("third", error)
            say("read", value_of(store, "before") is not None and value_of(store, "first") is None)
            control.unlink()  # noqa: ASYNC240
            await asyncio.to_thread(wait_until, lambda: store.problem() is None, "the store to recover")
        say("after", await store.write(put("after")))
        say("end", store.problem())
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(scenario(Path(sys.argv[1]), sys.argv[2]))
