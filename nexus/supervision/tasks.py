"""How tasks are ended here, where a write that is under way is always seen to its end."""

from __future__ import annotations

import asyncio
from typing import Any

__all__ = ["cancel_and_wait"]

_AGAIN_S = 0.01


async def cancel_and_wait(*tasks: asyncio.Task[Any] | None) -> None:
    """Cancel tasks and wait for their ends.

    A cancellation that meets a write which has begun ends with that write, and the task goes on: so it is cancelled
    again, until it has ended.
    """
    left = {task for task in tasks if task is not None and not task.done()}
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=_AGAIN_S)
