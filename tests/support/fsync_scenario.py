"""A process that writes while fsync of the write-ahead log fails: run as ``python -m support.fsync_scenario``.

It reports the outcome of each write on standard output, and then kills itself with SIGKILL.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

from nexus.store import StoreError, Transaction
from support.raw import wait_until
from support.stores import make_store, put, running, value_of, write_together


def report(name: str, outcome: object) -> None:
    """Print one line of the report."""
    print(f"{name}: {type(outcome).__name__ if isinstance(outcome, StoreError) else outcome}", flush=True)


async def scenario(root: Path, mode: str) -> None:
    """Write before, during and after failing syncs."""
    control = Path(os.environ["FAIL_FSYNC"])
    runs = 0

    def counted(tx: Transaction) -> str:
        nonlocal runs
        runs += 1
        return str(put("first")(tx))

    async with running(make_store(root)) as store:
        report("before", await store.write(put("before")))
        control.write_text(mode)  # noqa: ASYNC240
        first, second = await write_together(store, [counted, put("second")])
        report("first", first)
        report("second", second)
        report("runs", runs)
        if mode == "always":
            report("problem", store.problem())
            try:
                await store.write(put("third"))
            except StoreError as error:
                report("third", error)
            report("read", value_of(store, "before") is not None and value_of(store, "first") is None)
            control.unlink()  # noqa: ASYNC240
            await asyncio.to_thread(wait_until, lambda: store.problem() is None, "the store to recover")
        report("after", await store.write(put("after")))
        report("end", store.problem())
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    asyncio.run(scenario(Path(sys.argv[1]), sys.argv[2]))
