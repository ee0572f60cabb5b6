"""What a probe of a host says: its capabilities, and what jobs there lack."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

from nexus.remote.errors import explain_problem

__all__ = ["Probe", "limits_of", "parse_probe"]

_VERSION = re.compile(r"\d+(?:\.\d+)+[A-Za-z0-9._+-]*|\bv?\d+\b")


class Probe(NamedTuple):
    """What the dispatcher found."""

    capabilities: dict[str, Any]
    problem: str | None
    """Why no job can run there, as the end of a sentence."""


def parse_probe(text: str, runner: str) -> Probe:
    """Read the reply to ``probe``; ``runner`` is what runs jobs there."""
    tools: list[str] = []
    versions: dict[str, str] = {}
    found: dict[str, Any] = {"tools": tools, "versions": versions, "runner": runner}
    problem = None
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word == "cores" and rest.strip().isdigit():
            found["cores"] = max(int(rest), 1)
        elif word in ("os", "arch"):
            found[word] = rest.strip()
        elif word == "problem":
            problem = explain_problem(rest)
        elif word == "tool":
            tool, _, said = rest.partition(" ")
            tools.append(tool)
            version = _VERSION.search(said)
            if version is not None:
                versions[tool] = version[0][:64]
    return Probe(found, problem)


def limits_of(runner: str) -> list[str]:
    """What jobs on a node lack that jobs here have."""
    common = ["Limits of memory and CPU, terminals and open standard inputs are refused there."]
    if runner == "shim":
        return common
    return [
        "The shim does not run there: a shell script runs its jobs.",
        "A process that leaves its session and clears its environment outlives a cancel; "
        "without /proc, so does each that leaves its process group.",
        "Output is not bounded there; it is bounded here.",
        "A program that a signal ended is reported with the exit code 128+n, and a full disk there loses the code.",
        *common,
    ]
