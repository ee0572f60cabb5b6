"""Plugins: programs of the user's own that are asked before a command, or before a service starts, and may veto it.

They run in one process beside the daemon, with limits of time and memory. Hello, Ping, Health, Describe, Shutdown,
ListPlugins and ReloadPlugins are never shown to them; every other command may be refused with ``plugin.vetoed``, where
a plugin does not want it, or with ``plugin.failed``, where one broke while it was asked.
"""
