"""The names of the hooks, and the exceptions that stand for a plugin's outcome inside the plugins' process.

It knows neither how a plugin is loaded nor how a hook is called.
"""

from __future__ import annotations

__all__ = ["HOOKS", "InvalidPlugin", "PluginError", "PluginRaised", "PluginVeto"]

HOOKS = ("pre_command", "pre_start_command", "extra")


class InvalidPlugin(Exception):
    """A plugin cannot be loaded, or a hook returned a value that is not allowed. The message says why."""


class PluginRaised(Exception):
    """A plugin raised an error: its text, and the file and line where it was raised."""

    def __init__(self, text: str, location: str) -> None:
        super().__init__(text)
        self.location = location


class PluginError(Exception):
    """A plugin failed while it was loaded or called."""

    def __init__(self, plugin: str, reason: str, *, unusable: bool = False) -> None:
        super().__init__(reason)
        self.plugin = plugin
        self.reason = reason
        self.unusable = unusable
        """Whether the process must be replaced."""


class PluginVeto(Exception):
    """A hook returned a ``Veto``."""

    def __init__(self, plugin: str, reason: str) -> None:
        super().__init__(reason)
        self.plugin = plugin
        self.reason = reason
