"""Signals that the event loop answers, and that end as ignored ones."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable
from types import FrameType

__all__ = ["SignalCalls"]


class SignalCalls:
    """Calls that the loop makes when a signal arrives, until ``close`` has the process ignore these signals.

    ``loop.add_signal_handler`` does not do here: when the loop closes it gives the signals their default action, which
    kills a process in its last steps. A mask does not keep that away, because a signal that the main thread blocks is
    delivered to any other thread that still runs (signal(7)). Signals that are ignored stay so until the process ends:
    Python gives only handlers of its own the default action at its end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._calls: dict[int, Callable[[], object]] = {}
        # Where another thread receives the signal, its number in this pair wakes the loop, and Python runs the handler.
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)
        loop.add_reader(self._woken, self._wake)
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)

    def call(self, number: signal.Signals, call: Callable[[], object]) -> None:
        """Make ``call`` in the loop for each signal of this number, from the main thread of the process."""
        self._calls[number] = call
        signal.signal(number, self._received)

    def close(self) -> None:
        """Ignore the signals from here on."""
        for number in self._calls:
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._loop.remove_reader(self._woken)
        self._woken.close()
        self._waker.close()

    def _received(self, number: int, _frame: FrameType | None) -> None:
        self._loop.call_soon_threadsafe(self._calls[number])

    def _wake(self) -> None:
        try:
            self._woken.recv(4096)
        except BlockingIOError:
            pass
