"""Whether a client is a person's: its process is not below one that a job or a service has."""

from __future__ import annotations

from nexus.records.errors import LeaseNeedsPerson
from nexus.runtime.members import RUN_ID, strings_of
from nexus.runtime.tree import parent_of, stat_fields

__all__ = ["is_person", "require_person"]

_DEEPEST = 1000
_SHIMS = (b"/nexus-shim", b"/runtime/shim.py")
_PROGRAM_WITHIN = 4
"""The words of a command line that may name a shim: the compiled one is the first, the Python one the fourth."""


def is_person(pid: int) -> bool:
    """Whether neither a process nor one of those above it belongs to a run; blocks.

    Each process of a run has the run's id in its environment, unless it clears that; its shim, which adopts what it
    leaves behind, is above it in any case. A process that has ended, or that cannot be seen from here, is no person's.

    Raises:
        OSError: this process lacks descriptors or memory to look at it.
    """
    if pid <= 0 or stat_fields(pid) is None:
        return False
    for _ in range(_DEEPEST):
        if pid <= 1:
            return True
        if any(text.startswith(RUN_ID) for text in strings_of(pid, "environ")):
            return False
        if any(text.endswith(_SHIMS) for text in strings_of(pid, "cmdline")[:_PROGRAM_WITHIN]):
            return False
        pid = parent_of(pid)
    return False


def require_person(pid: int, cannot: str) -> None:
    """Refuse to take a lease from its holder for a client that is below a job or a service; blocks.

    Raises:
        LeaseNeedsPerson: it is, or its process has ended or cannot be looked at.
    """
    try:
        found = is_person(pid)
    except OSError:
        found = False
    if not found:
        raise LeaseNeedsPerson(
            f"{cannot}: a person takes a lease from its holder, and this client is of a job or a service",
            hint="Leave it to its holder, or ask a person to do it in a terminal of their own.",
        )
