"""The list of capabilities, in order: what the daemon can do and which words the command line has for it.

It is static text on purpose: ``nexusctl`` prints its help and completes its words from here without importing any of
them. A capability is the package ``nexus.<name>`` with the modules that architecture calls for: ``commands``,
``handlers``, perhaps ``manager``, and ``cli`` with one click command for each of its ``nouns``.
"""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["CAPABILITIES", "Capability", "Noun"]


class Noun(NamedTuple):
    """A word of the command line at its top level."""

    name: str
    help: str
    aliases: tuple[str, ...] = ()


class Capability(NamedTuple):
    """One folder: what it is called and the words it has on the command line."""

    name: str
    nouns: tuple[Noun, ...]
    manager: bool = False
    """Whether it has a ``manager`` module, which keeps its records and the world the same."""


CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "system",
        (
            Noun("status", "Show whether the daemon runs, and its database."),
            Noun("settings", "Read and change the daemon's settings.", ("setting",)),
        ),
    ),
    Capability("journal", (Noun("events", "Show what happened, and follow what happens."),)),
    Capability("plugins", (Noun("plugin", "See, reload and call plugins.", ("plugins",)),)),
    Capability("services", (Noun("service", "Manage services.", ("svc", "services")),), manager=True),
    Capability("vms", (Noun("vm", "Manage virtual machines.", ("vms",)),)),
)
