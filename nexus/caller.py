"""The client that a change is recorded for."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Caller"]


class Caller(NamedTuple):
    """The client of a request: its credentials as the kernel reports them, and the actor that it named in Hello.

    The daemon itself is the caller of what no client requested.
    """

    uid: int
    pid: int
    actor: str | None
