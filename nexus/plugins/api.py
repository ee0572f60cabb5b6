"""What a plugin written in Python imports: the hook marker, ``Veto`` and the version of this interface.

It knows neither the daemon nor how a plugin is loaded. It is the only module of this package with a stable interface.
"""

from __future__ import annotations

from typing import NamedTuple

import pluggy

__all__ = ["API_VERSION", "PROJECT", "Veto", "hookimpl"]

API_VERSION = 1
"""The value that a plugin's ``NEXUS_PLUGIN_API`` must have."""

PROJECT = "nexus"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's ``pre_command``, ``pre_start_command`` and ``extra``."""


class Veto(NamedTuple):
    """Returned by a hook to refuse the command or the start. The client that sent the request is shown the reason."""

    reason: str
