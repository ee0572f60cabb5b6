"""Whether a client is a person's: its process is not below one that a job or a service has."""

from __future__ import annotations

from nexus.runtime.members import RUN_ID, strings_of
from nexus.runtime.tree import parent_of, stat_fields

__all__ = ["is_person"]

_DEEPEST = 1000


def is_person(pid: int) -> bool:
    """Whether neither a process nor one of those above it belongs to a run; blocks.

    Each process of a run has the run's id in its environment, unless it clears that; its shim has it in any case. A
    process that has ended, or that cannot be seen from here, is no person's.

    Raises:
        OSError: this process lacks descriptors or memory to look at it.
    """
    if pid <= 0 or stat_fields(pid) is None:
        return False
    for _ in range(_DEEPEST):
        if pid <= 1:
            return True
        texts = (*strings_of(pid, "environ"), *strings_of(pid, "cmdline"))
        if any(text.startswith(RUN_ID) for text in texts):
            return False
        pid = parent_of(pid)
    return False
