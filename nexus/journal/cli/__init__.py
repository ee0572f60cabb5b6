"""``nexusctl events`` and ``nexusctl op``: what happened, and what led to it."""

from nexus.journal.cli.events import events
from nexus.journal.cli.operations import op

__all__ = ["events", "op"]
