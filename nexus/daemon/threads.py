"""The threads of ``asyncio.to_thread``: their work cannot be cancelled, and must not delay the daemon's end."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

__all__ = ["StoppableExecutor", "exit_despite_threads"]

_log = logging.getLogger("nexus.daemon")

_END_S = 2.0
"""How long the daemon's end waits for calls that a disk or a FIFO holds up."""


class StoppableExecutor(ThreadPoolExecutor):
    """A thread pool whose shutdown waits for two seconds at most; calls that have not begun are dropped."""

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        super().shutdown(wait=False, cancel_futures=True)
        ends_at = time.monotonic() + _END_S
        for thread in list(self._threads):
            thread.join(max(ends_at - time.monotonic(), 0))


def exit_despite_threads(code: int) -> int:
    """Give the exit code back, or end the process with it at once if a thread still runs, which Python would join."""
    if any(thread is not threading.current_thread() and not thread.daemon for thread in threading.enumerate()):
        _log.warning("ending without the threads that still wait for a file")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code
