"""``nexusctl conversation`` and ``nexusctl message``."""

from __future__ import annotations

from nexus.conversations.cli.conversations import conversation
from nexus.conversations.cli.messages import message

__all__ = ["conversation", "message"]
