"""What the dispatcher's poll says: the boot of its host, and the state of each run that has a folder there."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from nexus.runtime import Exit

__all__ = ["HostIdentity", "Poll", "RunState", "parse_poll"]

_RUN_LINES = 4


class HostIdentity(NamedTuple):
    """By what a host is known again: a name of ssh may lead to another one later."""

    boot: str
    """The id of its boot, ``-`` where it tells none."""
    address: str | None
    """Its own address, as its sshd was reached."""

    def may_be(self, other: HostIdentity) -> bool:
        """Whether the other one may be the same host: it has the same boot, or was restarted at the same address."""
        has_same_boot = self.boot == other.boot and self.boot != "-"
        return has_same_boot or self.address == other.address or None in (self.address, other.address)


@dataclass(frozen=True)
class RunState:
    """One run there. ``sizes`` are the sizes of its output's files, by their names in its folder."""

    is_alive: bool
    """Whether its runner lives."""
    boot: str
    """The boot in which it was begun."""
    pid: int | None
    """Its main process; None where it was never started."""
    started_at: int
    """When that began (ms), by the clock there."""
    exit: Exit | None
    is_done: bool
    """Whether all of its processes have ended and its output is complete."""
    sizes: dict[str, int] = field(default_factory=dict)


class Poll(NamedTuple):
    """One look at all runs of a host."""

    boot: str
    runs: Mapping[str, RunState]


def parse_poll(text: str) -> Poll:
    """Read the reply to ``poll``; what cannot be understood is left out."""
    lines = text.split("\n")
    boot = lines[0].partition(" ")[2]
    runs: dict[str, RunState] = {}
    number = 1
    while number < len(lines) and lines[number].startswith("run "):
        head, began, ended, finished = [*lines[number : number + _RUN_LINES], "", "", ""][:_RUN_LINES]
        number += _RUN_LINES
        words = head.split()
        if len(words) == 4:
            runs[words[1]] = _state(words[2] == "1", words[3], began.split(), ended.split(), finished.split())
    for line in lines[number:]:
        size, _, path = line.strip().partition(" ")
        run_id, _, name = path.partition("/")
        if run_id in runs and size.isdigit():
            runs[run_id].sizes[name] = int(size)
    return Poll(boot, runs)


def _state(is_alive: bool, boot: str, began: list[str], ended: list[str], finished: list[str]) -> RunState:
    pid, started_at, exit_ = None, 0, None
    with contextlib.suppress(ValueError, IndexError):
        if began[:2] == ["run", "1"]:
            pid, started_at = int(began[3]), int(began[5])
    with contextlib.suppress(ValueError, IndexError):
        if ended[:1] == ["exit"]:
            exit_ = Exit("exit", int(ended[1]), False, int(ended[3]))
        elif ended[:1] == ["signal"]:
            exit_ = Exit("signal", int(ended[1]), ended[2] == "1", int(ended[3]))
    return RunState(is_alive, boot, pid, started_at, exit_, finished[:1] == ["done"])
