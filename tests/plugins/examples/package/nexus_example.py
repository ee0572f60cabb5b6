"""Counts commands and reports the counts: a plugin in an installed package."""

from collections import Counter

from nexus.plugins.api import hookimpl


class Statistics:
    NEXUS_PLUGIN_API = 1
    NEXUS_EXTRAS = ("statistics",)

    def __init__(self):
        self.commands = Counter()

    @hookimpl
    def pre_command(self, command):
        self.commands[command] += 1

    @hookimpl
    def extra(self, name, body):
        return dict(self.commands)


plugin = Statistics()
