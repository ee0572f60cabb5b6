"""When the garbage collector of Python runs, which stops the event loop meanwhile.

Not at all during the start, when nearly all that is made stays for life.

A full collection takes some 0.3 ms for each 1,000 objects that live long, and finds little: only objects in cycles that
were forgotten after they had lived for long. It is made once an hour, or after much work, instead of whenever the
number of objects has grown by a quarter.
"""

from __future__ import annotations

import gc
import time

__all__ = ["INTERVAL_S", "Collector"]

INTERVAL_S = 60.0
"""Between two calls of ``Collector.tick``."""
_YOUNG, _MIDDLE, _NEVER = 2000, 5, 1_000_000_000
"""Objects until a collection of the youngest, such collections until one of the middle generation, and so on."""
_DUE_MIDDLE = 1000
"""Collections of the middle generation, each after some 10,000 more objects, until a full one is due."""
_DUE_S = 3600.0


class Collector:
    """Makes the full collections, from the moment that it is made."""

    def __init__(self) -> None:
        gc.freeze()  # what was made so far stays for life
        gc.set_threshold(_YOUNG, _MIDDLE, _NEVER)
        gc.enable()
        self._last = time.monotonic()

    def tick(self, *, idle: bool) -> None:
        """Make a full collection if one is due; ``idle`` is whether no request is at work.

        One that is due twice as long waits for that no longer.
        """
        due = max(gc.get_count()[2] / _DUE_MIDDLE, (time.monotonic() - self._last) / _DUE_S)
        if due >= (1 if idle else 2):
            gc.collect()
            self._last = time.monotonic()
