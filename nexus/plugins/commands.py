"""The public contract of plugins: what is known of each, the commands, the errors."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import Command, Record, WireEnum, command
from nexus_protocol.errors import FailedPrecondition, NotFound

__all__ = [
    "Extra",
    "ExtraNotClaimed",
    "ExtraReply",
    "ListPlugins",
    "Plugin",
    "PluginFailed",
    "PluginKind",
    "PluginList",
    "PluginState",
    "PluginVetoed",
    "PluginsDisabled",
    "ReloadPlugins",
]


class PluginKind(WireEnum):
    """Where a plugin comes from."""

    ENTRY_POINT = "entry_point"
    PYTHON = "python"
    LUA = "lua"


class PluginState(WireEnum):
    """Whether a plugin is asked."""

    LOADED = "loaded"
    FAILED = "failed"


class PluginVetoed(FailedPrecondition):
    """A plugin does not want it; ``details`` has ``plugin`` and ``reason``."""

    type = "plugin.vetoed"


class PluginFailed(FailedPrecondition):
    """A plugin raised, hung, ended or ate its memory while it was asked; ``details`` has ``plugin`` and ``reason``."""

    type = "plugin.failed"


class PluginsDisabled(FailedPrecondition):
    """This daemon was started without plugins."""

    type = "plugin.disabled"


class ExtraNotClaimed(NotFound):
    """No plugin claims this name."""

    type = "plugin.not_claimed"


class Plugin(Record):
    """What is known of one plugin."""

    name: str
    kind: PluginKind
    state: PluginState
    hooks: list[str]
    """Of pre_command, pre_start_command and extra, those that it has."""
    extras: list[str]
    """The names that it claims for Extra."""
    path: str | None = None
    """Its file, or for an entry point the object that it names."""
    reason: str | None = None
    """Why it failed."""


class PluginList(Record):
    """The plugins by name, and where they come from."""

    enabled: bool
    directory: str
    """Where their files are looked for."""
    plugins: list[Plugin]
    problem: str | None = None
    """Why nothing was taken from the directory, or why the plugins' process does not run."""
    pid: int | None = None
    """Of the process that they run in, where there is one."""


class ExtraReply(Record):
    """What a plugin answers."""

    body: Any = None


@command(52)
class ListPlugins(Command[PluginList]):
    """List the plugins, with those that were refused and why."""


@command(53, errors=(PluginsDisabled,))
class ReloadPlugins(Command[PluginList]):
    """Load the plugins again, in a new process that takes over once it has loaded what can be loaded."""


@command(0xFF00, errors=(ExtraNotClaimed, PluginFailed, PluginVetoed))
class Extra(Command[ExtraReply]):
    """Do what a plugin does under this name."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=128,
            pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$(?!\n)",
            description="1 to 128 of A-Z a-z 0-9 . _ -, the first a letter or digit",
            extra={"metavar": "NAME", "completes": "extra"},
        ),
    ]
    body: Annotated[Any, Meta(description="anything that the plugin takes")] = None
