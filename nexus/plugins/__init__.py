"""Plugins: the user's own programs, called before a command or before a service starts, which may veto it.

They run in one process beside the daemon, with limits of time and memory. Plugins are never called before Hello, Ping,
Health, Describe, Shutdown, ListPlugins and ReloadPlugins. Every other command may be refused with ``plugin.vetoed``
when a plugin vetoes it, or with ``plugin.failed`` when a plugin fails while it is called.
"""
