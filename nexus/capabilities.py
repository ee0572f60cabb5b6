"""The list of capabilities, in order, each with its nouns on the command line.

It is static: ``nexusctl`` prints help and completes nouns from it without importing any capability. A capability is the
package ``nexus.<name>`` with the modules ``commands``, ``handlers``, ``cli`` (one click command for each of its
``nouns``) and, if they are set, ``manager``, ``manifest`` and ``files``.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

__all__ = ["CAPABILITIES", "Capability", "Noun", "file_sets"]


class Noun(NamedTuple):
    """A top-level word of the command line."""

    name: str
    help: str
    aliases: tuple[str, ...] = ()


class Capability(NamedTuple):
    """A capability: the name of its package, and its nouns on the command line."""

    name: str
    nouns: tuple[Noun, ...]
    manager: bool = False
    """Whether it has a ``manager`` module, which makes what runs match the records."""
    manifest: bool = False
    """Whether it has a ``manifest`` module, with its section of ``nexus.toml``."""
    files: bool = False
    """Whether it has a ``files`` module, with the files beside the database that its rows refer to."""


CAPABILITIES: tuple[Capability, ...] = (
    Capability(
        "system",
        (
            Noun("status", "Show the status of the daemon and its database."),
            Noun("settings", "Read and change the daemon's settings.", ("setting",)),
        ),
        manager=True,
    ),
    Capability(
        "journal",
        (
            Noun("events", "Show events, and follow new ones."),
            Noun("op", "Show operations: what was done, by whom and why.", ("operation", "operations", "ops")),
        ),
    ),
    Capability("plugins", (Noun("plugin", "List, reload and call plugins.", ("plugins",)),)),
    Capability(
        "services", (Noun("service", "Manage services.", ("svc", "services")),), manager=True, manifest=True, files=True
    ),
    Capability(
        "jobs",
        (
            Noun("job", "Run commands from a queue.", ("jobs",)),
            Noun("group", "Manage the groups of jobs.", ("groups",)),
            Noun("schedule", "Run jobs by the clock.", ("schedules",)),
        ),
        manager=True,
        manifest=True,
        files=True,
    ),
    Capability("nodes", (Noun("node", "Manage the hosts that jobs run on.", ("nodes",)),), manager=True, manifest=True),
    Capability(
        "conversations",
        (
            Noun("conversation", "Manage conversations.", ("conv", "conversations")),
            Noun("message", "Add, show and edit messages.", ("messages",)),
        ),
        manager=True,
        files=True,
    ),
    Capability(
        "search",
        (Noun("search", "Search messages, jobs, features, tasks and the rest."),),
        manager=True,
    ),
    Capability("projects", (Noun("project", "Manage projects.", ("projects",)),), manifest=True),
    Capability(
        "ledger",
        (
            Noun("agent", "Manage the agents that claim tasks.", ("agents",)),
            Noun("task", "Manage tasks: what is to be done, and who does it.", ("tasks",)),
            Noun("feature", "Manage features.", ("features",)),
            Noun("sub-feature", "Manage the parts of features.", ("sub-features",)),
            Noun("requirement", "Manage requirements.", ("requirements",)),
            Noun("session", "Manage sessions.", ("sessions",)),
            Noun("lease", "See who holds what, and take it away.", ("leases",)),
            Noun("metric", "Record and sum what is measured.", ("metrics",)),
        ),
        manager=True,
    ),
    Capability(
        "memory",
        (
            Noun("chunk", "Index the code of a project, and find its parts.", ("chunks",)),
            Noun("continue-point", "See where the work on tasks was left.", ("continue-points", "cp")),
            Noun("episode", "Keep and find what was learned.", ("episodes",)),
            Noun("memory", "Search what a project remembers."),
            Noun("vectors", "Search embeddings, and see which there are.", ("vector",)),
        ),
        manager=True,
    ),
    Capability(
        "checkpoints",
        (Noun("checkpoint", "Keep what a project's plan is, and go back to it.", ("checkpoints",)),),
        manager=True,
    ),
    Capability("vms", (Noun("vm", "Manage virtual machines.", ("vms",)),), manifest=True),
)


def file_sets() -> tuple[Any, ...]:
    """Every ``FileSet`` of ``nexus.store.files`` that a capability declares. It imports these capabilities."""
    modules = [importlib.import_module(f"nexus.{each.name}.files") for each in CAPABILITIES if each.files]
    return tuple(files for module in modules for files in module.FILES)
