"""The public contract of plugins: the record of a plugin, the commands, the errors."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta
from nexus_protocol.command import UNRECORDED, Command, Effect, Record, Repeat, WireEnum, command
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
    """Whether a plugin is loaded, and so is called."""

    LOADED = "loaded"
    FAILED = "failed"


class PluginVetoed(FailedPrecondition):
    """A plugin vetoed the command; ``details`` has ``plugin`` and ``reason``."""

    type = "plugin.vetoed"


class PluginFailed(FailedPrecondition):
    """A plugin raised an error, hung, exited or ran out of memory; ``details`` has ``plugin`` and ``reason``."""

    type = "plugin.failed"


class PluginsDisabled(FailedPrecondition):
    """This daemon was started without plugins."""

    type = "plugin.disabled"


class ExtraNotClaimed(NotFound):
    """No plugin claims this name."""

    type = "plugin.not_claimed"


class Plugin(Record):
    """One plugin, as it was loaded or refused."""

    name: str
    kind: PluginKind
    state: PluginState
    hooks: list[str]
    """The hooks that it has: pre_command, pre_start_command, extra."""
    extras: list[str]
    """The names that it claims for Extra."""
    path: str | None = None
    """Its file, or the object that an entry point names."""
    reason: str | None = None
    """Why it failed."""


class PluginList(Record):
    """The plugins, sorted by name, and the directory of their files."""

    enabled: bool
    directory: str
    """The directory that is searched for plugin files."""
    plugins: list[Plugin]
    problem: str | None = None
    """Why no plugin of the directory was loaded, or why the plugins' process does not run."""
    pid: int | None = None
    """The process that the plugins run in; absent when there is none."""


class ExtraReply(Record):
    """The value that a plugin returned."""

    body: Annotated[Any, UNRECORDED] = None


@command(52, Effect.READ)
class ListPlugins(Command[PluginList]):
    """List the plugins, with those that could not be loaded and why."""


@command(53, Effect.ACT, errors=(PluginsDisabled,), repeat=Repeat.AGAIN, in_project=False)
class ReloadPlugins(Command[PluginList]):
    """Load the plugins again in a new process, which replaces the old one when it has loaded them."""


@command(0xFF00, Effect.ACT, errors=(ExtraNotClaimed, PluginFailed, PluginVetoed), repeat=Repeat.REFUSE)
class Extra(Command[ExtraReply]):
    """Call the plugin that claims this name."""

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
    body: Annotated[Any, Meta(description="any value that the plugin accepts"), UNRECORDED] = None
