"""What a plugin written in Python imports: the mark of a hook, the veto, and the number of this interface.

It knows neither the daemon nor how a plugin is loaded. It is the one module here whose names are promised to others.
"""

from __future__ import annotations

from typing import NamedTuple

import pluggy

__all__ = ["API_VERSION", "PROJECT", "Veto", "hookimpl"]

API_VERSION = 1
"""What a plugin's ``NEXUS_PLUGIN_API`` must be."""

PROJECT = "nexus"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's ``pre_command``, ``pre_start_command`` and ``extra``."""


class Veto(NamedTuple):
    """Result by a hook: it must not be done. The reason is shown to whoever asked for it."""

    reason: str
